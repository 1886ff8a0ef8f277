"""Tables of how far the judges can be believed, from a summary (``evaluation/summary.py``)."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from parlai_prosocial.evaluation.results.tables import make_table
from parlai_prosocial.evaluation.statistics.bootstrap import (
    Interval,
    corrected,
    unless_too_few,
    wilson_interval,
)
from parlai_prosocial.evaluation.statistics.correction import rate_difference
from parlai_prosocial.judges.judge import short

_QUALITY: dict[str, dict[str, Any]] = {
    "suite": {"label": "suite"},
    "axis": {"label": "axis"},
    "judge": {"label": "judge"},
    "n": {"label": "texts"},
    "missing": {"label": "missing"},
    "accuracy": {"label": "accuracy, %", "scale": 100},
    "macro_f1": {"label": "macro-F1, %", "scale": 100},
    "sensitivity": {"label": "sensitivity, %", "scale": 100},
    "specificity": {"label": "specificity, %", "scale": 100},
    "calibration_error": {"label": "calibration error", "digits": 3},
}


def corrected_of(
    summary: Mapping[str, Any], suite: str, axis: str, judge: str
) -> dict[str, dict[str, Any] | None] | None:
    """model -> corrected rate of a judge on a suite; None where there are no labels for it."""
    found = {
        entry["model"]: entry["rate"]
        for entry in summary.get("corrected", ())  # runs before there were labels have none
        if (entry["suite"], entry["axis"], entry["judge"]) == (suite, axis, judge)
    }
    return found or None


def correction_notes(summary: Mapping[str, Any], suite: str) -> list[str]:
    """What must be known of the corrected rates on a suite, and why some are not there."""
    entries = [entry for entry in summary.get("corrected", ()) if entry["suite"] == suite]
    notes = []
    if any(entry["rate"] for entry in entries):
        notes.append(
            "Corrected: the rate without the judge's errors on the labelled replies (Rogan and "
            "Gladen; intervals of Lang and Reiczigel carry the uncertainty of sensitivity and "
            "specificity too), as far as it errs as often on each model's replies."
        )
    models: dict[tuple[str, str, str], list[str]] = {}
    for entry in entries:
        if entry["reason"]:
            key = entry["axis"], short(entry["judge"]), entry["reason"]
            models.setdefault(key, []).append(entry["model"])
    notes += [
        f"{axis} ({judge}) of {', '.join(concerned)} is not corrected: {reason}."
        for (axis, judge, reason), concerned in models.items()
    ]
    return notes


def tells_nothing(summary: Mapping[str, Any], suite: str, axis: str, judge: str) -> str:
    """Why a judge's rates on a suite say nothing; empty where no label speaks against it.

    Sensitivity + specificity - 1 on labelled replies of that suite is not clearly above 0.
    """
    for entry in summary.get("judge_quality", ()):
        of_labels = entry.get("against") == "labels" and suite in entry["suites"]
        if of_labels and (entry["axis"], entry["judge"]) == (axis, judge):
            found = entry["youden"]
            if found and found["low"] <= 0:
                interval = f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
                return (
                    f"{short(judge)} does not tell the labelled replies apart (sensitivity + "
                    f"specificity - 1 is {interval})"
                )
    return ""


def quality_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Judges against texts that people labelled."""
    rows = _quality_rows(summary, _QUALITY, "people")
    note = (
        "DiaSafety's replies (agreement: those of Toxicity Agreement) and ProsocialDialog's turns, "
        "as people labelled them."
    )
    return make_table("Judges against people's labels", _QUALITY, rows, [note]) if rows else None


