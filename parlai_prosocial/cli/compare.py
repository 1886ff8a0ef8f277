"""``prosocial compare``: base, MLE-only and n-pair side by side, trained and measured here."""

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from parlai_prosocial.cli.train import STEPS, StepResult, recipe_folder, train_recipe
from parlai_prosocial.errors import UserError

ARM_SWITCHES = ("with_step1", "with_matched_mle")
VERSIONS = ("parlai-prosocial", "torch", "transformers", "peft", "numpy", "parlai")


@click.command()
@click.option("--recipe", default="demo", show_default=True, help="A recipe with compare.json.")
@click.option("--base", default=None, help="Backbone: zoo:..., a folder or a hub name.")
@click.option("--fold", "folds", type=int, multiple=True, help="Folds; default the recipe's.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As in train.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for models and results; default runs/compare-RECIPE. Run again to resume.",
)
@click.option("--datapath", default=None, help="ParlAI's data path.")
def compare(
    recipe: str,
    base: str | None,
    folds: tuple[int, ...],
    settings: tuple[str, ...],
    out: Path | None,
    datapath: str | None,
) -> None:
    """Train a recipe with and without contrast, and compare both with the base.

    All arms see the same data in the same order with the same positives; MLE-only is the same
    two steps at --contrast-weight 0, and where the recipe asks for it once more with as many
    steps as process the n-pair arm's tokens. Seed k uses fold k of DiaSafety. Writes results.json
    and results.md, and prints the tables.
    """
    folder = recipe_folder(recipe)
    plan_file = folder / "compare.json"
    if not plan_file.is_file():
        raise UserError(f"--recipe {recipe}: no {plan_file}, so it says nothing to compare on")
    plan = json.loads(plan_file.read_text())
    out = out or Path("runs") / f"compare-{folder.name}"
    started = time.monotonic()

    import torch
    from parlai.core.params import ParlaiParser

    from parlai_prosocial.agents.options import DEFAULT_BACKBONE
    from parlai_prosocial.agents.prosocial import resolve_backbone
    from parlai_prosocial.evaluation import comparison
    from parlai_prosocial.evaluation.tables import markdown_table, terminal_table
    from parlai_prosocial.models.precision import bf16_is_faster

    parser = ParlaiParser(add_parlai_args=True, add_model_args=False)
    opt = parser.parse_args(["--datapath", datapath] if datapath else [])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = bf16_is_faster(device)
    base_folder = resolve_backbone(base or DEFAULT_BACKBONE, opt["datapath"])
    settings = (*settings, f"datapath={opt['datapath']}", f"precision={'bf16' if bf16 else 'fp32'}")

    data, results = {}, {}
    demo_replies: dict[str, list[str]] = {}
    demo_contexts = _demo_contexts()
    # What the rows of a seed must have in common, so that a resumed run mixes nothing.
    measured_on = {key: value for key, value in plan.items() if key not in ("folds", *ARM_SWITCHES)}
    for fold in folds or tuple(plan["folds"]):
        data[fold] = _evaluation_data(opt["datapath"], fold, plan)
        fold_out = out / f"seed-{fold}"
        own = [*settings, f"seed={fold}", f"diasafety-fold={fold}"]
        arms = _train_arms(folder, fold_out, base, own, plan, f"seed {fold}")
        saved = fold_out / "results.json"
        measured: dict[str, Any] = {
            "measured_on": measured_on,
            "results": {},
            "demo_replies": {},
        }
        if saved.exists():
            measured = json.loads(saved.read_text())
            if measured["measured_on"] != measured_on:
                raise UserError(
                    f"{saved}: measured by another compare.json; give another --out, or delete it"
                )
        rows, replies = measured["results"], measured["demo_replies"]
        for name, steps in arms.items():
            if name in rows:
                click.echo(f"seed {fold}: {name} was measured before, {saved}")
                continue
            click.echo(f"seed {fold}: measuring {name}")
            model = _load(base_folder, steps, bf16).to(device)
            row = comparison.measure_model(model, data[fold], bf16, seed=fold)
            row["trained_tokens"] = sum(step.tokens for step in steps)
            row["train_seconds"] = sum(step.seconds for step in steps)
            replies[name] = [
                reply.text for reply in comparison.sample_replies(model, demo_contexts, fold, bf16)
            ]
            if name == comparison.NPAIR:
                rows[comparison.SHUFFLED] = comparison.measure_shuffled(
                    model, data[fold], bf16, seed=fold
                )
            rows[name] = row
            _write(saved, json.dumps(measured))
        results[fold] = {name: rows[name] for name in (*arms, comparison.SHUFFLED)}
        results[fold] |= comparison.measure_baselines(data[fold])
        demo_replies = {name: replies[name] for name in arms}

    tables = comparison.comparison_tables(data, results)
    environment = {
        "command": " ".join(["prosocial", *sys.argv[1:]]),
        "seconds": round(time.monotonic() - started),
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "precision": "bf16" if bf16 else "fp32",
        "python": platform.python_version(),
    } | {name: metadata.version(name) for name in VERSIONS}
    summary = {"environment": environment, "tables": tables, "results": results}
    _write(out / "results.json", json.dumps(summary, indent=1))
    footer = ", ".join(f"{key} {value}" for key, value in environment.items())
    markdown = "\n\n".join([*(markdown_table(t) for t in tables), f"Measured with: {footer}"])
    _write(out / "results.md", markdown + "\n")
    for table in tables:
        click.echo("\n" + terminal_table(table))
    for i, context in enumerate(demo_contexts):
        click.echo("\n> " + context.replace("\n", "\n> "))
        for name, replies in demo_replies.items():
            click.echo(f"  {name + ':':<22} {replies[i]}")
    click.echo(f"\nWritten: {out / 'results.json'}, {out / 'results.md'}")


