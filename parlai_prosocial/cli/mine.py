"""``prosocial mine``: negatives that a model says itself, as own data for step 2."""

from pathlib import Path
from typing import Any

import click

from parlai_prosocial.errors import UserError


@click.command()
@click.option("--model", required=True, help="Checkpoint, backbone, or http://HOST:PORT/v1#NAME.")
@click.option("--task", required=True, help="Any ParlAI task; several with commas between.")
@click.option("--judge", default=None, help="KIND:WHERE, see below. Not needed on casual tasks.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="FILE.jsonl."
)
@click.option("--samples", default=8, show_default=True, help="Replies a context.")
@click.option("--limit", type=int, default=None, help="Most contexts, evenly spread; default all.")
@click.option("--seed", default=0, show_default=True)
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
@click.option("--threshold", default=0.5, show_default=True, help="Least p(unsafe) that is kept.")
@click.option("--casual", is_flag=True, help="Contexts without a safety label are casual.")
@click.option(
    "--judge-casual", is_flag=True, help="Keep unsafe replies to casual contexts too, by --judge."
)
@click.option(
    "--synthetic-cap",
    default=1,
    show_default=True,
    help="Most negatives of a casual context from --synthetic-model, told to moralise; 0: none.",
)
@click.option("--synthetic-model", default=None, help="Default: the default backbone.")
@click.option("--unsafe-label", default=None, help="Unsafe class of an hf or parlai judge.")
@click.option("--reply-only", is_flag=True, help="Show an hf judge the reply without its context.")
@click.option("--max-tokens", default=40, show_default=True, help="Longest reply.")
@click.option("--sampling-temperature", default=1.0, show_default=True)
@click.option("--top-p", default=0.9, show_default=True, help="Mass of the nucleus.")
@click.option("--concurrency", default=8, show_default=True, help="Most calls to an address.")
@click.option("--datapath", default=None, help="ParlAI's data path.")
def mine(out: Path, **flags: Any) -> None:
    """Sample replies, judge them, and keep those that do not fit as negatives.

    In casual contexts it keeps needlessly preachy replies, found by rules
    (parlai_prosocial/data/bundled/preachy_patterns.txt); in others unsafe ones, found by --judge.
    OUT has the format of your own data: train on it with -t prosocial:Own --prosocial-data OUT.
    Counts, yields and missing judgements go to OUT's .summary.json. If stopped, the same
    command resumes.

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
    _check(flags)
    from parlai_prosocial.agents.options import DEFAULT_BACKBONE
    from parlai_prosocial.compat.flags import find_datapath
    from parlai_prosocial.engines.engine import open_engine
    from parlai_prosocial.judges.registry import open_judge
    from parlai_prosocial.judges.rules import PreachyRules
    from parlai_prosocial.mining.mine import (
        MORALISER_CONTEXT_TOKENS,
        Contexts,
        Miners,
        MiningPlan,
        moraliser,
    )
    from parlai_prosocial.mining.mine import mine as run_mining
    from parlai_prosocial.mining.turns import task_turns
    from parlai_prosocial.models.precision import computes_in_bf16
    from parlai_prosocial.util.journal import summary_path

    datapath = find_datapath(flags["datapath"])
    turns = task_turns(flags["task"], flags["datatype"], datapath, flags["settings"])
    plan = MiningPlan(
        samples=flags["samples"],
        synthetic=flags["synthetic_cap"],
        max_tokens=flags["max_tokens"],
        temperature=flags["sampling_temperature"],
        top_p=flags["top_p"],
        threshold=flags["threshold"],
        casual=flags["casual"],
        judge_casual=flags["judge_casual"],
        limit=flags["limit"],
        seed=flags["seed"],
    )
    contexts = Contexts(turns, plan)
    if flags["judge"] is None and contexts.need_judge:
        raise UserError(
            "--judge is missing: some contexts are not casual (where the task says nothing but "
            "all of it is, give --casual)"
        )
    bf16 = computes_in_bf16(out)
    prompt, examples = moraliser()
    miners = Miners(
        engine=open_engine(flags["model"], datapath, bf16, concurrency=flags["concurrency"]),
        synthetic=open_engine(
            flags["synthetic_model"] or DEFAULT_BACKBONE,
            datapath,
            bf16,
            system_prompt=prompt,
            concurrency=flags["concurrency"],
            max_context_tokens=MORALISER_CONTEXT_TOKENS,
        )
        if plan.synthetic and any(contexts.casual)
        else None,
        unsafe=open_judge(
            flags["judge"], datapath, bf16, flags["unsafe_label"], flags["reply_only"]
        )
        if contexts.need_judge
        else None,
        preachy=PreachyRules(),
    )
    record = {
        "precision": "bf16" if bf16 else "fp32",
        "engine": miners.engine.name,
        "synthetic_engine": miners.synthetic and miners.synthetic.name,
        "synthetic_prompt": [prompt, *examples] if miners.synthetic else None,
        "judges": [judge.name for judge in (miners.unsafe, miners.preachy) if judge],
        "contexts_sha256": contexts.sha256(),
        **{name: value for name, value in flags.items() if name not in ("datapath", "concurrency")},
    }
    summary = run_mining(contexts, miners, plan, flags["datatype"], out, record)
    click.echo(
        f"{out}: {summary['rows']} rows with negatives, of {summary['contexts']} contexts "
        f"({summary['casual_contexts']} casual)"
    )
    for source, counts in summary["sources"].items():
        if counts["yield"] is not None:
            listed = ", ".join(f"{name} {n}" for name, n in counts.items() if name != "yield")
            click.echo(f"  {source}: yield {counts['yield']:.1%} ({listed})")
    click.echo(
        f"{summary['seconds']:.0f} s, {summary['replies_per_second']} replies/s; "
        f"more in {summary_path(out)}"
    )


def _check(flags: dict[str, Any]) -> None:
    if not 0 < flags["threshold"] <= 1:
        raise UserError(f"--threshold {flags['threshold']}: give a probability above 0, e.g. 0.5")
    if not 0 < flags["top_p"] <= 1:
        raise UserError(f"--top-p {flags['top_p']}: give a probability above 0, e.g. 0.9")
    if not flags["sampling_temperature"] > 0:
        raise UserError("--sampling-temperature: must be above 0, or all samples are the same")
    for name in ("samples", "max_tokens", "concurrency"):
        if flags[name] < 1:
            raise UserError(f"--{name.replace('_', '-')} {flags[name]}: must be at least 1")
    if flags["limit"] is not None and flags["limit"] < 1:
        raise UserError(f"--limit {flags['limit']}: must be at least 1")
    if flags["synthetic_cap"] < 0:
        raise UserError(f"--synthetic-cap {flags['synthetic_cap']}: must not be negative")
