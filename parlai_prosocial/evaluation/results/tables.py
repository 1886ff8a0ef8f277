"""Result tables: one JSON-serialisable dict, shown in Markdown or in a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from parlai_prosocial.evaluation.statistics.bootstrap import Interval

TOO_SMALL = "too small to conclude"
TOO_FEW = "too few to conclude"


def make_table(
    title: str,
    columns: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Build the dict that is written to JSON and rendered; no number is rounded in it.

    Args:
        title: one line.
        columns: key -> ``label``, and for numbers ``scale`` (100 turns shares into per cent; 1 if
            not given) and ``digits`` after the point (1 if not given). Shown in this order.
        rows: key -> str, bool, number, :class:`Interval` or None (shown as "-"); a missing key is
            None. An Interval with a null is a comparison.
        notes: lines below the table.

    Raises:
        ValueError: a row has a key that is no column.
    """
    for row in rows:
        if unknown := row.keys() - columns.keys():
            raise ValueError(f"no column {', '.join(sorted(unknown))} in table {title!r}")
    return {
        "title": title,
        "columns": {key: dict(column) for key, column in columns.items()},
        "rows": [{key: _plain(value) for key, value in row.items()} for row in rows],
        "notes": list(notes),
    }


def markdown_table(table: Mapping[str, Any]) -> str:
    """Render a table of :func:`make_table`, or of the JSON it was written to, as Markdown.

    >>> print(markdown_table(make_table(
    ...     "Ranking",
    ...     {"model": {"label": "model"}, "gain": {"label": "gain, points", "scale": 100}},
    ...     [
    ...         {"model": "MLE"},
    ...         {"model": "n-pair", "gain": Interval(0.05, 0.01, 0.09, null=0, p_value=0.02)},
    ...         {"model": "other", "gain": Interval(0.02, -0.01, 0.05, null=0, p_value=0.2)},
    ...     ],
    ... )))
    ### Ranking
    <BLANKLINE>
    | model | gain, points |
    |:--|--:|
    | MLE | - |
    | n-pair | +5.0 [+1.0, +9.0] |
    | other | +2.0 [-1.0, +5.0] too small to conclude |
    """
    header, *body = table_cells(table)
    numeric = numeric_columns(table)
    lines = [f"### {table['title']}", "", _markdown_row(header)]
    lines.append("|" + "|".join("--:" if number else ":--" for number in numeric) + "|")
    lines += [_markdown_row(row) for row in body]
    for note in table["notes"]:
        lines += ["", note]
    return "\n".join(lines)


def terminal_table(table: Mapping[str, Any]) -> str:
    """Render a table as plain text, aligned: text to the left, numbers to the right.

    >>> print(terminal_table(make_table(
    ...     "Ranking",
    ...     {"model": {"label": "model"}, "accuracy": {"label": "%", "scale": 100}},
    ...     [{"model": "MLE", "accuracy": 0.534}, {"model": "reply only", "accuracy": 0.6}],
    ... )))
    Ranking
    model          %
    ----------  ----
    MLE         53.4
    reply only  60.0
    """
    header, *body = table_cells(table)
    numeric = numeric_columns(table)
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    rows = [header, ["-" * width for width in widths], *body]
    lines = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([table["title"], *lines, *table["notes"]])


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Interval) else value


def table_cells(table: Mapping[str, Any]) -> list[list[str]]:
    """The header, then the rows, as text."""
    header = [column["label"] for column in table["columns"].values()]
    body = [
        [_cell(row.get(key), column) for key, column in table["columns"].items()]
        for row in table["rows"]
    ]
    return [header, *body]


def numeric_columns(table: Mapping[str, Any]) -> list[bool]:
    """Whether a column holds no text, and so stands to the right."""
    return [
        not any(isinstance(row.get(key), str) for row in table["rows"]) for key in table["columns"]
    ]


def _cell(value: Any, column: Mapping[str, Any]) -> str:
    scale, digits = column.get("scale", 1), column.get("digits", 1)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int) and scale == 1:
        return f"{value:,}"
    if not isinstance(value, Mapping):
        return f"{scale * value:.{digits}f}"

    interval = Interval(**value)
    sign = "+" if interval.null == 0 else ""
    estimate, low, high = (
        f"{scale * number:{sign}.{digits}f}"
        for number in (interval.estimate, interval.low, interval.high)
    )
    text = f"{estimate} [{low}, {high}]"
    if interval.null is None or interval.conclusive:
        return text
    return f"{text} {TOO_FEW if interval.p_value is None else TOO_SMALL}"


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(escaped) + " |"
