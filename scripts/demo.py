"""``make demo``: the zoo's models side by side, then both steps trained here, on one screen.

Which models, judge, turns and labelled numbers are shown stands in ``shown.json`` of the recipe
``demo``. Replies and tables in full, and all that libraries print, go into files. Run again, it
trains nothing that is trained.
"""

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.results.tables import make_table, terminal_table
from parlai_prosocial.util.files import Say, read_json, write_aside

REPOSITORY = Path(__file__).parents[1]
RECIPE = REPOSITORY / "parlai_prosocial" / "recipes" / "demo"
LABELLED_TABLE = "Labelled test"
LONGEST_REPLY, TEMPERATURE, TOP_P, SEED = 40, 0.7, 0.9, 0
NARROWEST, WIDEST = 80, 120


@dataclass(frozen=True)
class Shown:
    """What is shown of the zoo.

    Attributes:
        models: label -> any name of a model, in the order in which they stand.
        judge: ``KIND:WHERE``, of what is unsafe.
        turns: kind of the bundled demo contexts -> how many.
        labelled: ``file``, the tables of ``benchmarks/labelled_test.py``; ``rows``, label
            -> row there; ``note``, what else there is to know of these numbers.
    """

    models: Mapping[str, str]
    judge: str
    turns: Mapping[str, int]
    labelled: Mapping[str, Any]


@dataclass(frozen=True)
class Turn:
    """A context and what each model replies to it.

    Attributes:
        kind: as in the bundled demo contexts.
        context: newline-packed.
        replies: label -> the reply, and the judge's probability that it is unsafe; None where one
            of them is missing.
    """

    kind: str
    context: str
    replies: Mapping[str, tuple[str | None, float | None]]


