"""The summary of ``prosocial evaluate``, and its tables.

``summary.json`` is one object:

``format``
    1.
``command``, ``environment``, ``decoding``
    How it was made; ``decoding`` as in the log's records.
``models``
    A list: ``name`` (its label), ``where`` as it was given, and ``engine``, with a hash of its
    weights.
``judges``
    A list: ``axis``, ``name`` (with a hash of what it is), ``spec`` as it was given, null for the
    rules that ship with us.
``suites``
    name -> ``about``, ``axes``, ``contexts`` (how many were used), ``of`` (how many it has) and
    ``sha256`` of all.
``results``
    A list: ``model``, ``suite``, ``all`` (:func:`~.aggregate.aggregate` of all records) and
    ``groups`` (:func:`~.aggregate.aggregate_groups`).
``sentinels``
    A list: ``suite``, ``sentinel`` and its ``rates``, as in a result's ``all``.
``misordered``
    A list of the sentinels that a judge does not tell apart: ``suite``, ``axis``, ``judge``,
    ``worse``, ``better``.
``judge_quality``
    A list: ``suite``, ``against`` (``people``: texts that people labelled; ``labels``: the replies
    of --labels), ``axis``, ``judge`` and :func:`~.sentinels.judge_quality` of it. Against labels
    also ``suites``, where the replies are from, and ``youden``, the interval of sensitivity +
    specificity - 1, null where one class was not labelled.
``labels``
    A list, one for each axis of --labels: ``axis``, ``labellers``, ``suites``, ``n`` replies that
    were labelled twice, ``agreed`` (how often the same; the others count nowhere), ``unfit`` of
    those, ``kappa`` (an interval) of the two labels, ``models``: for each its agreed replies ``n``
    in this run's log, ``unfit`` and ``rate``; ``by_suite``: for each suite the same by model; and
    ``differences``: of each two models ``model``, ``reference``, the ``interval`` of their rates'
    difference (uncorrected), whether it is ``paired`` by context, and of how many (``n``).
``corrected``
    A list: ``suite``, ``model``, ``axis``, ``judge``, ``rate``, what the judge's rate would be
    without its errors against the labels (:func:`~.correction.corrected_rate`), or null with
    a ``reason``.
``kappas``
    A list of each two judges of an axis: ``suite``, ``axis``, ``judges``, ``n`` replies of all
    models, ``missing``, ``both``, ``only_first`` and ``only_second`` calling them unfit, and
    ``kappa`` (an interval, null where it is not defined).
``differences``
    A list: ``suite``, ``model``, ``reference``, ``measure`` (of :func:`~.aggregate.differences`)
    and ``interval``, whose p-value is corrected over the whole list, and null where the contexts
    are too few to conclude anything.
``tables``
    What the terminal shows, for :func:`~.tables.markdown_table`.

An interval is ``estimate``, ``low``, ``high``, ``null`` and ``p_value`` (the last two null where
nothing is compared).
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from parlai_prosocial.evaluation.records import Records
from parlai_prosocial.evaluation.results.aggregate import (
    aggregate,
    aggregate_groups,
    differences,
)
from parlai_prosocial.evaluation.results.columns import reply_columns
from parlai_prosocial.evaluation.results.tables import TOO_FEW, make_table
from parlai_prosocial.evaluation.statistics.bootstrap import FEWEST_CLUSTERS, Interval, holm
from parlai_prosocial.evaluation.validation.labels.tables import (
    corrected_of,
    correction_notes,
    kappa_table,
    label_difference_table,
    label_quality_table,
    label_table,
    quality_table,
    tells_nothing,
)
from parlai_prosocial.judges.judge import short


def results(records: Records) -> list[dict[str, Any]]:
    """The entries of ``results``."""
    return [
        {"model": model, "suite": suite, "all": aggregate(own), "groups": aggregate_groups(own)}
        for suite, models in records.items()
        for model, own in models.items()
    ]


def corrected_differences(records: Records) -> list[dict[str, Any]]:
    """The entries of ``differences``: every model minus the last one, Holm's method over all."""
    found: dict[tuple[str, str, str, str], Interval] = {}
    for suite, models in records.items():
        *others, reference = models
        for model in others:
            for name, interval in differences(models[model], models[reference]).items():
                found[suite, model, reference, name] = interval
    corrected = holm({str(key): interval for key, interval in found.items()})
    names = ("suite", "model", "reference", "measure")
    return [
        dict(zip(names, key, strict=True)) | {"interval": asdict(corrected[str(key)])}
        for key in found
    ]


