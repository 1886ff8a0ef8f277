"""Judges against the labels of generated replies: benchmarks/results/judges.{json,md}.

::

    python benchmarks/bench_judges.py --judge "mpnet=classifier:zoo:prosocial/mpnet_safety" \\
        --judge "MiniLM=classifier:zoo:prosocial/minilm_safety" --judge "word list=words"

The labels are those of benchmarks/results/labels/unsafe.jsonl that both passes agree on, on which
no judge is trained. The baselines are bags of words, which are logistic regressions on the labels
that judges learn from (``--bag-of-words``), and the rules of agreement.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from parlai_prosocial.cards.card import without_folders
from parlai_prosocial.compat.flags import find_datapath
from parlai_prosocial.data import labelled
from parlai_prosocial.errors import show_user_errors_as_one_line
from parlai_prosocial.evaluation.results.tables import make_table, markdown_table, terminal_table
from parlai_prosocial.evaluation.statistics.bootstrap import (
    Interval,
    cluster_draws,
    percentile_ends,
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


def bag_of_words(labels: str, texts: list[tuple[str, str]]) -> np.ndarray:
    """p(unsafe) of (context, reply) by words and pairs of words of the reply and of its context."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = labelled.load_rows([labels], "unsafe")

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
@click.option("--results", type=click.Path(path_type=Path, file_okay=False), default=RESULTS)
def main(judges: tuple[str, ...], bags: tuple[str, ...], results: Path) -> None:
    """Measure judges and baselines, and write the table."""
    show_user_errors_as_one_line()
    rows = [row for row in read_sheet(LABELS / "unsafe.jsonl") if row.agreed is not None]
    contexts = ["\n".join(row.context) for row in rows]
    replies = [row.reply for row in rows]
    unfit = np.array([row.label_1 for row in rows])
    bf16 = bf16_is_faster(best_device())
    scores = {}
    for given in bags:
        name, _, labels = given.partition("=")
        scores[name] = bag_of_words(labels, list(zip(contexts, replies, strict=True)))
    opened: dict[str, Any] = {RULES: AgreementRules()}
    for given in judges:
        name, _, spec = given.partition("=")
        opened[name] = open_judge(spec, find_datapath(None), bf16)
    names = {}
    for name, judge in opened.items():
        click.echo(f"{name}: {judge.name}", err=True)
        answers = judge_each(judge, contexts, replies)
        scores[name] = np.array([np.nan if a is None else a.p_unsafe for a in answers])
        names[name] = judge.name
    table_rows = []
    for name, values in scores.items():
        row: dict[str, Any] = {"judge": name, "missing": int(np.isnan(values).sum())}
        for kind, suite in KINDS.items():
            kept = ~np.isnan(values) & np.array([suite in (None, r.suite) for r in rows])
            if kept.any():
                own = [context for context, keep in zip(contexts, kept, strict=True) if keep]
                found = measured(values[kept], unfit[kept], own)
                row[f"auc {kind}"] = found["auc"]
                if kind == "all":
                    row["youden"] = found["youden"]
        table_rows.append(row)
    columns: dict[str, dict[str, Any]] = {"judge": {"label": "judge"}}
    columns |= {f"auc {kind}": {"label": f"AUC, {kind}", "digits": 2} for kind in KINDS}
    columns["youden"] = {"label": "sensitivity + specificity - 1", "digits": 2}
    columns["missing"] = {"label": "missing", "digits": 0}
    note = (
        f"{len(rows)} replies to {len(set(contexts))} contexts, {unfit.sum()} labelled unsafe by a "
        "large language model, twice alike; 95 % bootstrap intervals over contexts; threshold 0.5."
    )
    table = make_table("Judges of generated replies", columns, table_rows, [note])
    click.echo(terminal_table(table))
    command = without_folders(shlex.join(["python", "benchmarks/bench_judges.py", *sys.argv[1:]]))
    facts = environment(best_device(), bf16, 0) | {"command": command}
    content = {"environment": facts, "judges": names, "tables": [table]}
    write_aside(results / "judges.json", json.dumps(content, indent=2) + "\n")
    write_aside(results / "judges.md", f"{markdown_table(table)}\n\nMade by `{command}`.\n")


if __name__ == "__main__":
    main()
