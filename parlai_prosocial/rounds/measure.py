"""How a round's model does on held-out contexts and in casual dialogue."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parlai_prosocial.data import self_dialogue
from parlai_prosocial.data.labelled import UNRESPONSIVE, UNSAFE
from parlai_prosocial.engines.local import TransformersEngine
from parlai_prosocial.engines.reply_scores import score_replies
from parlai_prosocial.evaluation.metrics.rates import Rate
from parlai_prosocial.evaluation.metrics.replies import reply_statistics
from parlai_prosocial.evaluation.statistics.bootstrap import macro_difference, unless_too_few
from parlai_prosocial.evaluation.statistics.perplexity import perplexity, perplexity_ratio
from parlai_prosocial.evaluation.suites.casual import CasualReply, casual_replies
from parlai_prosocial.judges.judge import THRESHOLD
from parlai_prosocial.mining.replies import PREACHY, Record
from parlai_prosocial.mining.turns import Contexts

REPLIES_PER_DIALOGUE = 2


def casual_valid(datapath: str, dialogues: int) -> list[CasualReply]:
    """People's replies of Self-dialogue's ``valid``, two of each of the first dialogues."""
    return casual_replies(
        self_dialogue.load_dialogues(datapath, "valid")[:dialogues], REPLIES_PER_DIALOGUE
    )


@dataclass
class CasualScores:
    """-log p of casual replies in nats, and their tokens; one for each reply."""

    nll: list[float]
    tokens: list[int]


def score_casual(engine: TransformersEngine, replies: Sequence[CasualReply]) -> CasualScores:
    """What a model thinks of people's casual replies."""
    scores = score_replies(
        engine.backbone,
        [("\n".join(reply.context), [reply.response]) for reply in replies],
        engine.bf16,
        max_context_tokens=engine.max_context_tokens,
    )
    return CasualScores(
        [round(score.nll, 4) for [score] in scores], [score.tokens for [score] in scores]
    )


def measured(
    contexts: Contexts,
    records: Sequence[Sequence[Record]],
    casual: CasualScores,
    dialogues: Sequence[Any],
    start: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """All that is measured of one model, JSON-serialisable.

    Args:
        contexts: N held-out contexts.
        records: the one judged reply to each.
        casual: of the casual replies.
        dialogues: the dialogue of each casual reply.
        start: the same of the model that the first round starts from; None for itself.

    Returns:
        ``unsafe`` and ``over_cautious`` (hits, judged, missing, rate; on contexts that are not
        casual, and on those that are), ``unresponsive`` (everywhere; where a judge was asked),
        ``replies`` (to those that are not), ``unsafe_verdicts``,
        ``casual`` (the scores), ``perplexity``, and against the start ``unsafe_difference`` and
        ``perplexity_ratio``; None where there is nothing to compare.
    """
    found = [record for [record] in records]
    hard = [r for r, is_casual in zip(found, contexts.casual, strict=True) if not is_casual]
    harmless = [r for r, is_casual in zip(found, contexts.casual, strict=True) if is_casual]
    verdicts = [_verdict(record, UNSAFE) for record in hard]
    given = [record for record in hard or harmless if record["reply"]]
    row: dict[str, Any] = {
        "unsafe": _rate(verdicts),
        "over_cautious": _rate([_verdict(record, PREACHY) for record in harmless]),
        "unresponsive": _rate([_verdict(record, UNRESPONSIVE) for record in found])
        if any(UNRESPONSIVE in record for record in found)
        else None,
        "replies": asdict(
            reply_statistics([r["reply"] for r in given], [r["ended"] for r in given])
        )
        if given
        else None,
        "unsafe_verdicts": verdicts,
        "casual": asdict(casual),
        "perplexity": asdict(perplexity(casual.nll, casual.tokens, dialogues)),
        "unsafe_difference": None,
        "perplexity_ratio": None,
    }
    if start is not None:
        row["unsafe_difference"] = _difference(verdicts, start["unsafe_verdicts"])
        before = (start["casual"]["nll"], start["casual"]["tokens"])
        row["perplexity_ratio"] = asdict(
            perplexity_ratio((casual.nll, casual.tokens), before, dialogues)
        )
    return row


def _verdict(record: Record, kind: str) -> bool | None:
    verdict = record.get(kind)
    return None if verdict is None else verdict[0] >= THRESHOLD


def _rate(verdicts: Sequence[bool | None]) -> dict[str, Any]:
    rate = Rate()
    rate.update(verdicts)
    interval = rate.compute()
    return {**asdict(rate), "rate": interval and asdict(interval)}


def _difference(
    after: Sequence[bool | None], before: Sequence[bool | None]
) -> dict[str, Any] | None:
    """Of the unsafe rates, paired by context; None where no context is judged for both."""
    both = [
        (float(a), float(b))
        for a, b in zip(after, before, strict=True)
        if a is not None and b is not None
    ]
    if not both:
        return None
    first, second = zip(*both, strict=True)
    difference = macro_difference(first, second, [0] * len(both), range(len(both)))
    return asdict(unless_too_few(difference, len(both)))
