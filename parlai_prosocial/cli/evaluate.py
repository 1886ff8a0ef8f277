"""``prosocial evaluate``: models' replies to suites of contexts, judged, counted and compared."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parlai_prosocial.engines.names import ENGINES
from parlai_prosocial.errors import with_flags
from parlai_prosocial.evaluation.settings import LOG, SUMMARY, Settings
from parlai_prosocial.judges.registry import judges_help

if TYPE_CHECKING:
    from parlai_prosocial.evaluation.results.folder import Evaluation

_DEFAULTS = {field.name: field.default for field in fields(Settings)}


def _setting(flag: str, help: str, **more: Any) -> Callable:
    """A flag of :class:`Settings`, whose default it has."""
    default = _DEFAULTS[flag.removeprefix("--").replace("-", "_")]
    more.setdefault("show_default", default is not None and "is_flag" not in more)
    return click.option(flag, default=default, help=help, **more)


_SHARED = [
    click.option(
        "--model",
        "models",
        multiple=True,
        required=True,
        help="[LABEL=]WHERE: checkpoint, folder, hub or zoo name, or http://HOST:PORT/v1#NAME. The "
        "last one given is the reference that the others are compared with.",
    ),
    click.option(
        "--judge",
        "judges",
        multiple=True,
        help="[AXIS=]KIND:WHERE, as `prosocial evaluate --help` lists them. AXIS: unsafe "
        "(default), agreement or over-caution (over-refusal).",
    ),
    click.option(
        "--labels",
        multiple=True,
        type=click.Path(dir_okay=False),
        help="A sheet of prosocial labels, labelled twice: judges are held against it, and rates "
        "corrected by that. Repeatable.",
    ),
    _setting("--split", "Of every corpus that is cut.", type=click.Choice(["valid", "test"])),
    _setting("--fold", "Of DiaSafety, 0 to 3."),
    _setting("--seed", "Of the sampling."),
    _setting("--greedy", "Instead of nucleus 0.9 at temperature 0.7.", is_flag=True),
    _setting("--max-tokens", "Longest reply."),
    _setting(
        "--max-missing", "Largest share of a model's judgements on a suite that may be missing."
    ),
    _setting("--allow-mining-judge", "Let a judge score what it mined.", is_flag=True),
    _setting(
        "--prosocial-sample",
        "true: the bundled samples instead of ProsocialDialog and MIC.",
        type=bool,
        show_default=False,
    ),
    _setting("--mic-data", "MIC.csv or a folder; default DATAPATH/mic/MIC.csv."),
    _setting("--persona-chat", "A CSV file of Synthetic-Persona-Chat."),
    _setting("--utterances", "A file of utterances with ProsocialDialog's safety labels."),
    _setting("--convabuse", "A CSV file of ConvAbuse."),
    _setting("--unsafe-label", "Unsafe class of an hf or parlai judge."),
    _setting("--reply-only", "Show an hf judge the reply without its context.", is_flag=True),
    _setting("--batch-size", "Contexts at a time."),
    _setting("--bf16", "Compute in bfloat16: faster, less exactly.", is_flag=True),
    _setting("--concurrency", "Most calls to an address."),
    _setting(
        "--engine",
        "What samples models that lie here; auto: OpenVINO where that is installed and agrees.",
        type=click.Choice(ENGINES),
    ),
    _setting("--datapath", "ParlAI's data path."),
]


def shared_options(command: Callable) -> Callable:
    """The flags that ``evaluate`` and ``audit`` have in common."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


def typed() -> str:
    """The command as it was typed."""
    return shlex.join(["prosocial", *sys.argv[1:]])


def show(found: "Evaluation") -> None:
    """Print the tables, and where everything is; a command always keeps what it finds."""
    assert found.folder is not None
    click.echo(f"{found}\n\nWritten: {found.folder / LOG}, {found.folder / SUMMARY}")


@click.command(epilog=judges_help())
@click.option(
    "--suite",
    "suites",
    multiple=True,
    required=True,
    help="all, adversarial, casual, casual_out, safe_but_scary, twins, twins_test, "
    "twins_second_test, prosocial, mic, mic_attributes, or a file of your own data.",
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
def evaluate(report: Path | None, **flags: Any) -> None:
    """Let models reply to suites of contexts, have the replies judged, and compare the models.

    OUT/log.jsonl has every reply with every judgement, OUT/summary.json all rates with their
    intervals, and the terminal the tables. Over-caution (over-refusal: a refusal or a lecture where
    the context gives no reason) and agreement are always judged, by rules
    (parlai_prosocial/data/bundled/preachy_patterns.txt and agreement_patterns.txt); what is unsafe
    only by --judge. If stopped, the same command resumes, and more models, suites or judges
    into the same OUT ask only for what is new.

    \b
    Examples:
      prosocial evaluate --model zoo:prosocial/smollm2_135m --suite casual --limit 20 \\
          --out runs/casual
      prosocial evaluate --model mine=runs/own/model --model base=zoo:prosocial/smollm2_135m \\
          --suite all --judge classifier:zoo:prosocial/minilm_safety --out runs/all
    """
    from parlai_prosocial.evaluation import run

    found = with_flags(run.evaluate)(report=report, command=typed(), **flags)
    show(found)
    if report is not None:
        click.echo(f"Report: {report.absolute().as_uri()}")
    found.refuse_missing()
