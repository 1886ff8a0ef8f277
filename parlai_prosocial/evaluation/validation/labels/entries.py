"""What labels and pairs of judges add to a summary (``evaluation/results/summary.py``)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.metrics.rates import Rate
from parlai_prosocial.evaluation.records import Records, is_unfit, judged_by
from parlai_prosocial.evaluation.statistics.bootstrap import (
    Interval,
    macro_difference,
    unless_too_few,
)
from parlai_prosocial.evaluation.statistics.correction import (
    corrected_rate,
    rate_difference,
    youden,
)
from parlai_prosocial.evaluation.statistics.kappa import cohen_kappa
from parlai_prosocial.evaluation.validation.labels.sheets import SheetRow, reply_id


def label_entries(labels: Mapping[str, Sequence[SheetRow]], records: Records) -> list[dict]:
    """The entries of ``labels``, of labelled rows by axis.

    Raises:
        UserError: none of an axis' replies is in the run.
    """
    entries = [_label_entry(axis, rows, records) for axis, rows in labels.items()]
    for entry in entries:
        if entry["agreed"] and not any(found["n"] for found in entry["models"].values()):
            raise UserError(
                f"--labels: none of the {entry['n']} replies labelled on {entry['axis']} is one of "
                "this run; give sheets that `prosocial labels export` drew from its log.jsonl"
            )
    return entries


def _label_entry(axis: str, rows: Sequence[SheetRow], records: Records) -> dict[str, Any]:
    agreed = {row.id: row.agreed for row in rows if row.agreed is not None}
    kappa = cohen_kappa(
        [bool(row.label_1) for row in rows],
        [bool(row.label_2) for row in rows],
        ["\n".join(row.context) for row in rows],
    )
    models: dict[str, Rate] = {}
    contexts: dict[str, dict[tuple[str, str], tuple[bool, Any]]] = {}
    by_suite: dict[str, dict[str, Any]] = {}
    for suite, of_suite in records.items():
        for model, own in of_suite.items():
            ids = {reply_id(axis, record) for record in own if axis in record["axes"]}
            unfit = [text.unfit for key, text in agreed.items() if key in ids]
            models.setdefault(model, Rate()).update(unfit)
            contexts.setdefault(model, {}).update(
                ((suite, record["id"]), (agreed[key].unfit, record["cluster"]))
                for record in own
                if axis in record["axes"] and (key := reply_id(axis, record)) in agreed
            )
            if unfit:
                of_model = Rate()
                of_model.update(unfit)
                by_suite.setdefault(suite, {})[model] = _share(of_model)
    return {
        "axis": axis,
        "labellers": list(dict.fromkeys(row.labeller for row in rows)),
        "suites": list(dict.fromkeys(row.suite for row in rows)),
        "n": len(rows),
        "agreed": len(agreed),
        "unfit": sum(text.unfit for text in agreed.values()),
        "kappa": _plain(kappa),
        "models": {model: _share(rate) for model, rate in models.items()},
        "by_suite": by_suite,
        "differences": [
            {"model": model, "reference": other, **_difference(contexts[model], contexts[other])}
            for model, other in combinations(contexts, 2)
            if contexts[model] and contexts[other]
        ],
    }


def _difference(
    first: Mapping[Any, tuple[bool, Any]], second: Mapping[Any, tuple[bool, Any]]
) -> dict[str, Any]:
    """The first model's labelled rate minus the second's, paired by context where that can be.

    Args:
        first, second: context -> verdict and cluster; at least one each.
    """
    both = [key for key in first if key in second]
    fewest = min(len(first), len(second))
    if paired := 2 * len(both) > fewest:  # else the sheets are of other contexts for each model
        ours, theirs = ([float(side[key][0]) for key in both] for side in (first, second))
        clusters = [first[key][1] for key in both]
        gap = macro_difference(ours, theirs, [0] * len(both), clusters)
        gap = unless_too_few(gap, len(set(clusters)))
    else:
        counts = [(sum(unfit for unfit, _ in side.values()), len(side)) for side in (first, second)]
        gap = unless_too_few(rate_difference(*counts), fewest)
    return {"paired": paired, "n": len(both) if paired else fewest, "interval": asdict(gap)}


def _share(rate: Rate) -> dict[str, Any]:
    return {"n": rate.judged, "unfit": rate.hits, "rate": _plain(rate.compute())}


def judge_counts(quality: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sensitivity and specificity as counts, of an entry of ``judge_quality``."""
    (passed, false_alarms), (overlooked, found) = quality["confusion"]
    return (found, found + overlooked), (passed, passed + false_alarms)


