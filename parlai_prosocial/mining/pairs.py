"""Pairs from a model's own judged replies: a safe one is the response, unfit ones the negatives.

Contrasting a model with what it says itself is what published methods that gain much have in
common (Click, RSO, iterative DPO, Pairwise Cringe). Length and style must not give a reply away,
so a negative is about as long as the response, and both come from one model and one decoding.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from parlai_prosocial.data.labelled import UNRESPONSIVE, UNSAFE
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.data.weights import social_weights
from parlai_prosocial.judges.judge import GRAVEST, THRESHOLD
from parlai_prosocial.mining.replies import LABELLED, PREACHY, Record
from parlai_prosocial.mining.turns import Contexts

NO_SAFE = "no clearly safe reply"
NO_UNFIT = "no clearly unsafe, unresponsive or preachy reply"
WORST_FIRST = (UNSAFE, UNRESPONSIVE, PREACHY)
NO_RESPONSE = "no safe reply that ended, of fitting length and likely enough"
NO_NEAR = "no unfit reply about as long as the response"


@dataclass(frozen=True)
class PairRule:
    """Which of a context's judged replies make a pair.

    Attributes:
        safe_below: most ``p_unsafe`` of a clearly safe reply, in [0, 1), and most p of not
            answering the turn where that was judged.
        unsafe_from: least ``p_unsafe`` of a clearly unsafe one, in (0, 1]; what lies between the
            two is neither. A reply does not answer, or is preachy, from a p of ``THRESHOLD``.
        least_words, most_words: of a response; words are split at white space.
        length_tolerance: most difference of a negative's number of words from the response's, as
            a share of the latter.
        negatives: most negatives of a response.
        preachy_share: preachy replies become negatives where more than this share of the judged
            replies to harmless contexts is preachy.
    """

    safe_below: float = 0.3
    unsafe_from: float = 0.7
    least_words: int = 5
    most_words: int = 30
    length_tolerance: float = 0.3
    negatives: int = 4
    preachy_share: float = 0.02


@dataclass(frozen=True)
class Pair:
    """A response and its negatives, the worst first.

    Attributes:
        response: its record.
        negatives: of each its record, its kind (one of ``WORST_FIRST``) and how bad it is,
            above 0 and at most 1.
    """

    response: Record
    negatives: Sequence[tuple[Record, str, float]]


def choose_pair(
    records: Sequence[Record],
    rule: PairRule,
    preachy: bool = False,
    fitting: frozenset = frozenset(),
) -> Pair | str:
    """The pair of one context, or why it has none.

    The response is clearly safe, ended by itself, of fitting length, and at least as likely as the
    median of the context's clearly safe replies; of several the one sampled first, as long as there
    is a negative of its length. The one that the judge is surest of would nearly always be a set
    phrase, which the model then says everywhere. A
    missing judgement is never safe, and neither is a reply that does not answer the turn, where
    that is known, or a preachy one to a harmless context. Negatives are clearly unsafe, or else
    clearly unresponsive, or else preachy; of a kind the most severe come first, then the likelier.
    Without the unresponsive ones evasion is what a model learns soonest. Replies that are equal but
    for case and punctuation count once.

    Args:
        records: of one context's sampled replies, judged, with ``ended`` and ``log_prob``.
        rule: the thresholds.
        preachy: whether preachy replies are negatives.
        fitting: normalised replies that fit as the task says; they are no negatives.
    """
    distinct: dict[str, Record] = {}
    for record in records:
        if record["reply"]:
            distinct.setdefault(normalise_text(record["reply"]), record)
    safe = [record for record in distinct.values() if is_safe(record, rule)]
    if not safe:
        return NO_SAFE
    unfit = [
        (record, *found)
        for key, record in distinct.items()
        if key not in fitting and (found := badness(record, rule, preachy)) is not None
    ]
    if not unfit:
        return NO_UNFIT
    middle = median(record["log_prob"] for record in safe)
    responses = [
        record
        for record in safe
        if record["ended"]
        and rule.least_words <= _words(record) <= rule.most_words
        and record["log_prob"] >= middle
    ]
    if not responses:
        return NO_RESPONSE
    # Sorting is stable: what is equal stays in the order of sampling.
    unfit.sort(key=lambda one: (WORST_FIRST.index(one[1]), -one[2], -one[0]["log_prob"]))
    for response in responses:
        words = _words(response)
        most = rule.length_tolerance * words + 1e-9  # 0.1 * 30 is above 3
        near = [one for one in unfit if abs(_words(one[0]) - words) <= most]
        if near:
            return Pair(response, near[: rule.negatives])
    return NO_NEAR


def is_safe(record: Record, rule: PairRule) -> bool:
    """Whether every judge that was asked says clearly that a reply fits."""
    verdict = record.get(UNSAFE)
    if verdict is None or verdict[0] > rule.safe_below:
        return False
    if UNRESPONSIVE in record:
        answers = record[UNRESPONSIVE]
        if answers is None or answers[0] > rule.safe_below or answers[0] >= THRESHOLD:
            return False
    return PREACHY not in record or (record[PREACHY] is not None and not _is_preachy(record))


def badness(record: Record, rule: PairRule, preachy: bool) -> tuple[str, float] | None:
    """The kind of an unfit reply and how bad it is; None for others.

    How bad, in 0..1: the severity as a share of the gravest, as a label has it already, where there
    is one; else the judge's probability.
    """
    for kind, least in ((UNSAFE, rule.unsafe_from), (UNRESPONSIVE, THRESHOLD)):
        verdict = record.get(kind)
        if verdict is not None and verdict[0] >= least:
            p_unfit, who, *severity = verdict
            how_bad = severity[0] if severity else p_unfit
            if severity and who != LABELLED:
                how_bad /= GRAVEST
            if how_bad > 0:
                return kind, how_bad
    if preachy and _is_preachy(record):
        return PREACHY, record[PREACHY][0]
    return None


def preachy_share(records: Sequence[Sequence[Record]]) -> float | None:
    """Share of preachy replies among those judged for it; None where none is."""
    judged = [r for found in records for r in found if r.get(PREACHY) is not None]
    return sum(map(_is_preachy, judged)) / len(judged) if judged else None


def pair_rows(
    contexts: Contexts,
    records: Sequence[Sequence[Record]],
    rule: PairRule,
    judges: Mapping[str, str],
    split: str,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of own data from judged replies, one a context with a pair, and the counts.

    A row has no rules of thumb: its log p are of the context as it was sampled in. Weights are
    scaled for each kind of negative apart.

    Args:
        contexts: N contexts.
        records: N lists of judged records.
        rule: the thresholds.
        judges: the judge's name of each kind of negative.
        split: of the contexts, written into every row.
    """
    share = preachy_share(records)
    preachy = share is not None and share > rule.preachy_share
    counts: Counter[str] = Counter()
    without: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    kinds: list[list[str]] = []
    for turns, found in zip(contexts.turns, records, strict=True):
        counts.update(_outcome(record, rule) for record in found)
        fitting = frozenset(normalise_text(label) for turn in turns for label in turn.labels)
        pair = choose_pair(found, rule, preachy, fitting)
        if isinstance(pair, str):
            without[pair] += 1
            continue
        first = turns[0]
        rows.append(
            {
                "context": list(first.context),
                "response": pair.response["reply"],
                "safety_label": first.safety_label,
                "negatives": [record["reply"] for record, _, _ in pair.negatives],
                "negative_weights": [how_bad for _, _, how_bad in pair.negatives],
                "negative_sources": [record["source"] for record, _, _ in pair.negatives],
                "negative_judges": [
                    LABELLED if record["source"] == LABELLED == record[kind][1] else judges[kind]
                    for record, kind, _ in pair.negatives
                ],
                "reference_log_prob": pair.response["log_prob"],
                "negative_reference_log_probs": [r["log_prob"] for r, _, _ in pair.negatives],
                "contrast_group": first.contrast_group or None,
                "source": first.source,
                "split": split,
            }
        )
        kinds.append([kind for _, kind, _ in pair.negatives])
    scale_weights(rows, kinds)
    of_kind = Counter(kind for found in kinds for kind in found)
    summary = {
        "contexts": len(contexts.turns),
        "casual_contexts": sum(contexts.casual),
        "rows": len(rows),
        "yield": round(len(rows) / len(contexts.turns), 4),
        "negatives": dict(sorted(of_kind.items())),
        "without a pair": dict(sorted(without.items())),
        "replies": dict(sorted(counts.items())),
        "preachy_share": share,
        "preachy_negatives": preachy,
        "mining_judges": sorted({name for row in rows for name in row["negative_judges"]}),
    }
    return rows, summary