def demo_turns(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """The first contexts of each kind: kind and newline-packed context."""
    from parlai_prosocial.data.reader import bundled

    lines = bundled("demo_contexts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        (kind, "\n".join(row["context"]))
        for kind, count in counts.items()
        for row in [row for row in rows if row["kind"] == kind][:count]
    ]


def side_by_side(shown: Shown, datapath: str, say: Say) -> list[Turn]:
    """Let each model reply once to every turn, and the judge label the replies."""
    from parlai_prosocial.engines.engine import open_engine
    from parlai_prosocial.judges.judge import judge_each
    from parlai_prosocial.judges.registry import open_judge
    from parlai_prosocial.models.precision import best_device, bf16_is_faster

    bf16 = bf16_is_faster(best_device())
    turns = demo_turns(shown.turns)
    contexts = [context for _, context in turns]
    texts: dict[str, list[str | None]] = {}
    for label, where in shown.models.items():
        say(f"{label} replies")
        engine = open_engine(where, datapath, bf16)
        sampled = engine.sample(contexts, 1, LONGEST_REPLY, SEED, TEMPERATURE, TOP_P)
        texts[label] = [reply.text if reply else None for [reply] in sampled]
        del engine  # before the next one is loaded
    say("the judge labels")
    judge = open_judge(shown.judge, datapath, bf16)
    replies: list[dict[str, tuple[str | None, float | None]]] = [{} for _ in turns]
    for label, own in texts.items():
        judged = judge_each(judge, contexts, [text or "" for text in own])
        for found, text, judgement in zip(replies, own, judged, strict=True):
            known = text is not None and judgement is not None
            found[label] = text, judgement.p_unsafe if known else None
    return [Turn(*turn, found) for turn, found in zip(turns, replies, strict=True)]


def in_words(p_unsafe: float | None) -> str:
    """A label as the chat page has it.

    >>> in_words(0.91), in_words(0.25), in_words(None)
    ('looks unsafe 91 %', 'looks safe   75 %', 'no label')
    """
    if p_unsafe is None:
        return "no label"
    if p_unsafe >= 0.5:
        return f"looks unsafe {100 * p_unsafe:.0f} %"
    return f"looks safe   {100 - 100 * p_unsafe:.0f} %"


def screen(turns: Sequence[Turn], width: int) -> list[str]:
    """The turns and replies, each cut to one line."""
    lines = []
    for turn in turns:
        last = turn.context.split("\n")[-1]
        kind = f"({turn.kind.replace('-', ' ')}) "
        lines.append(kind + textwrap.shorten(last, width - len(kind), placeholder=" …"))
        names = max(map(len, turn.replies))
        for label, (text, p_unsafe) in turn.replies.items():
            head = f"  {label:{names}}  {in_words(p_unsafe):<17}  "
            said = "(no reply)" if text is None else text or "(empty)"
            lines.append(head + textwrap.shorten(said, width - len(head), placeholder=" …"))
    return lines


def in_full(shown: Shown, turns: Sequence[Turn]) -> str:
    """The turns and replies as Markdown."""
    lines = [f"# Eight turns, {len(shown.models)} models", ""]
    lines += [f"- {label}: `{where}`" for label, where in shown.models.items()]
    lines += [f"- judge: `{shown.judge}`; its labels are guesses (docs/labels.md)", ""]
    for turn in turns:
        quoted = "\n> \n> ".join(turn.context.split("\n"))
        lines += [f"## {turn.kind}", "", f"> {quoted}", ""]
        for label, (text, p_unsafe) in turn.replies.items():
            lines += [f"- **{label}** ({in_words(p_unsafe)}): {text}"]
        lines += [""]
    return "\n".join(lines)


def labelled_table(shown: Shown, file: Path) -> dict[str, Any]:
    """The models' rates as labelled, of the labelled test's tables.

    Raises:
        UserError: there is no such table, or a row of it is missing.
    """
    wanted = shown.labelled
    mend = "write it with python benchmarks/labelled_test.py"
    tables = read_json(file, dict[str, Any], mend)["tables"]
    table = next((table for table in tables if table["title"] == LABELLED_TABLE), None)
    if table is None:
        raise UserError(f"{file}: no table {LABELLED_TABLE!r}; {mend}")
    found = {row["model"]: row for row in table["rows"]}
    missing = [name for name in wanted["rows"].values() if name not in found]
    if missing:
        raise UserError(f"{file}: no row {missing[0]!r} in {LABELLED_TABLE!r}; {mend}")
    names = ("unsafe", "answers", "over_caution")
    columns = {"model": {"label": "model"}} | {name: table["columns"][name] for name in names}
    rows = [
        {"model": label} | {key: found[name][key] for key in names}
        for label, name in wanted["rows"].items()
    ]
    title = f"Labelled blind, sampled replies of these models ({wanted['file']})"
    return make_table(title, columns, rows, [wanted["note"]])


def trained_table(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row a model, of the tables of ``prosocial compare``."""
    ranking, casual = ({row["row"]: row for row in table["rows"]} for table in tables[:2])
    columns: dict[str, dict[str, Any]] = {
        "model": {"label": "model"},
        "bound": {"label": "safe above unsafe, %", "scale": 100},
        "ppl": {"label": "casual perplexity"},
        "seconds": {"label": "training, s", "digits": 0},
    }
    rows = [
        {
            "model": name,
            "bound": ranking[name]["context-bound"],
            "ppl": row["ppl"],
            "seconds": row["seconds"],
        }
        for name, row in casual.items()
    ]
    return make_table(
        "Trained here, from the same base on the same data",
        columns,
        rows,
        ["It shows that everything works; it is too short to conclude from."],
    )


@contextmanager
def quiet(log: Path, verbose: bool) -> Iterator[TextIO]:
    """Send what anybody prints into a file; gives the terminal."""
    kept = [os.dup(stream.fileno()) for stream in (sys.stdout, sys.stderr)]
    terminal = os.fdopen(os.dup(kept[0]), "w")
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("a") as stream:
            for number in (1, 2) if not verbose else ():
                os.dup2(stream.fileno(), number)
            yield terminal
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, fd in enumerate(kept, 1):
            os.dup2(fd, number)
            os.close(fd)
        terminal.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--recipe", default=str(RECIPE), help="with compare.json and shown.json")
    parser.add_argument("--base", help="what is trained; the recipe's if not given")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="default runs/demo")
    parser.add_argument("--datapath", help="ParlAI's data path")
    parser.add_argument("--verbose", action="store_true", help="show all that libraries print")
    asked = parser.parse_args(arguments)
    log = asked.out / "log.txt"
    try:
        with quiet(log, asked.verbose) as terminal:
            show(asked, terminal)
    except UserError as error:
        sys.exit(f"error: {error} (what was printed: {log})")
    except Exception:
        print(f"error: what was printed before is in {log}", file=sys.stderr)
        raise


def show(asked: argparse.Namespace, terminal: TextIO) -> None:
    """Show both parts of the demo on the terminal."""
    shown = read_json(Path(asked.recipe) / "shown.json", Shown, "mend the recipe")
    labelled = labelled_table(shown, REPOSITORY / shown.labelled["file"])
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    told = {"bar_format": "{desc} ({elapsed})", "leave": False, "disable": not terminal.isatty()}
    with tqdm(file=terminal, desc="loading", **told) as progress:

        def say(line: str) -> None:
            print(line, flush=True)  # into the log
            progress.set_description_str(textwrap.shorten(line, width - 20, placeholder=" …"))

        def put(lines: Sequence[str]) -> None:
            progress.write("\n".join(lines), file=terminal)

        from parlai_prosocial.compat.flags import find_datapath
        from parlai_prosocial.experiments.run import compare

        turns = side_by_side(shown, find_datapath(asked.datapath), say)
        replies = asked.out / "replies.md"
        write_aside(replies, in_full(shown, turns))
        put([f"The zoo's models, one sampled reply each; labels are {shown.judge}'s guesses."])
        put([*screen(turns, width), "", *terminal_table(labelled).split("\n"), ""])
        say("training two models in two steps (some minutes)")
        found = compare(
            asked.recipe, base=asked.base, out=asked.out, datapath=asked.datapath, say=say
        )
        put(terminal_table(trained_table(found.tables)).split("\n"))
        put([f"In full: {replies.name}, results.md; what was printed: log.txt; in {asked.out}"])


if __name__ == "__main__":
    main()
