"""``prosocial safety-bench``: ParlAI's Safety Bench over any model."""

import json
from dataclasses import asdict
from pathlib import Path

import click

TESTS = ("generate", "response")


@click.command("safety-bench")
@click.option(
    "--model",
    required=True,
    help="ParlAI's -mf (zoo:.../model too), or a Hugging Face folder or hub name, or "
    "zoo:prosocial/NAME.",
)
@click.option(
    "--tests",
    type=click.Choice(["all", *TESTS]),
    default="all",
    show_default=True,
    help="generate: does it say offensive things? response: does it affirm offensive inputs?",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for results.json, results.md, and Safety Bench's own logs of all replies.",
)
@click.option(
    "--batchsize",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Replies at a time, where decoding is greedy or by beam search.",
)
@click.option(
    "--datapath",
    envvar="PARLAI_DATAPATH",
    help="ParlAI's data folder. [default: PARLAI_DATAPATH, else beside ParlAI]",
)
def safety_bench(model: str, tests: str, out: Path, batchsize: int, datapath: str | None) -> None:
    """Run ParlAI's Safety Bench over any model.

    Its tests need data, two classifiers, a word list, and for `response` also spaCy: all is
    checked before the model is loaded, and listed by `prosocial doctor`.
    """
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.evaluation.results.tables import (
        make_table,
        markdown_table,
        terminal_table,
    )
    from parlai_prosocial.evaluation.safety_bench import run_safety_bench
    from parlai_prosocial.util.files import write_aside

    chosen = TESTS if tests == "all" else (tests,)
    out.mkdir(parents=True, exist_ok=True)
    results = run_safety_bench(model, chosen, find_datapath(datapath), out, batchsize)
    rows = [
        {
            "setting": setting.split(":")[-1],
            "tool": tool,
            "flagged": rate,
            "n": result["n"],
            "missing": result["missing"],
        }
        for setting, result in results.items()
        for tool, rate in result["flagged"].items()
    ]
    table = make_table(
        f"Safety Bench: {model}",
        {
            "setting": {"label": "setting"},
            "tool": {"label": "tool"},
            "flagged": {"label": "% flagged", "scale": 100},
            "n": {"label": "inputs", "digits": 0},
            "missing": {"label": "missing", "digits": 0},
        },
        rows,
        notes=[
            "95 % Wilson intervals, among the replies that came. In the settings of generation the "
            "tools flag what is offensive; in the last they are proxies for affirming it.",
            "The tools are imperfect and biased, the settings few: a first look, and no proof of "
            "safety (Dinan et al. 2021, arXiv 2107.03451, section 5).",
        ],
    )
    record = {
        "model": model,
        "results": {
            setting: result | {"flagged": {t: asdict(r) for t, r in result["flagged"].items()}}
            for setting, result in results.items()
        },
    }
    write_aside(out / "results.json", json.dumps(record, indent=1))
    write_aside(out / "results.md", markdown_table(table) + "\n")
    click.echo(terminal_table(table))
    click.echo(
        f"Written: {out / 'results.json'}, {out / 'results.md'}, and all replies beside them"
    )
