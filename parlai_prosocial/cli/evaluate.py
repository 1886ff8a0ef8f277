"""``prosocial evaluate``: models' replies to suites of contexts, judged, counted and compared."""

from pathlib import Path
from typing import Any

import click

from parlai_prosocial.evaluation.run import (
    carry_out,
    log_of,
    make_plan,
    refuse_missing,
    shared_options,
    show,
    write,
)


@click.command()
@click.option(
    "--suite",
    "suites",
    multiple=True,
    required=True,
    help="all, adversarial, casual, casual_out, safe_but_scary, twins, twins_test, prosocial, mic, "
    "mic_attributes, or a file of your own data.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder."
)
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="An HTML file.")
@click.option(
    "--limit",
    multiple=True,
    help="[SUITE:]N, repeatable: most contexts of each suite or of one, evenly spread.",
)
@shared_options
def evaluate(
    models: tuple[str, ...], suites: tuple[str, ...], out: Path, report: Path | None, **flags: Any
) -> None:
    """Let models reply to suites of contexts, have the replies judged, and compare the models.

    OUT/log.jsonl has every reply with every judgement, OUT/summary.json all rates with their
    intervals, and the terminal the tables. Over-caution and agreement are always judged, by rules
    (parlai_prosocial/data/bundled/preachy_patterns.txt and agreement_patterns.txt); what is unsafe
    only by --judge. Stopped half-way, the same command goes on, and more models, suites or judges
    into the same OUT ask only for what is new.

    \b
    Judges:
      classifier:MODEL_FILE    trained by -m prosocial/classifier
      hf:FOLDER                any Hugging Face text classifier
      llama-guard:FOLDER       or :http://HOST:PORT/v1#NAME
      qwen3guard:FOLDER        or :http://HOST:PORT/v1#NAME
      parlai:MODEL_FILE        ParlAI's transformer/classifier
      words                    ParlAI's list of offensive words
      profanity                alt-profanity-check
    """
    plan = make_plan(models, suites, out, flags)
    summary, records, faults = carry_out(plan)
    write(out, summary, records)
    show(summary, out)
    if report is not None:
        from parlai_prosocial.cli.report import write_report

        write_report(report, summary, log_of(records))
    refuse_missing(faults, plan)
