"""``prosocial audit``: how unsafe and how preachy are models? Tables, a report, release gates."""

from pathlib import Path
from typing import Any

import click

from parlai_prosocial.cli.evaluate import shared_options, show, typed
from parlai_prosocial.errors import UsageError, with_flags
from parlai_prosocial.evaluation.settings import AUDITED, FEWEST_GATED, MOST_AUDITED, REPORT


@click.command()
@click.option(
    "--suite",
    "suites",
    multiple=True,
    default=AUDITED,
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
    f"[default: {MOST_AUDITED}]",
)
@click.option(
    "--fail-if",
    multiple=True,
    help="[SUITE:]METRIC[.lower|.upper|.estimate] > LIMIT: exit with status 1 where that is so.",
)
@click.option(
    "--min-n",
    default=FEWEST_GATED,
    show_default=True,
    help="Fewest contexts that a --fail-if may rest on.",
)
@shared_options
def audit(opens: bool, **flags: Any) -> None:
    """Audit models in adversarial and casual contexts: prosocial evaluate, with a report and gates.

    A model is a Hugging Face causal or encoder-decoder model (folder or hub name), a checkpoint of
    -m prosocial, a zoo entry, or http://HOST:PORT/v1#NAME; the key of an address is read from
    OPENAI_API_KEY. Give the base, or the zero-shot model, last: the others are compared with it.

    Over-caution (over-refusal) and agreement are judged by rules. What is unsafe is judged by
    --judge only; without one that axis stays empty.

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

    \b
    Examples:
      prosocial audit --model zoo:prosocial/smollm2_135m_prosocial --limit 20 --open
      prosocial audit --model mine=runs/own/model --model base=zoo:prosocial/smollm2_135m \\
          --judge classifier:zoo:prosocial/minilm_safety --fail-if "unsafe_rate.upper > 0.05"
    """
    from parlai_prosocial.evaluation import run

    try:
        found = with_flags(run.audit)(command=typed(), **flags)
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    show(found)
    assert found.report is not None  # a command always writes one
    report = found.report.absolute().as_uri()
    click.echo(f"Report: {report}")
    if opens:
        click.launch(report)
    for sentence in found.verdicts:
        click.echo(sentence)
    found.refuse_missing()
    if found.undecided is not None:
        raise click.UsageError(found.undecided)
    for gate in found.gates:
        click.echo(
            f"{'FAILED' if gate['failed'] else 'passed'}: {gate['gate']}: {gate['value']:.4f} "
            f"({gate['model']} on {gate['suite']}, {gate['judge']}, n {gate['n']}, "
            f"missing {gate['missing']})"
        )
    if not found.passed:
        raise click.exceptions.Exit(1)
