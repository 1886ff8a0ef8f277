"""``prosocial audit``: how unsafe and how preachy are models? Tables, a report, release gates."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.run import (
    Plan,
    carry_out,
    label_models,
    log_of,
    make_plan,
    refuse_missing,
    shared_options,
    show,
    write,
)

SUITES = ("adversarial", "casual", "safe_but_scary")
REPORT = "report.html"
MOST = "200"
"""Contexts of a suite."""


@click.command()
@click.option(
    "--suite",
    "suites",
    multiple=True,
    default=SUITES,
    show_default=True,
    help="As of prosocial evaluate.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder. [default: runs/audit-MODELS]",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"An HTML file. [default: OUT/{REPORT}]",
)
@click.option("--open", "opens", is_flag=True, help="Open the report in the browser.")
@click.option(
    "--limit",
    multiple=True,
    help="[SUITE:]N, repeatable: most contexts of each suite or of one, evenly spread. "
    f"[default: {MOST}]",
)
@click.option(
    "--fail-if",
    "gates",
    multiple=True,
    help="[SUITE:]METRIC[.lower|.upper|.estimate] > LIMIT: exit with status 1 where that is so.",
)
@click.option(
    "--min-n", default=100, show_default=True, help="Fewest contexts that a --fail-if may rest on."
)
@shared_options
def audit(
    models: tuple[str, ...],
    suites: tuple[str, ...],
    out: Path | None,
    report: Path | None,
    opens: bool,
    gates: tuple[str, ...],
    min_n: int,
    **flags: Any,
) -> None:
    """Audit models in adversarial and casual contexts: prosocial evaluate, with a report and gates.

    A model is a Hugging Face causal or encoder-decoder model (folder or hub name), a checkpoint of
    -m prosocial, a zoo entry, or http://HOST:PORT/v1#NAME; the key of an address is read from
    OPENAI_API_KEY. Give the base, or the zero-shot model, last: the others are compared with it.

    Over-caution and agreement are judged by rules. What is unsafe is judged by --judge only;
    without one that axis stays empty.

    \b
    --fail-if, repeatable, for every model but the reference (a single model is no reference):
      unsafe_rate.upper > 0.05             on each suite that judges it
      casual:overcaution_rate.upper > 0.1  on one
    Metrics: unsafe_rate, agreement_rate, overcaution_rate. Missing judgements count as faults.

    \b
    Exit status:
      0  done, and no --fail-if holds
      1  a --fail-if holds, or something went wrong
      2  a flag or --fail-if that makes no sense or cannot be decided
    """
    from parlai_prosocial.evaluation.results.gates import check_decidable, decide, parse_gate
    from parlai_prosocial.evaluation.results.verdicts import verdicts
    from parlai_prosocial.evaluation.suites.suite import UNSAFE

    parsed = [_refused(lambda gate=gate: parse_gate(gate)) for gate in gates]
    labels = list(label_models(models))
    out = out or Path("runs") / f"audit-{_file_name(labels)}"
    flags["limit"] = (MOST, *flags["limit"])
    plan = _refused(lambda: make_plan(models, suites, out, flags))
    counts = _counts(plan)
    judged = {judge.axis for judge in plan.judges}
    for gate in parsed:
        _refused(lambda gate=gate: check_decidable(gate, counts, sorted(judged), min_n))
    if UNSAFE not in judged:
        click.echo("No --judge of what is unsafe was given, so that axis is not judged.")

    summary, records, faults = carry_out(plan)
    gated = labels[:-1] or labels
    undecided = None
    summary["gates"] = []
    try:
        for gate in parsed:
            summary["gates"] += decide(gate, counts, summary, gated)
    except UserError as error:  # told when all is written
        undecided = error
    write(plan.out, summary, records)
    show(summary, out)

    from parlai_prosocial.cli.report import write_report

    file = report or out / REPORT
    write_report(file, summary, log_of(records))
    if opens:
        click.launch(file.absolute().as_uri())
    for sentence in verdicts(summary):
        click.echo(sentence)
    refuse_missing(faults, plan)
    if undecided is not None:
        raise click.UsageError(str(undecided))
    _judge_gates(summary["gates"])


def _refused(call: Any) -> Any:
    """What ``call`` gives; its :class:`UserError` as a usage error, status 2."""
    try:
        return call()
    except UserError as error:
        raise click.UsageError(str(error)) from None


def _counts(plan: Plan) -> dict[str, dict[str, int]]:
    return {
        suite: dict(Counter(axis for context in contexts for axis in context.axes))
        for suite, contexts in plan.chosen.items()
    }


def _judge_gates(found: Sequence[dict[str, Any]]) -> None:
    """Print the gates; exit with status 1 where one has failed."""
    for entry in found:
        click.echo(
            f"{'FAILED' if entry['failed'] else 'passed'}: {entry['gate']}: {entry['value']:.4f} "
            f"({entry['model']} on {entry['suite']}, {entry['judge']}, n {entry['n']}, "
            f"missing {entry['missing']})"
        )
    if any(entry["failed"] for entry in found):
        raise click.exceptions.Exit(1)


def _file_name(labels: Sequence[str]) -> str:
    """A folder's name for some models, e.g. ``tuned-base``."""
    return re.sub(r"[^\w.-]+", "-", "-".join(labels)).strip("-.")[-100:]
