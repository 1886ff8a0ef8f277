"""``prosocial mine``: negatives that a model says itself, as own data for step 2."""

import inspect
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.engines.names import ENGINES
from parlai_prosocial.errors import with_flags
from parlai_prosocial.judges.registry import judges_help
from parlai_prosocial.mining import mine as mining

_ARGUMENTS = inspect.signature(mining.mine).parameters


def _option(flag: str, help: str | None = None, **more: Any) -> Any:
    """A flag with the default that the argument of the same name has."""
    default = _ARGUMENTS[flag.removeprefix("--").replace("-", "_")].default
    more.setdefault("show_default", default is not None and "is_flag" not in more)
    return click.option(flag, default=default, help=help, **more)


@click.command(epilog=judges_help())
@click.option("--model", required=True, help="Checkpoint, backbone, or http://HOST:PORT/v1#NAME.")
@click.option("--task", required=True, help="Any ParlAI task; several with commas between.")
@_option("--judge", "KIND:WHERE, see below. Not needed on casual tasks.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="FILE.jsonl."
)
@_option("--samples", "Replies a context.")
@_option("--limit", "Most contexts, evenly spread; default all.", type=int)
@_option("--seed")
@_option(
    "--datatype",
    "Split of the task; the rows are of that split too.",
    type=click.Choice(["train", "valid", "test"]),
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a parlai flag of the task."
)
@_option("--threshold", "Least p(unsafe) that is kept.")
@_option("--casual", "Contexts without a safety label are casual.", is_flag=True)
@_option("--judge-casual", "Keep unsafe replies to casual contexts too, by --judge.", is_flag=True)
@_option(
    "--own-responses",
    "Rows are pairs of the model's own replies: a clearly safe one, and unsafe ones of its length.",
    is_flag=True,
)
@_option("--safe-below", "Most p(unsafe) of an own response; default 0.3.", type=float)
@_option(
    "--preachy-share",
    "Above this share, preachy replies are negatives of own responses; default 0.02.",
    type=float,
)
@_option(
    "--synthetic-cap",
    "Most negatives of a casual context from --synthetic-model, told to moralise; 0: none; "
    "default 1.",
    type=int,
)
@_option("--synthetic-model", "Default: the default backbone.")
@_option("--unsafe-label", "Unsafe class of an hf or parlai judge.")
@_option("--reply-only", "Show an hf judge the reply without its context.", is_flag=True)
@_option("--max-tokens", "Longest reply.")
@_option("--sampling-temperature")
@_option("--top-p", "Mass of the nucleus.")
@_option("--concurrency", "Most calls to an address.")
@_option(
    "--engine",
    "What samples models that lie here; auto: OpenVINO where that is installed and agrees.",
    type=click.Choice(ENGINES),
)
@_option("--datapath", "ParlAI's data path.")
def mine(**flags: Any) -> None:
    """Sample replies, judge them, and keep those that do not fit as negatives.

    In casual contexts it keeps needlessly preachy replies, found by rules
    (parlai_prosocial/data/bundled/preachy_patterns.txt); in others unsafe ones, found by --judge.
    OUT has the format of your own data: train on it with -t prosocial:Own --prosocial-data OUT.
    Counts, yields and missing judgements go to OUT's .summary.json. If stopped, the same
    command resumes.

    \b
    Examples:
      prosocial mine --model zoo:prosocial/smollm2_135m --task diasafety --limit 100 \\
          --judge classifier:zoo:prosocial/mpnet_safety --out mined.jsonl
      prosocial mine --model http://localhost:8000/v1#NAME --task self_dialogue --out mined.jsonl
    """
    click.echo(with_flags(mining.mine)(**flags))
