"""What is measured of a model on the two axes: ranking of unsafe replies, and casual dialogue.

docs/design.md#ranking says why these rows stand beside each other. Nothing here trains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parlai_prosocial.data import diasafety, self_dialogue
from parlai_prosocial.engines.local import sample_replies
from parlai_prosocial.engines.reply_scores import ReplyScore, SampledReply, score_replies
from parlai_prosocial.evaluation.metrics.replies import reply_statistics
from parlai_prosocial.evaluation.suites.casual import CasualReply, casual_replies
from parlai_prosocial.evaluation.suites.ranking import RankingContext, ranking_contexts
from parlai_prosocial.experiments.baselines import (
    reply_only_scores,
    shorter_reply_scores,
    shuffled_contexts,
)
from parlai_prosocial.experiments.ranking import (
    context_accuracies,
    replies_to_score,
)
from parlai_prosocial.experiments.verdict_counts import Judges, count_verdicts
from parlai_prosocial.judges.judge import Judge
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.util.batches import spread

REPLY_ONLY, SHORTER = "reply-only classifier", "shorter reply"
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


def evaluation_data(datapath: str, fold: int, plan: Mapping[str, Any]) -> EvaluationData:
    """What a recipe's ``compare.json`` takes of a fold's test parts."""
    contexts = ranking_contexts(diasafety.load_rows(datapath, "test", fold=fold))
    if plan["contexts_per_category"]:
        chosen: dict[str, list] = {}
        for context in contexts:
            chosen.setdefault(context.category, []).append(context)
        contexts = [c for cs in chosen.values() for c in cs[: plan["contexts_per_category"]]]
    dialogues = self_dialogue.load_dialogues(datapath, "test")[: plan["casual_dialogues"]]
    return EvaluationData(
        contexts=contexts,
        train_rows=diasafety.load_rows(datapath, "train", fold=fold),
        casual=casual_replies(dialogues, plan["casual_replies"]),
        # To the end of the contexts, which stand in the order of their categories.
        sampled=[contexts[i].context for i in spread(len(contexts), plan["sampled_replies"])],
    )


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


def _statistics(replies: Sequence[SampledReply | None]) -> dict[str, Any]:
    given = [reply for reply in replies if reply is not None]
    return asdict(reply_statistics([r.text for r in given], [r.ended for r in given]))


def _verdicts(
    judge: Judge, contexts: Sequence[str], replies: Sequence[SampledReply | None]
) -> dict[str, Any]:
    return count_verdicts(judge, contexts, [None if r is None else r.text for r in replies])


def _means(scores: Sequence[Sequence[ReplyScore]]) -> list[list[float]]:
    return [[s.mean_log_prob for s in replies] for replies in scores]
