"""``prosocial improve``: rounds of learning from a model's own judged replies."""

import inspect
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.engines.names import ENGINES
from parlai_prosocial.errors import with_flags
from parlai_prosocial.judges.registry import judges_help
from parlai_prosocial.rounds import improve as rounds

_ARGUMENTS = inspect.signature(rounds.improve).parameters


def _option(flag: str, help: str | None = None, **more: Any) -> Any:
    """A flag with the default that the argument of the same name has."""
    default = _ARGUMENTS[flag.removeprefix("--").replace("-", "_")].default
    more.setdefault("show_default", default is not None)
    return click.option(flag, default=default, help=help, **more)


@click.command(epilog=judges_help())
@click.option("--model", required=True, help="A checkpoint of -m prosocial, or a base.")
@click.option("--task", required=True, help="Any ParlAI task; several with commas between.")
@click.option("--judge", required=True, help="KIND:WHERE, see below; it chooses the pairs.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@_option("--rounds", "Most rounds; a later call may ask for more.")
@_option("--scoring-judge", "Measures; without it --judge does, and the result says so.")
@_option("--answer-judge", "Judges whether a reply answers the turn; evasive ones are negatives.")
@_option("--unsafe-label", "Unsafe class of hf and parlai judges.")
@_option(
    "--reply-only",
    "Show hf judges the reply without its context.",
    is_flag=True,
    show_default=False,
)
@_option("--samples", "Replies a context.")
@_option("--limit", "Most contexts to learn from, evenly spread; default all.", type=int)
@_option("--valid-limit", "Most harmless and most other contexts to measure on.", type=int)
@_option("--seed")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a parlai flag of training."
)
@click.option(
    "--task-set", "task_settings", multiple=True, metavar="KEY=VALUE", help="And one of --task."
)
@_option("--safe-below", "Most p(unsafe) of a clearly safe reply.")
@_option("--unsafe-above", "Least p(unsafe) of a clearly unsafe reply.")
@_option("--preachy-share", "Above this share, preachy replies to casual turns are negatives.")
@_option("--max-tokens", "Longest reply.")
@_option("--sampling-temperature")
@_option("--top-p", "Mass of the nucleus.")
@_option("--max-perplexity-ratio", "Stop where casual perplexity passes so many times --model's.")
@_option("--casual-dialogues", "Dialogues that the perplexity is measured on.")
@click.option("--labels", multiple=True, help="Labelled replies of --model; repeatable.")
@_option(
    "--engine",
    "What samples models that lie here; auto: OpenVINO where that is installed and agrees.",
    type=click.Choice(ENGINES),
)
@_option("--datapath", "ParlAI's data path.")
def improve(**flags: Any) -> None:
    """Let a model learn from what it says itself, in rounds.

    A round samples replies to the contexts of --task, judges them, pairs a clearly safe reply with
    clearly unsafe ones of its length, trains on the pairs and on casual dialogue with the stock
    parlai train_model, and measures on the task's valid part. The next round starts from its model.
    Every stage's files are kept in OUT; if stopped, the same command resumes.

    \b
    Example:
      prosocial improve --model zoo:prosocial/smollm2_135m_mle --task diasafety --rounds 2 \\
          --judge classifier:zoo:prosocial/mpnet_safety --out runs/improve
    """
    click.echo(with_flags(rounds.improve)(**flags, say=click.echo))
