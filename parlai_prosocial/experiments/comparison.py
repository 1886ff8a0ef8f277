"""The tables of ``prosocial compare``: ranking, casual dialogue, and what they differ by."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from parlai_prosocial.evaluation.results.columns import TRAINING_COLUMNS, Column, reply_columns
from parlai_prosocial.evaluation.results.tables import make_table
from parlai_prosocial.evaluation.statistics.bootstrap import METHOD, corrected
from parlai_prosocial.evaluation.statistics.perplexity import perplexity, perplexity_ratio
from parlai_prosocial.evaluation.suites.ranking import RankingContext
from parlai_prosocial.experiments.measurements import EvaluationData, pooled_casual
from parlai_prosocial.experiments.ranking import (
    CONTEXT_BOUND,
    GIVE_AWAY,
    accuracy_difference,
    accuracy_intervals,
)
from parlai_prosocial.util.counting import counted


def comparison_tables(
    data: Mapping[int, EvaluationData],
    results: Mapping[int, Mapping[str, dict[str, Any]]],
    control: str,
    primary: str,
    arms: Collection[str],
) -> list[dict[str, Any]]:
    """Tables over all folds.

    Args:
        data: fold -> what it was scored on.
        results: fold -> row -> measurements, of ``measurements.measure_model`` and the like; with
            the untouched base's row first.
        control: the row that the primary comparison is with.
        primary: the row that all others are compared with.
        arms: the rows that were trained; the p-values of their differences are corrected together,
            and other rows have none.

    Returns:
        Ranking, casual dialogue and replies, and differences (the primary one first), for
        ``tables.markdown_table`` and ``terminal_table``.
    """
    names = list(next(iter(results.values())))
    contexts: dict[Hashable, list[RankingContext]] = {f: d.contexts for f, d in data.items()}
    ranking: dict[str, dict[Hashable, np.ndarray]] = {
        name: {fold: np.array(results[fold][name]["ranking"]) for fold in results} for name in names
    }
    models = [name for name in names if "casual_nll" in results[min(results)][name]]
    return [
        _ranking_table(contexts, ranking),
        _casual_table(data, results, models),
        _difference_table(contexts, ranking, data, results, control, primary, arms),
    ]


def _ranking_table(
    contexts: Mapping[Hashable, Sequence[RankingContext]],
    ranking: Mapping[str, Mapping[Hashable, np.ndarray]],
) -> dict[str, Any]:
    groups = ["context-bound", *CONTEXT_BOUND, *GIVE_AWAY]
    columns: dict[str, dict[str, Any]] = {"row": {"label": "row"}}
    columns |= {group: {"label": group, "scale": 100} for group in groups}
    rows = []
    for name, accuracies in ranking.items():
        intervals = accuracy_intervals(contexts, accuracies)
        rows.append({"row": name} | {group: intervals[group] for group in groups})
    count = sum(len(c) for c in contexts.values())
    return make_table(
        "Ranking: safe reply above unsafe reply, % of pairs, per context, then per category",
        columns,
        rows,
        [
            f"{counted(count, 'test context')} over {counted(len(contexts), 'fold')}; {METHOD}; "
            "chance is 50.",
            "context-bound is the macro average of the three categories after it; in the last two "
            "a reply gives itself away.",
        ],
    )


def _casual_table(
    data: Mapping[int, EvaluationData],
    results: Mapping[int, Mapping[str, dict[str, Any]]],
    models: Sequence[str],
) -> dict[str, Any]:
    columns: dict[str, Column] = {
        "row": {"label": "model"},
        "ppl": {"label": "casual perplexity"},
        **reply_columns("hedges", "words", "distinct_2", "ended"),
        **TRAINING_COLUMNS,
    }
    rows = []
    for name in models:
        nll, tokens, dialogues, seeds = pooled_casual(data, results, name)
        replies = [results[fold][name]["replies"] for fold in results]
        rows.append(
            {
                "row": name,
                "ppl": perplexity(nll, tokens, dialogues, seeds),
                "hedges": float(np.mean([r["hedges"]["estimate"] for r in replies])),
                "words": float(np.mean([r["mean_words"] for r in replies])),
                "distinct_2": float(np.mean([r["distinct_2"] for r in replies])),
                "ended": float(np.mean([r["ended"]["estimate"] for r in replies])),
                "tokens": float(
                    np.mean([results[fold][name].get("trained_tokens", 0) for fold in results])
                ),
                "seconds": float(
                    np.mean([results[fold][name].get("train_seconds", 0) for fold in results])
                ),
            }
        )
    count = sum(r["count"] for r in replies)
    return make_table(
        "Casual dialogue (Self-dialogue, in domain), and sampled replies to test contexts",
        columns,
        rows,
        [
            f"{count} sampled replies a row (nucleus 0.9, temperature 0.7, at most 40 tokens); "
            "tokens and seconds are means a seed, both steps together."
        ],
    )


def _difference_table(
    contexts: Mapping[Hashable, Sequence[RankingContext]],
    ranking: Mapping[str, Mapping[Hashable, np.ndarray]],
    data: Mapping[int, EvaluationData],
    results: Mapping[int, Mapping[str, dict[str, Any]]],
    control: str,
    primary: str,
    arms: Collection[str],
) -> dict[str, Any]:
    gains = {
        name: accuracy_difference(contexts, ranking[primary], values)
        for name, values in ranking.items()
        if name != primary
    }
    gains = corrected(gains, control, arms)
    rows: list[dict[str, Any]] = [
        {
            "comparison": f"{primary} minus {control} (primary)",
            "ranking": gains.pop(control),
            "ppl": None,
        }
    ]
    rows += [
        {"comparison": f"{primary} minus {name}", "ranking": gain} for name, gain in gains.items()
    ]
    for name in (control, next(iter(ranking))):
        first, second = (pooled_casual(data, results, n) for n in (primary, name))
        ratio = perplexity_ratio(first[:2], second[:2], first[2], first[3])
        rows.append({"comparison": f"{primary} / {name}, casual perplexity", "ppl": ratio})
    columns: dict[str, dict[str, Any]] = {
        "comparison": {"label": "comparison"},
        "ranking": {"label": "context-bound ranking, points", "scale": 100},
        "ppl": {"label": "perplexity ratio", "digits": 3},
    }
    return make_table(
        "Differences, paired by context and seed",
        columns,
        rows,
        [
            "The comparisons of trained arms but the primary one are corrected by Holm's method; "
            "the others ask nothing."
        ],
    )
