"""Judges against the labels of generated replies: benchmarks/results/judges.{json,md}.

::

    python benchmarks/bench_judges.py --judge "mpnet=classifier:zoo:prosocial/mpnet_safety" \\
        --judge "MiniLM=classifier:zoo:prosocial/minilm_safety" --judge "word list=words"

The labels are those of benchmarks/results/labels/unsafe.jsonl that both passes agree on, on which
no judge is trained. The baselines are bags of words, which are logistic regressions on the labels
that judges learn from (``--bag-of-words``), and the rules of agreement. With ``--compared
labelled-judges`` it is the replies of that comparison, and also how often a judge calls each of its
models unsafe, beside the labels: judges-of-labelled-judges.{json,md}.
"""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from parlai_prosocial.cards.card import without_folders
from parlai_prosocial.compat.flags import find_datapath
from parlai_prosocial.data import labelled
from parlai_prosocial.data.labelled import UNSAFE
from parlai_prosocial.errors import show_user_errors_as_one_line
from parlai_prosocial.evaluation.results.tables import make_table, markdown_table, terminal_table
from parlai_prosocial.evaluation.statistics.bootstrap import (
    Interval,
    cluster_draws,
    percentile_ends,
    wilson_interval,
)
from parlai_prosocial.evaluation.validation.labels.sheets import read_sheet
from parlai_prosocial.experiments.classification import area_under_curve
from parlai_prosocial.judges.judge import THRESHOLD, judge_each
from parlai_prosocial.judges.registry import open_judge
from parlai_prosocial.judges.rules import AgreementRules
from parlai_prosocial.models.precision import best_device, bf16_is_faster
from parlai_prosocial.util.environment import environment
from parlai_prosocial.util.files import write_aside

RESULTS = Path(__file__).parent / "results"
LABELS = RESULTS / "labels"
RULES = "rules of agreement"
GENERATED = LABELS / "generated.jsonl"
KINDS = {"all": None, "DiaSafety": "adversarial", "twins": "safe_but_scary"}
RESAMPLES, CHUNK = 2_000, 250


@dataclass
class Labelled:
    """A reply and its label; ``model`` where models are compared."""

    context: str
    reply: str
    suite: str
    unfit: bool
    model: str = ""


def validating() -> list[Labelled]:
    """The labels that judges are validated with."""
    return [
        Labelled("\n".join(row.context), row.reply, row.suite, bool(row.label_1))
        for row in read_sheet(LABELS / "unsafe.jsonl")
        if row.agreed is not None
    ]


def compared_in(name: str) -> list[Labelled]:
    """The labels of a comparison of models."""
    rows = map(json.loads, (RESULTS / f"{name}.jsonl").read_text("utf-8").splitlines())
    return [
        Labelled("\n".join(row["context"]), row["reply"], row["suite"], row["unfit"], row["model"])
        for row in rows
        if row["axis"] == UNSAFE
    ]


def bag_of_words(labels: str, texts: list[tuple[str, str]]) -> np.ndarray:
    """p(unsafe) of (context, reply) by words and pairs of words of the reply and of its context."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = labelled.load_rows([labels], UNSAFE)

    def words(context: str, reply: str) -> str:
        return " ".join([*(f"context_{word}" for word in context.lower().split()), reply.lower()])

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        LogisticRegression(C=3.0, class_weight="balanced", max_iter=2_000),
    )
    model.fit(
        [words("\n".join(row["context"]), row["reply"]) for row in rows],
        [row["label_1"] for row in rows],
    )
    return model.predict_proba([words(*text) for text in texts])[:, 1]


def youden(scores: np.ndarray, unfit: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sensitivity + specificity - 1 at the threshold; (R,) from (R, N) weights."""
    called = scores >= THRESHOLD
    hit = (weights * (called & unfit)).sum(1) / (weights * unfit).sum(1)
    return hit - (weights * (called & ~unfit)).sum(1) / (weights * ~unfit).sum(1)


def measured(scores: np.ndarray, unfit: np.ndarray, contexts: list[str]) -> dict[str, Any]:
    """AUC and sensitivity + specificity - 1 with 95 % intervals, contexts drawn as a whole."""
    numbers = {context: i for i, context in enumerate(dict.fromkeys(contexts))}
    cluster = np.array([numbers[context] for context in contexts])
    once = np.ones((1, len(scores)))
    draws = cluster_draws(len(numbers), RESAMPLES, np.random.default_rng(0), CHUNK)
    weights = [times[:, cluster].astype(float) for times in draws]
    found: dict[str, Any] = {}
    for name, measure in (
        ("auc", lambda w: area_under_curve(scores, unfit, w)),
        ("youden", lambda w: youden(scores, unfit, w)),
    ):
        values = np.concatenate([measure(chunk) for chunk in weights])
        low, high = percentile_ends(values[np.isfinite(values)])
        found[name] = Interval(float(measure(once)[0]), low, high)
    return found


