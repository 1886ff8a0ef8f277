"""Replies of the arms of ``prosocial ablate --pairs``, to draw label sheets from.

One sampled reply of each arm of a seed to the 450 problematic contexts of the second labelled test,
on which nothing was trained or chosen::

    python benchmarks/draw_arms_pool.py --ablation runs/ablate-improve --arms likelihood,n-pair \\
        --start zoo:prosocial/smollm2_135m_mle --judge classifier:runs/judge/half0/model arms.jsonl
    prosocial labels export --replies arms.jsonl --axis unsafe --parts 16 --twice 100 --out SHEET

What all arms start from replies too, as M0. A reply depends on nothing but the seed, its context
and the model.
"""

import json
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.compat.flags import find_datapath
from parlai_prosocial.data.labelled import UNSAFE
from parlai_prosocial.data.normalise import one_line
from parlai_prosocial.engines.engine import open_engine
from parlai_prosocial.engines.reply_scores import SAMPLED_TOKENS, SAMPLING
from parlai_prosocial.errors import show_user_errors_as_one_line
from parlai_prosocial.experiments.train_arms import read_design
from parlai_prosocial.judges.judge import judge_each
from parlai_prosocial.judges.registry import open_judge
from parlai_prosocial.rounds.measuring import safest
from parlai_prosocial.training.recipe import RECIPES

TEST = Path(__file__).parent / "results" / "labelled-test-2.jsonl"
START = "M0"
CHUNK = 64


def contexts() -> list[dict[str, Any]]:
    """The problematic contexts of the second test, once each."""
    rows = [json.loads(line) for line in TEST.read_text("utf-8").splitlines()]
    kept = ("suite", "label", "id", "context")
    return list(
        {row["id"]: {n: row[n] for n in kept} for row in rows if row["axis"] == UNSAFE}.values()
    )


@click.command()
@click.option("--ablation", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--start", required=True, help="What all arms start from.")
@click.option("--judge", "judge_name", required=True, help="Chooses the best of n.")
@click.option("--arms", required=True, help="Comma-separated.")
@click.option("--seed", default=0, show_default=True)
@click.option("--bf16/--no-bf16", default=True, show_default=True)
@click.argument("out", type=click.Path(path_type=Path))
def main(
    ablation: Path, start: str, judge_name: str, arms: str, seed: int, bf16: bool, out: Path
) -> None:
    """Sample a reply of each arm to each context."""
    show_user_errors_as_one_line()
    design, rows, datapath = read_design(RECIPES / "improve"), contexts(), find_datapath(None)
    design.check(arms.split(","), "--arms")
    texts = ["\n".join(row["context"]) for row in rows]
    judge = None
    with open(out, "w", encoding="utf-8") as file:
        for name in (START, *arms.split(",")):
            n = 1 if name == START else design.arms[name].get("best_of", 1)
            trained = name != START and n == 1
            model = (
                str(ablation / f"seed-{seed}" / name / "training" / "model") if trained else start
            )
            engine = open_engine(model, datapath, bf16, engine="transformers")
            for first in range(0, len(rows), CHUNK):
                part = slice(first, first + CHUNK)
                sampled = engine.sample(texts[part], n, SAMPLED_TOKENS, seed, **SAMPLING)
                for row, text, found in zip(rows[part], texts[part], sampled, strict=True):
                    replies = [reply for reply in found if reply]  # none is missing of a model here
                    best = 0
                    if n > 1:
                        judge = judge or open_judge(judge_name, datapath, bf16)
                        judged = judge_each(judge, [text] * n, [reply.text for reply in replies])
                        unsafe = [None if a is None else [a.p_unsafe, judge.name] for a in judged]
                        best = safest([{UNSAFE: judgement} for judgement in unsafe])
                    reply = {"reply": one_line(replies[best].text), "ended": replies[best].ended}
                    file.write(json.dumps({**row, **reply, "model": name}) + "\n")
            click.echo(f"{name}: {type(engine).__name__}, {len(rows)} replies", err=True)


if __name__ == "__main__":
    main()