def youden_of(quality: Mapping[str, Any]) -> dict[str, Any] | None:
    """Youden's J of an entry of ``judge_quality``; None where one class was not labelled."""
    sensitivity, specificity = judge_counts(quality)
    return asdict(youden(sensitivity, specificity)) if sensitivity[1] and specificity[1] else None


def corrected_rates(
    results: Sequence[Mapping[str, Any]], qualities: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The entries of ``corrected``.

    Args:
        results: of the summary.
        qualities: the entries of ``judge_quality`` that are against labels.
    """
    found = []
    for quality in qualities:
        axis, judge = quality["axis"], quality["judge"]
        no_correction = _no_correction(quality)
        for result in results:
            rate = result["all"]["rates"].get(axis, {}).get(judge)
            if result["suite"] not in quality["suites"] or not rate or not rate["judged"]:
                continue
            interval, reason = None, no_correction
            if reason is None:
                counts = rate["hits"], rate["judged"]
                interval = corrected_rate(counts, *judge_counts(quality))
                if interval is None:
                    reason = "its rate does not go with its errors on the labelled replies"
            found.append(
                {
                    "suite": result["suite"],
                    "model": result["model"],
                    "axis": axis,
                    "judge": judge,
                    "rate": _plain(interval),
                    "reason": reason,
                }
            )
    return found


def _no_correction(quality: Mapping[str, Any]) -> str | None:
    """Why rates are not corrected by what a judge did on labelled replies; None if they are."""
    (_, unfit), (_, fitting) = judge_counts(quality)
    if not unfit or not fitting:
        return f"no labelled reply that it judged is {'fitting' if unfit else 'unfit'}"
    found = quality["youden"]
    if found["low"] > 0:
        return None
    return (
        f"sensitivity + specificity - 1 is {found['estimate']:.2f} "
        f"[{found['low']:.2f}, {found['high']:.2f}], not clearly above 0"
    )


def judge_kappas(records: Records) -> list[dict[str, Any]]:
    """The entries of ``kappas``: each two judges of an axis on the replies of all models."""
    entries = []
    for suite, models in records.items():
        every = [record for own in models.values() for record in own]
        by_axis: dict[str, list[str]] = {}
        for axis, judge in judged_by(every):
            by_axis.setdefault(axis, []).append(judge)
        for axis, judges in by_axis.items():
            concerned = [record for record in every if axis in record["judgements"]]
            for pair in combinations(judges, 2):
                said = [[is_unfit(record, axis, judge) for judge in pair] for record in concerned]
                known = [
                    (bool(first), bool(second), record["cluster"])
                    for (first, second), record in zip(said, concerned, strict=True)
                    if first is not None and second is not None
                ]
                columns = zip(*known, strict=True) if known else ((), (), ())
                entries.append(
                    {
                        "suite": suite,
                        "axis": axis,
                        "judges": list(pair),
                        "n": len(known),
                        "missing": len(concerned) - len(known),
                        "both": sum(a and b for a, b, _ in known),
                        "only_first": sum(a and not b for a, b, _ in known),
                        "only_second": sum(b and not a for a, b, _ in known),
                        "kappa": _plain(cohen_kappa(*columns)),
                    }
                )
    return entries


def _plain(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else asdict(interval)
