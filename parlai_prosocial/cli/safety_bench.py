"""``prosocial safety-bench``: ParlAI's Safety Bench over any model."""

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

    \b
    Example:
      prosocial safety-bench --model runs/own/model --tests generate --out runs/bench
    """
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.evaluation import safety_bench as bench
    from parlai_prosocial.evaluation.results.tables import terminal_table

    chosen = TESTS if tests == "all" else (tests,)
    out.mkdir(parents=True, exist_ok=True)
    results = bench.run_safety_bench(model, chosen, find_datapath(datapath), out, batchsize)
    table = bench.results_table(model, results)
    bench.write_results(out, model, results, table)
    click.echo(terminal_table(table))
    click.echo(
        f"Written: {out / 'results.json'}, {out / 'results.md'}, and all replies beside them"
    )
