"""``prosocial annotate``: safety labels and rules of thumb for any ParlAI task."""

from pathlib import Path
from typing import Any

import click

from parlai_prosocial.errors import UserError


@click.command()
@click.option("--task", required=True, help="Any ParlAI task; several with commas between.")
@click.option(
    "--rot-model", required=True, help="Checkpoint, backbone, or http://HOST:PORT/v1#NAME."
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="FILE.jsonl."
)
@click.option(
    "--few-shot/--no-few-shot",
    default=None,
    help="Show the model examples first. Default: yes, unless it is a checkpoint.",
)
@click.option("--limit", type=int, default=None, help="Most turns, evenly spread; default all.")
@click.option(
    "--datatype",
    type=click.Choice(["train", "valid", "test"]),
    default="train",
    show_default=True,
    help="Split of the task; the rows are of that split too.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a parlai flag of the task."
)
@click.option("--concurrency", default=8, show_default=True, help="Most calls to an address.")
@click.option("--datapath", default=None, help="ParlAI's data path.")
def annotate(out: Path, **flags: Any) -> None:
    """Label every turn's need of caution, and write rules of thumb where it is not casual.

    --rot-model is a checkpoint trained on -t prosocial:Canary. Any other model is shown the
    examples of parlai_prosocial/data/bundled/canary_few_shot.txt; expect little of a small one.
    OUT has the format of your own data: train on it with -t prosocial:Own --prosocial-data OUT, or
    -t prosocial:Canary. OUT's .summary.json says how many answers could not be read and, where the
    task has labels and rules of thumb itself, how far they agree.
    """
    for name in ("limit", "concurrency"):
        if flags[name] is not None and flags[name] < 1:
            raise UserError(f"--{name} {flags[name]}: must be at least 1")
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.engines.engine import open_engine
    from parlai_prosocial.engines.reply_scores import MAX_CONTEXT_TOKENS
    from parlai_prosocial.mining.annotate import FEW_SHOT_CONTEXT_TOKENS, read_few_shot
    from parlai_prosocial.mining.annotate import annotate as run_annotation
    from parlai_prosocial.mining.turns import task_turns, turns_sha256
    from parlai_prosocial.models.precision import computes_in_bf16
    from parlai_prosocial.util.batches import spread
    from parlai_prosocial.util.journal import summary_path

    datapath = find_datapath(flags["datapath"])
    turns = task_turns(flags["task"], flags["datatype"], datapath, flags["settings"])
    turns = [turns[i] for i in spread(len(turns), flags["limit"])]
    wants_examples = flags["few_shot"]
    if wants_examples is None:
        wants_examples = not Path(flags["rot_model"]).is_file()
    few_shot = read_few_shot() if wants_examples else None
    bf16 = computes_in_bf16(out)
    engine = open_engine(
        flags["rot_model"],
        datapath,
        bf16,
        system_prompt=few_shot.system_prompt if few_shot else None,
        concurrency=flags["concurrency"],
        max_context_tokens=FEW_SHOT_CONTEXT_TOKENS if few_shot else MAX_CONTEXT_TOKENS,
    )
    record = {
        "precision": "bf16" if bf16 else "fp32",
        "engine": engine.name,
        "examples": few_shot and [few_shot.system_prompt, *few_shot.turns],
        "turns_sha256": turns_sha256(turns),
        **{name: value for name, value in flags.items() if name not in ("datapath", "concurrency")},
    }
    summary = run_annotation(turns, engine, few_shot, flags["datatype"], out, record)
    click.echo(
        f"{out}: {summary['turns']} turns, {summary['rots']} rules of thumb; "
        f"{summary['parse_failures']} answers could not be read, {summary['missing_answers']} are "
        "missing"
    )
    for label, count in summary["labels"].items():
        click.echo(f"  {label}: {count}")
    for name, value in summary.get("against_own", {}).items():
        click.echo(f"  {name.replace('_', ' ')}: {value:.3g}")
    click.echo(
        f"{summary['seconds']:.0f} s, {summary['turns_per_second']} turns/s; "
        f"more in {summary_path(out)}"
    )