def label_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was labelled, by whom, and how far the two labels agree."""
    columns: dict[str, dict[str, Any]] = {
        "axis": {"label": "axis"},
        "row": {"label": "model"},
        "labelled": {"label": "labelled twice"},
        "n": {"label": "the same"},
        "unfit": {"label": "unfit, %", "scale": 100},
        "gap": {"label": "difference to the last model, points", "scale": 100},
        "kappa": {"label": "kappa of the labels", "digits": 2},
    }
    rows: list[dict[str, Any]] = []
    notes = [
        "The sheets spread replies evenly over models and over what differs in suite or label of "
        "the context, so these shares are of that mix. Differences: paired by context where both "
        "models were labelled on the same contexts, else of other replies with Newcombe's "
        "intervals. The primary comparison is the first model's with the last on the first axis; "
        "the p-values of the others, of each two models, are corrected together by Holm's method."
    ]
    gaps, reference = labelled_gaps(summary), summary["models"][-1]["name"]
    holes: list[str] = []
    for entry in summary["labels"]:
        n = entry["agreed"]
        share = wilson_interval(entry["unfit"], n) if n else None
        whole = {"row": "all", "labelled": entry["n"], "n": n, "unfit": share}
        rows.append({"axis": entry["axis"], **whole, "kappa": entry["kappa"]})
        for model, found in entry["models"].items():
            shares = {model: found}
            if len(entry["by_suite"]) > 1:
                shares |= {f"{model}, {s}": of.get(model) for s, of in entry["by_suite"].items()}
            for row, own in shares.items():
                own = own or {"n": 0, "rate": None}
                cells = {"axis": entry["axis"], "row": row, "n": own["n"], "unfit": own["rate"]}
                rows.append(cells | {"gap": gaps.get((entry["axis"], row, reference))})
                if not own["n"]:
                    holes.append(f"{row} on {entry['axis']}")
        notes.append(f"{entry['axis']}: labelled by {'; '.join(entry['labellers'])}.")
    if holes:
        notes.append(f"No labelled reply, hence no rate: {'; '.join(holes)}.")
    return make_table("Replies as labelled", columns, rows, notes) if rows else None


def labelled_gaps(summary: Mapping[str, Any]) -> dict[tuple[str, str, str], Interval]:
    """(axis, model, reference) -> the model's labelled share minus the reference's.

    Of each two models the one that was given later is the reference. The primary comparison is
    that of the first model with the last one on the first axis, named by the order of models and
    sheets; the others are corrected by Holm's method.
    """
    names = [model["name"] for model in summary["models"]]
    found: dict[tuple[str, str, str], Interval] = {}
    for entry in summary.get("labels", ()):
        given = {
            (one["model"], one["reference"]): Interval(**one["interval"])
            for one in entry.get("differences", ())  # runs before there were pairs have none
        }
        for pair in combinations(names, 2):
            counts = [(entry["models"][n]["unfit"], entry["models"][n]["n"]) for n in pair]
            if fewest := min(n for _, n in counts):
                unpaired = unless_too_few(rate_difference(*counts), fewest)
                found[(entry["axis"], *pair)] = given.get(pair, unpaired)
    if not found:
        return {}
    primary = next((key for key in found if key[1:] == (names[0], names[-1])), next(iter(found)))
    return corrected(found, primary, found)


def label_difference_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Each two models by their labels; None where the other table says it already."""
    if len(summary["models"]) < 3:
        return None
    columns: dict[str, dict[str, Any]] = {
        "axis": {"label": "axis"},
        "model": {"label": "model"},
        "reference": {"label": "less"},
        "n": {"label": "contexts"},
        "gap": {"label": "points", "scale": 100},
    }
    gaps = labelled_gaps(summary)
    pairs = {
        (entry["axis"], one["model"], one["reference"]): one
        for entry in summary["labels"]
        for one in entry.get("differences", ())
    }
    rows = [
        {"axis": axis, "model": model, "reference": other, "n": one["n"], "gap": gap}
        for (axis, model, other), gap in gaps.items()
        if (one := pairs.get((axis, model, other)))
    ]
    note = (
        "Shares of unfit replies; paired by context, with bootstrap intervals, where both models "
        "were labelled on the same contexts, else Newcombe's. p-values as in the table above."
    )
    return make_table("Labelled replies, each two models", columns, rows, [note]) if rows else None


def label_quality_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Judges against the labelled replies."""
    columns = _QUALITY | {"suite": {"label": "suites"}, "n": {"label": "replies"}}
    columns["youden"] = {"label": "sens. + spec. - 1", "digits": 2}
    rows = _quality_rows(summary, columns, "labels")
    note = (
        "The replies above whose two labels are the same; 95 % Wilson intervals, that of the last "
        "column by Newcombe. Where it holds 0 the judge tells nothing, and no rate is corrected."
    )
    return make_table("Judges against labelled replies", columns, rows, [note]) if rows else None


def kappa_table(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Each two judges of an axis."""
    columns: dict[str, dict[str, Any]] = {
        "suite": {"label": "suite"},
        "axis": {"label": "axis"},
        "judges": {"label": "judges"},
        "n": {"label": "replies"},
        "missing": {"label": "missing"},
        "both": {"label": "both unfit"},
        "only_first": {"label": "only the first"},
        "only_second": {"label": "only the second"},
        "kappa": {"label": "kappa", "digits": 2},
    }
    rows = [
        {key: entry[key] for key in columns} | {"judges": " and ".join(map(short, entry["judges"]))}
        for entry in summary["kappas"]
    ]
    note = (
        "Cohen's kappa over the replies of all models; 1 is the same verdict always, 0 as often as "
        "by chance. 95 % intervals by bootstrap over contexts; a dash where both always say the "
        "same one word."
    )
    return make_table("Two judges on the same replies", columns, rows, [note]) if rows else None


def _quality_rows(
    summary: Mapping[str, Any], columns: Mapping[str, Any], against: str
) -> list[dict[str, Any]]:
    return [
        {key: entry[key] for key in columns} | {"judge": short(entry["judge"])}
        for entry in summary["judge_quality"]
        if entry["against"] == against
    ]