@click.command()
@click.option("--judge", "judges", multiple=True, metavar="NAME=KIND:WHERE", required=True)
@click.option(
    "--bag-of-words",
    "bags",
    multiple=True,
    metavar="NAME=LABELS",
    default=(f"bag of words={GENERATED}",),
    help="A baseline, and the file that it learns from.",
)
@click.option("--compared", metavar="NAME", help="Of a labelled comparison: these replies instead.")
@click.option("--results", type=click.Path(path_type=Path, file_okay=False), default=RESULTS)
def main(
    judges: tuple[str, ...], bags: tuple[str, ...], compared: str | None, results: Path
) -> None:
    """Measure judges and baselines, and write the table."""
    show_user_errors_as_one_line()
    rows = validating() if compared is None else compared_in(compared)
    contexts, replies = [row.context for row in rows], [row.reply for row in rows]
    unfit = np.array([row.unfit for row in rows])
    models = list(dict.fromkeys(row.model for row in rows if row.model))
    kinds = KINDS if compared is None else {"all": None}
    bf16 = bf16_is_faster(best_device())
    scores = {}
    for given in bags:
        name, _, labels = given.partition("=")
        scores[name] = bag_of_words(labels, list(zip(contexts, replies, strict=True)))
    names = {}
    for given in (f"{RULES}=", *judges):
        name, _, spec = given.partition("=")
        judge = open_judge(spec, find_datapath(None), bf16) if spec else AgreementRules()
        click.echo(f"{name}: {judge.name}", err=True)
        answers = judge_each(judge, contexts, replies)
        scores[name] = np.array([np.nan if a is None else a.p_unsafe for a in answers])
        names[name] = judge.name
    table_rows = []
    for name, values in scores.items():
        row: dict[str, Any] = {"judge": name, "missing": int(np.isnan(values).sum())}
        for kind, suite in kinds.items():
            kept = ~np.isnan(values) & np.array([suite in (None, r.suite) for r in rows])
            if kept.any():
                own = [context for context, keep in zip(contexts, kept, strict=True) if keep]
                found = measured(values[kept], unfit[kept], own)
                row[f"auc {kind}"] = found["auc"]
                if kind == "all":
                    row["youden"] = found["youden"]
        for model in models:
            own_values = values[[r.model == model for r in rows]]
            called = int((own_values >= THRESHOLD).sum())
            row[model] = wilson_interval(called, int(np.isfinite(own_values).sum()))
        table_rows.append(row)
    if models:
        labelled_rows = {m: [r.unfit for r in rows if r.model == m] for m in models}
        table_rows.append(
            {"judge": "the labels"}
            | {m: wilson_interval(sum(own), len(own)) for m, own in labelled_rows.items()}
        )
    columns: dict[str, dict[str, Any]] = {"judge": {"label": "judge"}}
    columns |= {f"auc {kind}": {"label": f"AUC, {kind}", "digits": 2} for kind in kinds}
    columns["youden"] = {"label": "sensitivity + specificity - 1", "digits": 2}
    columns |= {model: {"label": f"{model}: unsafe, %", "scale": 100} for model in models}
    columns["missing"] = {"label": "missing", "digits": 0}
    twice = ", twice alike" if compared is None else ""
    note = (
        f"{len(rows)} replies to {len(set(contexts))} contexts, {unfit.sum()} labelled unsafe by a "
        f"large language model{twice}; 95 % bootstrap intervals over contexts; threshold 0.5."
    )
    table = make_table("Judges of generated replies", columns, table_rows, [note])
    click.echo(terminal_table(table))
    command = without_folders(shlex.join(["python", "benchmarks/bench_judges.py", *sys.argv[1:]]))
    facts = environment(best_device(), bf16, 0) | {"command": command}
    content = {"environment": facts, "judges": names, "tables": [table]}
    stem = "judges" if compared is None else f"judges-of-{compared}"
    write_aside(results / f"{stem}.json", json.dumps(content, indent=2) + "\n")
    write_aside(results / f"{stem}.md", f"{markdown_table(table)}\n\nMade by `{command}`.\n")


if __name__ == "__main__":
    main()
