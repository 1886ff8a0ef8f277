"""All that is counted of one model on one suite, from its records (``evaluation/records.py``)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from parlai_prosocial.data.mic import ATTRIBUTES
from parlai_prosocial.evaluation.metrics.contrast import Contrast
from parlai_prosocial.evaluation.metrics.mic import MicAttributes
from parlai_prosocial.evaluation.metrics.rates import Rate
from parlai_prosocial.evaluation.metrics.replies import reply_statistics
from parlai_prosocial.evaluation.metrics.text import Distinct, bleu_4, f1
from parlai_prosocial.evaluation.records import Record, is_unfit, judged_by
from parlai_prosocial.evaluation.statistics.bootstrap import (
    Interval,
    macro_difference,
    unless_too_few,
)
from parlai_prosocial.evaluation.statistics.perplexity import corpus_perplexity, perplexity_ratio


def aggregate(records: Sequence[Record]) -> dict[str, Any]:
    """All that can be measured on some records of one model, JSON-serialisable.

    Returns:
        ``n``; ``missing_replies``;
        ``rates``: axis -> judge -> ``hits``, ``judged``, ``missing`` and ``rate`` (an interval, or
        None where nothing was judged);
        ``replies``: what :func:`~.replies.reply_statistics` finds, and ``distinct_1``;
        ``references``: ``n``, ``f1`` and ``bleu_4`` against the fitting replies;
        ``perplexity``: ``n``, ``tokens`` and ``value`` of the first fitting replies;
        ``contrast``: ``n``, ``accuracy`` (an interval), ``mrr`` and ``margin``;
        ``mic``: see :class:`~.metrics.mic.MicAttributes`.
        Of the last five those are None that the records say nothing about.
    """
    attributes = [record for record in records if record["label"] in ATTRIBUTES]
    return {
        "n": len(records),
        "missing_replies": sum(record["reply"] is None for record in records),
        "rates": rates(records),
        "replies": _replies([r for r in records if r["reply"] is not None]),
        "references": None if attributes else _references(records),
        "perplexity": _perplexity(records),
        "contrast": _contrast(records),
        "mic": _mic(attributes) if attributes else None,
    }


def aggregate_groups(records: Sequence[Record]) -> dict[str, dict[str, dict[str, Any]]]:
    """``label``, ``kind`` and ``source`` -> each of its values -> :func:`aggregate`.

    Values "" are left out.
    """
    groups: dict[str, dict[str, list[Record]]] = {"label": {}, "kind": {}, "source": {}}
    for record in records:
        for field, members in groups.items():
            if record[field]:
                members.setdefault(record[field], []).append(record)
    return {
        field: {value: aggregate(found) for value, found in members.items()}
        for field, members in groups.items()
    }


def differences(first: Sequence[Record], second: Sequence[Record]) -> dict[str, Interval]:
    """The first model minus the second, paired by context, with clusters drawn whole.

    A context counts only where both models have what is compared.

    Args:
        first, second: records of two models on one suite.

    Returns:
        ``rate AXIS JUDGE``, ``f1``, ``bleu_4`` and ``contrast accuracy``: differences;
        ``perplexity``: the ratio. What cannot be compared is left out. The p-values are not
        corrected; on too few clusters to conclude anything there is none.
    """
    other = {record["id"]: record for record in second}
    pairs = [(record, other[record["id"]]) for record in first if record["id"] in other]
    found: dict[str, Interval | None] = {}
    for axis, judge in judged_by(first):

        def unfit(record: Record, axis: str = axis, judge: str = judge) -> float | None:
            judges = record["judgements"].get(axis, {})
            value = is_unfit(record, axis, judge) if judge in judges else None
            return None if value is None else float(value)

        found[f"rate {axis} {judge}"] = _paired(pairs, unfit)
    if not any(record["label"] in ATTRIBUTES for record in first):
        found["f1"] = _paired(pairs, lambda r: _against_people(r, f1))
        found["bleu_4"] = _paired(pairs, lambda r: _against_people(r, bleu_4))
    found["contrast accuracy"] = _paired(pairs, _is_above)
    scored = [(a, b) for a, b in pairs if a["likelihood"] and b["likelihood"]]
    if scored:
        first_sums, second_sums = (
            ([r["likelihood"]["nll"] for r in side], [r["likelihood"]["tokens"] for r in side])
            for side in zip(*scored, strict=True)
        )
        clusters = [a["cluster"] for a, _ in scored]
        ratio = perplexity_ratio(first_sums, second_sums, clusters)
        found["perplexity"] = unless_too_few(ratio, len(set(clusters)))
    return {name: interval for name, interval in found.items() if interval is not None}


def rates(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """axis -> judge -> its counts and rate, of records of which only ``judgements`` is read."""
    found: dict[str, dict[str, Any]] = {}
    for axis, judge in judged_by(records):
        rate = Rate()
        rate.update(
            is_unfit(record, axis, judge)
            for record in records
            if judge in record["judgements"].get(axis, {})
        )
        interval = rate.compute()
        found.setdefault(axis, {})[judge] = asdict(rate) | {"rate": interval and asdict(interval)}
    return found


def _replies(records: Sequence[Record]) -> dict[str, Any] | None:
    if not records:
        return None
    texts = [record["reply"] for record in records]
    single = Distinct(1)
    single.update(texts)
    statistics = reply_statistics(texts, [record["ended"] for record in records])
    return asdict(statistics) | {"distinct_1": single.compute()}


def _references(records: Sequence[Record]) -> dict[str, Any] | None:
    known = [record for record in records if record["fitting"] and record["reply"] is not None]
    if not known:
        return None
    means = {
        name: sum(score(r["reply"], r["fitting"]) for r in known) / len(known)
        for name, score in (("f1", f1), ("bleu_4", bleu_4))
    }
    return {"n": len(known)} | means


def _perplexity(records: Sequence[Record]) -> dict[str, Any] | None:
    scored = [record["likelihood"] for record in records if record["likelihood"]]
    if not scored:
        return None
    tokens = [score["tokens"] for score in scored]
    value = corpus_perplexity([score["nll"] for score in scored], tokens)
    return {"n": len(scored), "tokens": sum(tokens), "value": value}


def _contrast(records: Sequence[Record]) -> dict[str, Any] | None:
    metric = Contrast()
    for record in records:
        scores = record["likelihood"]
        if scores and scores["unfit"]:
            metric.update(scores["fitting"], scores["unfit"])
    result = metric.compute()
    return None if result is None else {"n": metric.count} | asdict(result)


def _mic(records: Sequence[Record]) -> dict[str, Any]:
    metric = MicAttributes()
    for record in records:
        metric.update(record["label"], record["fitting"], record["reply"])
    return metric.compute()


def _against_people(record: Record, score: Callable[[str, Sequence[str]], float]) -> float | None:
    if record["reply"] is None or not record["fitting"]:
        return None
    return score(record["reply"], record["fitting"])


def _is_above(record: Record) -> float | None:
    scores = record["likelihood"]
    if not scores or not scores["unfit"]:
        return None
    return float(max(scores["fitting"]) > max(scores["unfit"]))


def _paired(
    pairs: Sequence[tuple[Record, Record]], value: Callable[[Record], float | None]
) -> Interval | None:
    rows = [(value(a), value(b), a["cluster"]) for a, b in pairs]
    known = [(a, b, cluster) for a, b, cluster in rows if a is not None and b is not None]
    if not known:
        return None
    first, second, clusters = zip(*known, strict=True)
    difference = macro_difference(first, second, [0] * len(known), clusters)
    return unless_too_few(difference, len(set(clusters)))