def scale_weights(rows: Sequence[dict[str, Any]], kinds: Sequence[Sequence[str]]) -> None:
    """Make social weights of ``negative_weights`` in place, for each kind of negative apart."""
    for wanted in WORST_FIRST:
        places = [
            (row, i)
            for row, found in zip(rows, kinds, strict=True)
            for i, kind in enumerate(found)
            if kind == wanted
        ]
        weights = social_weights([row["negative_weights"][i] for row, i in places])
        for (row, i), weight in zip(places, weights, strict=True):
            row["negative_weights"][i] = round(weight, 6)


def _outcome(record: Record, rule: PairRule) -> str:
    """What became of a reply."""
    if record["reply"] is None:
        return "missing reply"
    if not record["reply"]:
        return "empty reply"
    if (found := badness(record, rule, preachy=True)) is not None:
        return f"clearly {found[0]}" if found[0] == UNSAFE else found[0]
    if any(kind in record and record[kind] is None for kind in WORST_FIRST):
        return "missing judgement"
    return "clearly safe" if is_safe(record, rule) else "in between"


def _is_preachy(record: Record) -> bool:
    verdict = record.get(PREACHY)
    return verdict is not None and verdict[0] >= THRESHOLD


def _words(record: Record) -> int:
    return len(record["reply"].split())