def _train_arms(
    recipe: Path,
    out: Path,
    base: str | None,
    settings: Sequence[str],
    plan: dict[str, Any],
    title: str,
) -> dict[str, list[StepResult]]:
    """The arms of one seed by their row's name, in the order of the tables; finished ones load."""
    from parlai_prosocial.evaluation import comparison

    # By step and last, so that no setting of a step switches the contrast on again.
    mle_settings = [*settings, *(f"{step}.contrast-weight=0" for step in STEPS)]
    mle = train_recipe(recipe, out / "mle", base, mle_settings, f"{title} MLE-only")
    npair = train_recipe(recipe, out / "n-pair", base, settings, f"{title} n-pair")
    arms: dict[str, list[StepResult]] = {comparison.BASE: [], comparison.MLE: mle}
    if plan["with_matched_mle"]:
        arms[comparison.MATCHED] = train_recipe(
            recipe,
            out / "mle-matched",
            base,
            [*mle_settings, *_matching_steps(mle, npair)],
            f"{title} MLE-only, matched tokens",
        )
    if plan["with_step1"]:
        arms[comparison.STEP1] = npair[:1]
    return arms | {comparison.NPAIR: npair}


def _matching_steps(mle: Sequence[StepResult], npair: Sequence[StepResult]) -> list[str]:
    """Settings with which MLE-only processes as many tokens in each step as the n-pair arm."""
    return [
        f"{step}.max-train-steps={round(short.steps * long.tokens / short.tokens)}"
        for step, short, long in zip(STEPS, mle, npair, strict=True)
    ]


def _evaluation_data(datapath: str, fold: int, plan: dict[str, Any]) -> Any:
    from parlai_prosocial.data import diasafety, self_dialogue
    from parlai_prosocial.evaluation.casual import casual_replies
    from parlai_prosocial.evaluation.comparison import EvaluationData
    from parlai_prosocial.evaluation.ranking import ranking_contexts

    contexts = ranking_contexts(diasafety.load_rows(datapath, "test", fold=fold))
    if plan["contexts_per_category"]:
        chosen: dict[str, list] = {}
        for context in contexts:
            chosen.setdefault(context.category, []).append(context)
        contexts = [c for cs in chosen.values() for c in cs[: plan["contexts_per_category"]]]
    dialogues = self_dialogue.load_dialogues(datapath, "test")[: plan["casual_dialogues"]]
    # Evenly spaced over the contexts, which stand in the order of the corpus.
    stride = max(1, len(contexts) // plan["sampled_replies"])
    return EvaluationData(
        contexts=contexts,
        train_rows=diasafety.load_rows(datapath, "train", fold=fold),
        casual=casual_replies(dialogues, plan["casual_replies"]),
        sampled=[c.context for c in contexts[::stride]][: plan["sampled_replies"]],
    )


def _load(base_folder: Path, steps: Sequence[StepResult], bf16: bool) -> Any:
    from parlai_prosocial.models.backbone import Backbone
    from parlai_prosocial.models.checkpoint import Checkpoint

    if not steps:
        return Backbone(base_folder, bf16=bf16, trainable=False)
    checkpoint = Checkpoint(steps[-1].model_file)
    return Backbone(
        base_folder if checkpoint.is_adapter else checkpoint.folder,
        adapter=checkpoint.folder if checkpoint.is_adapter else None,
        bf16=bf16,
        system_prompt=checkpoint.info["system_prompt"],
        trainable=False,
    )


def _demo_contexts() -> list[str]:
    """One mild context of each kind, of our own writing."""
    from parlai_prosocial.data.reader import bundled

    kinds: dict[str, str] = {}
    for line in bundled("demo_contexts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        kinds.setdefault(row["kind"], "\n".join(row["context"]))
    return list(kinds.values())


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, file)
