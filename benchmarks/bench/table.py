"""The results as Markdown, and the parts of them in the README and the docs."""

from collections.abc import Callable
from typing import Any

from benchmarks.bench.job import Row, Target
from parlai_prosocial.errors import UserError

BEGIN = "<!-- made by `python -m benchmarks.bench --readme`: begin -->"
END = "<!-- end -->"
MEASURES = {"cpu": "CPU seconds", "wall": "seconds", "peak": "peak memory"}


def verdict(row: dict[str, Any]) -> str:
    """Whether the target was met, where there is one and the row was measured."""
    if "ratio" not in row or not row["target"]:
        return ""
    target = Target(**row["target"])
    return f"{target}: {'met' if target.met(row['ratio']['median']) else 'missed'}"


def number(ratio: dict[str, float], digits: int = 2) -> str:
    median, low, high = (f"{ratio[name]:.{digits}f}" for name in ("median", "low", "high"))
    return median if low == high else f"{median} [{low}, {high}]"


def shown_ratio(row: dict[str, Any]) -> str:
    ratio = row["ratio"]
    text = number(ratio, 3 if ratio["median"] < 0.1 else 2)
    if row["faster"]:
        return f"{text} times as fast"
    return f"{text} times its {'memory' if row['measure'] == 'peak' else 'time'}"


def amount(row: dict[str, Any], side: str) -> str:
    """A side's median, in the row's own measure."""
    value = row[side][row["measure"]]
    return f"{value / 1e9:.2f} GB" if row["measure"] == "peak" else f"{value:.2f} s"


def markdown(result: dict[str, Any]) -> str:
    """All rows, and the line on the machine."""
    lines = [
        "# Beside what a user would pick instead",
        "",
        f"Made by `{result['command']}`. {result['machine']}.",
        "",
        "A ratio is the median over the pairs, with its range; both sides have the same weights "
        "and text, and their losses agree to 1e-3 in float32, or the row is refused. "
        "Sides take turns, A B B A. CPU seconds are the measure unless the row says another.",
        "",
        "| row | against | ratio | pairs | ours | theirs | by the clock | target |",
        "|:--|:--|:--|--:|--:|--:|:--|:--|",
    ]
    for row in result["rows"]:
        begin = f"| {row['what']} | {row['peer']} |"
        if "ratio" not in row:
            lines.append(f"{begin} {row['status']}: {row['why']} | | | | | |")
            continue
        clock = "" if row["measure"] != "cpu" else number(row["wall_ratio"])
        measure = "" if row["measure"] == "cpu" else f" ({MEASURES[row['measure']]})"
        lines.append(
            f"{begin} {shown_ratio(row)}{measure} | {row['pairs']} | {amount(row, 'ours')} "
            f"| {amount(row, 'theirs')} | {clock} | {verdict(row)} |"
        )
    return "\n".join(lines) + "\n"


def is_of_readme(row: dict[str, Any]) -> bool:
    return row["shown"]


def is_effect(row: dict[str, Any]) -> bool:
    """Whether a row says what a setting changes by itself, ours against ours."""
    return row["name"].startswith(("flag-", "negatives-"))


PARTS = {"README.md": is_of_readme, "docs/performance.md": is_effect}
"""Files with a table made of the results, and which rows stand in it."""


def part(result: dict[str, Any], stands: Callable[[dict[str, Any]], bool]) -> str:
    """The rows that stand in a file, between their two marks."""
    lines = [BEGIN, "| | against | |", "|:--|:--|--:|"]
    for row in result["rows"]:
        if stands(row) and "ratio" in row:
            lines.append(f"| {row['what']} | {row['peer']} | {shown_ratio(row)} |")
    return "\n".join([*lines, "", result["machine"] + ".", END])


def with_part(file: str, text: str, result: dict[str, Any]) -> str:
    """The text of one of :data:`PARTS` with its table made anew.

    Raises:
        UserError: its marks are not there.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{file}: has no {BEGIN} and {END}; put them where the table belongs")
    return head + part(result, PARTS[file]) + tail


def row_facts(row: Row) -> dict[str, Any]:
    """What JSON has of a row before it is measured."""
    target = row.target and {
        name: value for name, value in vars(row.target).items() if value is not None
    }
    return {
        "name": row.name,
        "what": row.what,
        "peer": row.peer,
        "measure": row.measure,
        "faster": row.faster,
        "target": target,
        "shown": row.shown,
    }
