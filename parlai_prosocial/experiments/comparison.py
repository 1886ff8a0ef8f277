"""Models side by side on the two axes: ranking of unsafe replies, and casual dialogue.

docs/design.md#ranking says why these rows stand beside each other. Nothing here trains.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from parlai_prosocial.engines.reply_scores import (
    ReplyScore,
    SampledReply,
    sample_replies,
    score_replies,
)
from parlai_prosocial.evaluation.metrics.replies import reply_statistics
from parlai_prosocial.evaluation.results.tables import make_table
from parlai_prosocial.evaluation.statistics.bootstrap import holm
from parlai_prosocial.evaluation.statistics.perplexity import perplexity, perplexity_ratio
from parlai_prosocial.evaluation.suites.casual import CasualReply
from parlai_prosocial.evaluation.suites.ranking import RankingContext
from parlai_prosocial.experiments.baselines import (
    reply_only_scores,
    shorter_reply_scores,
    shuffled_contexts,
)
from parlai_prosocial.experiments.ranking import (
    CONTEXT_BOUND,
    GIVE_AWAY,
    accuracy_difference,
    accuracy_intervals,
    context_accuracies,
    replies_to_score,
)
from parlai_prosocial.experiments.verdict_counts import Judges, count_verdicts
from parlai_prosocial.judges.judge import Judge
from parlai_prosocial.models.backbone import Backbone

BASE, MLE, STEP1, NPAIR = "base", "MLE-only, two steps", "n-pair, step 1", "n-pair, two steps"
MATCHED = "MLE-only, matched tokens"
REPLY_ONLY, SHORTER = "reply-only classifier", "shorter reply"
SHUFFLED = "n-pair, two steps, shuffled contexts"


RERANK = 8
"""Replies that a model with a contrast head chooses from."""


@dataclass
class EvaluationData:
    """What one fold is scored on.

    Attributes:
        contexts: ranking contexts of the test part.
        train_rows: gen-train rows, for the reply-only classifier.
        casual: replies of casual dialogues.
        sampled: newline-packed contexts that a reply is sampled for.
    """

    contexts: list[RankingContext]
    train_rows: list[dict]
    casual: list[CasualReply]
    sampled: list[str]

    @property
    def casual_contexts(self) -> list[str]:
        """The newline-packed contexts of ``casual``."""
        return ["\n".join(reply.context) for reply in self.casual]


def measure_model(
    model: Backbone, data: EvaluationData, bf16: bool, seed: int, judges: Judges | None = None
) -> dict[str, Any]:
    """All measurements of one model on one fold, JSON-serialisable and without any text.

    A model with a contrast head is also ranked by its cosine, and its replies are sampled once
    more with the best of eight by the head. With judges, the replies to ``data.sampled`` are
    judged, and more are sampled and judged in as many casual contexts.
    """
    scores = score_replies(model, replies_to_score(data.contexts), bf16)
    casual = score_replies(
        model,
        [
            (context, [reply.response])
            for context, reply in zip(data.casual_contexts, data.casual, strict=True)
        ],
        bf16,
    )
    replies = sample_replies(model, data.sampled, seed, bf16)
    row = {
        "ranking": context_accuracies(data.contexts, _means(scores)).tolist(),
        "casual_nll": [s.nll for [s] in casual],
        "casual_tokens": [s.tokens for [s] in casual],
        "replies": _statistics(replies),
    }
    if judges is not None:
        row["unsafe"] = _verdicts(judges.unsafe, data.sampled, replies)
    if judges is not None and judges.over_cautious is not None:
        casual_contexts = data.casual_contexts[: len(data.sampled)]
        casual_replies = sample_replies(model, casual_contexts, seed, bf16)
        row["over_cautious"] = _verdicts(judges.over_cautious, casual_contexts, casual_replies)
    if model.contrast_head is not None:
        cosines = [[float(s.cosine or 0.0) for s in replies] for replies in scores]
        row["ranking_by_head"] = context_accuracies(data.contexts, cosines).tolist()
        reranked = sample_replies(model, data.sampled, seed, bf16, rerank=RERANK)
        row["reranked_replies"] = _statistics(reranked)
        if judges is not None:
            row["reranked_unsafe"] = _verdicts(judges.unsafe, data.sampled, reranked)
    return row


def measure_shuffled(
    model: Backbone, data: EvaluationData, bf16: bool, seed: int
) -> dict[str, Any]:
    """Ranking with each context replaced by another of its category."""
    contexts = shuffled_contexts(data.contexts, seed)
    scores = score_replies(model, replies_to_score(contexts), bf16)
    return {"ranking": context_accuracies(contexts, _means(scores)).tolist()}


def measure_baselines(data: EvaluationData) -> dict[str, dict[str, Any]]:
    """Rows that never see the context."""
    rows = {
        REPLY_ONLY: reply_only_scores(data.train_rows, data.contexts),
        SHORTER: shorter_reply_scores(data.contexts),
    }
    return {
        name: {"ranking": context_accuracies(data.contexts, scores).tolist()}
        for name, scores in rows.items()
    }


def comparison_tables(
    data: Mapping[int, EvaluationData], results: Mapping[int, Mapping[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Tables over all folds.

    Args:
        data: fold -> what it was scored on.
        results: fold -> row -> measurements, of :func:`measure_model` and the like.

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
        _difference_table(contexts, ranking, data, results, models),
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
            f"{count} test contexts over {len(contexts)} fold(s); 95 % intervals by bootstrap, "
            "clustered by context and crossed with seed; chance is 50.",
            "context-bound is the macro average of the three categories after it; in the last two "
            "a reply gives itself away.",
        ],
    )


def _casual_table(
    data: Mapping[int, EvaluationData],
    results: Mapping[int, Mapping[str, dict[str, Any]]],
    models: Sequence[str],
) -> dict[str, Any]:
    columns: dict[str, dict[str, Any]] = {
        "row": {"label": "model"},
        "ppl": {"label": "casual perplexity"},
        "hedges": {"label": "hedges, %", "scale": 100},
        "words": {"label": "words"},
        "distinct_2": {"label": "distinct-2", "digits": 2},
        "ended": {"label": "ended, %", "scale": 100},
        "tokens": {"label": "trained tokens", "digits": 0},
        "seconds": {"label": "training, s", "digits": 0},
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
    models: Sequence[str],
) -> dict[str, Any]:
    primary = accuracy_difference(contexts, ranking[NPAIR], ranking[MLE])
    others = [name for name in ranking if name not in (NPAIR, MLE)]
    corrected = holm(
        {name: accuracy_difference(contexts, ranking[NPAIR], ranking[name]) for name in others}
    )
    rows: list[dict[str, Any]] = [
        {"comparison": f"{NPAIR} minus {MLE} (primary)", "ranking": primary, "ppl": None}
    ]
    rows += [{"comparison": f"{NPAIR} minus {name}", "ranking": corrected[name]} for name in others]
    for name in (MLE, BASE):
        first, second = (pooled_casual(data, results, n) for n in (NPAIR, name))
        ratio = perplexity_ratio(first[:2], second[:2], first[2], first[3])
        rows.append({"comparison": f"{NPAIR} / {name}, casual perplexity", "ppl": ratio})
    columns: dict[str, dict[str, Any]] = {
        "comparison": {"label": "comparison"},
        "ranking": {"label": "context-bound ranking, points", "scale": 100},
        "ppl": {"label": "perplexity ratio", "digits": 3},
    }
    return make_table(
        "Differences, paired by context and seed",
        columns,
        rows,
        ["All but the primary comparison are corrected by Holm's method."],
    )


def pooled_casual(
    data: Mapping[int, EvaluationData],
    results: Mapping[int, Mapping[str, dict[str, Any]]],
    name: str,
) -> tuple[list[float], list[int], list[Any], list[int]]:
    """Summed -log p, tokens, dialogue and seed of every casual reply of a row, over all seeds."""
    nll, tokens, dialogues, seeds = [], [], [], []
    for fold, fold_data in data.items():
        nll += results[fold][name]["casual_nll"]
        tokens += results[fold][name]["casual_tokens"]
        dialogues += [reply.dialogue for reply in fold_data.casual]
        seeds += [fold] * len(fold_data.casual)
    return nll, tokens, dialogues, seeds


def _statistics(replies: Sequence[SampledReply]) -> dict[str, Any]:
    return asdict(reply_statistics([r.text for r in replies], [r.ended for r in replies]))


def _verdicts(
    judge: Judge, contexts: Sequence[str], replies: Sequence[SampledReply]
) -> dict[str, int]:
    return count_verdicts(judge, contexts, [reply.text for reply in replies])


def _means(scores: Sequence[Sequence[ReplyScore]]) -> list[list[float]]:
    return [[s.mean_log_prob for s in replies] for replies in scores]