def tables(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the terminal shows, from a summary without ``tables``."""
    made = [_judged_table(summary, suite) for suite in summary["suites"]]
    made += [_reply_table(summary), _contrast_table(summary), _mic_table(summary)]
    made += [quality_table(summary), label_table(summary), label_difference_table(summary)]
    made += [label_quality_table(summary)]
    made += [kappa_table(summary), _difference_table(summary)]
    return [table for table in made if table is not None]


def _judged_table(summary: Mapping[str, Any], suite: str) -> dict[str, Any] | None:
    own = [result for result in summary["results"] if result["suite"] == suite]
    every = [(axis, judge) for axis, found in own[0]["all"]["rates"].items() for judge in found]
    if not every:
        return None
    silent = {pair: tells_nothing(summary, suite, *pair) for pair in every}
    judges = [pair for pair in every if not silent[pair]]
    columns: dict[str, dict[str, Any]] = {
        "row": {"label": "model"},
        "n": {"label": "replies"},
        "missing": {"label": "missing"},
    }
    corrected = {}
    for axis, judge in judges:
        columns[f"{axis} {judge}"] = {"label": f"{axis}, % ({short(judge)})", "scale": 100}
        found = corrected_of(summary, suite, axis, judge)
        if found is not None:
            key = f"corrected {axis} {judge}"
            columns[key] = {"label": "corrected, %", "scale": 100}
            corrected[key] = found

    def rated(rates: Mapping[str, Any]) -> dict[str, Any]:
        return {
            f"{axis} {judge}": rates.get(axis, {}).get(judge, {}).get("rate")
            for axis, judge in judges
        }

    rows: list[dict[str, Any]] = [
        {
            "row": result["model"],
            "n": result["all"]["n"] - result["all"]["missing_replies"],
            "missing": sum(
                found["missing"] for of in result["all"]["rates"].values() for found in of.values()
            ),
            **rated(result["all"]["rates"]),
            **{key: found.get(result["model"]) for key, found in corrected.items()},
        }
        for result in own
    ]
    rows += [
        {"row": entry["sentinel"], **rated(entry["rates"])}
        for entry in summary["sentinels"]
        if entry["suite"] == suite
    ]
    notes = [
        "95 % Wilson intervals; replies are judged only in contexts that the axis is about. "
        "Missing: judgements, which are neither safe nor unsafe."
    ]
    if len(rows) > len(own):
        notes[0] += (
            " The last rows are sentinels, on fewer contexts: what a judge says of people's "
            "replies and of replies that ignore the context."
        )
    notes += [f"Left out: {axis}, for {why}." for (axis, _), why in silent.items() if why]
    unjudged = set(summary["suites"][suite]["axes"]) - {axis for axis, _ in every}
    notes += [f"Not judged: {axis}, for want of a --judge." for axis in sorted(unjudged)]
    notes += [
        f"{short(entry['judge'])} does not find more {entry['axis']} in {entry['worse']!r} than in "
        f"{entry['better']!r}: do not believe it here."
        for entry in summary["misordered"]
        if entry["suite"] == suite
    ]
    notes += correction_notes(summary, suite)
    return make_table(f"{suite}: replies as judged", columns, rows, notes)


def _reply_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    columns: dict[str, dict[str, Any]] = {
        "suite": {"label": "suite"},
        "row": {"label": "model"},
        "ppl": {"label": "perplexity"},
        "f1": {"label": "F1, %", "scale": 100},
        "bleu_4": {"label": "BLEU-4, %", "scale": 100, "digits": 2},
        "distinct_1": {"label": "distinct-1", "digits": 2},
        **reply_columns("distinct_2", "words", "hedges", "ended"),
    }
    rows = []
    for result in summary["results"]:
        found = result["all"]
        replies, references = found["replies"], found["references"] or {}
        if replies is None:
            continue
        rows.append(
            {
                "suite": result["suite"],
                "row": result["model"],
                "ppl": found["perplexity"] and found["perplexity"]["value"],
                "f1": references.get("f1"),
                "bleu_4": references.get("bleu_4"),
                "distinct_1": replies["distinct_1"],
                "distinct_2": replies["distinct_2"],
                "words": replies["mean_words"],
                "hedges": replies["hedges"],
                "ended": replies["ended"],
            }
        )
    if not rows:
        return None
    return make_table(
        "Replies",
        columns,
        rows,
        ["Perplexity, F1 and BLEU-4 as ParlAI's, against people's replies where there are any."],
    )


def _contrast_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    columns: dict[str, dict[str, Any]] = {
        "suite": {"label": "suite"},
        "row": {"label": "model"},
        "n": {"label": "contexts"},
        "accuracy": {"label": "accuracy, %", "scale": 100},
        "mrr": {"label": "MRR", "digits": 3},
        "margin": {"label": "margin", "digits": 3},
    }
    rows = [
        {"suite": result["suite"], "row": result["model"], **result["all"]["contrast"]}
        for result in summary["results"]
        if result["all"]["contrast"]
    ]
    note = "By mean log p: people's best fitting reply to a context among the unfit ones."
    return make_table("Contrast", columns, rows, [note]) if rows else None


def _mic_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    columns: dict[str, dict[str, Any]] = {
        "row": {"label": "model"},
        "attribute": {"label": "attribute"},
        "n": {"label": "answers"},
        "missing": {"label": "missing"},
        "macro_f1": {"label": "macro-F1, %", "scale": 100},
        "mean_squared_error": {"label": "MSE", "digits": 2},
        "pearson_r": {"label": "Pearson's r", "digits": 2},
    }
    rows = [
        {"row": result["model"], "attribute": attribute, **found}
        for result in summary["results"]
        for attribute, found in (result["all"]["mic"] or {}).items()
    ]
    note = "Missing: answers that name no class, or several; they enter no measure."
    return make_table("MIC's attributes", columns, rows, [note]) if rows else None


def _difference_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    columns: dict[str, dict[str, Any]] = {
        "suite": {"label": "suite"},
        "comparison": {"label": "comparison"},
        "measure": {"label": "measure"},
        "points": {"label": "difference, points", "scale": 100},
        "ratio": {"label": "ratio", "digits": 3},
    }
    rows = []
    for entry in summary["differences"]:
        is_ratio = entry["interval"]["null"] == 1
        name = entry["measure"]
        if name.startswith("rate "):
            _, axis, judge = name.split(" ", 2)
            if tells_nothing(summary, entry["suite"], axis, judge):
                continue
            name = f"{axis} ({short(judge)})"
        rows.append(
            {
                "suite": entry["suite"],
                "comparison": f"{entry['model']} {'/' if is_ratio else 'minus'} "
                f"{entry['reference']}",
                "measure": name,
                "ratio" if is_ratio else "points": entry["interval"],
            }
        )
    note = (
        "Paired by context; 95 % intervals by bootstrap over contexts, those of one dialogue "
        "together; p-values corrected by Holm's method over the whole table."
    )
    if any(entry["interval"]["p_value"] is None for entry in summary["differences"]):
        note += f" {TOO_FEW}: fewer than {FEWEST_CLUSTERS} contexts or dialogues."
    return make_table("Differences", columns, rows, [note]) if rows else None
