"""One HTML file that says how safe some models are, from an evaluation's summary and log alone.

The file asks for nothing: style and script stand in it, allowed by their hashes, and its policy
forbids all else. What a model, a user or a file has written is escaped, cut, and behind a content
warning. Without the script only the search is gone.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from parlai_prosocial.data.labelled import AXES
from parlai_prosocial.evaluation.records import Record
from parlai_prosocial.evaluation.report.plots import HEIGHT, LEFT, TOP, WIDTH, calibration_plot
from parlai_prosocial.evaluation.report.samples import Tells, disagreements, samples
from parlai_prosocial.evaluation.report.scorecard import scorecard
from parlai_prosocial.evaluation.results.tables import make_table, numeric_columns, table_cells
from parlai_prosocial.evaluation.results.verdicts import Finding, caveats, findings, judged_rates
from parlai_prosocial.evaluation.validation.labels.tables import corrected_of, correction_notes
from parlai_prosocial.judges.judge import short

FOLDER = Path(__file__).parent
MOST_BYTES = 2_000_000
SAMPLES = (240, 120, 60, 24, 8)
"""Most contexts among the samples: the first of these that keeps the file small enough."""


def render(summary: Mapping[str, Any], log: Sequence[Record]) -> str:
    """The report.

    Args:
        summary: as ``evaluation/results/summary.py`` describes it.
        log: as ``evaluation/records.py`` does.

    Returns:
        HTML of at most :data:`MOST_BYTES` in UTF-8, unless tables alone are longer.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("template.html")
    style, script = ((FOLDER / name).read_text("utf-8") for name in ("style.css", "search.js"))
    fixed = {
        "summary": summary,
        "style": Markup(style),  # ours: the template may take them as they are
        "script": Markup(script),
        "style_hash": _csp_hash(style),
        "script_hash": _csp_hash(script),
        "area": {"left": LEFT, "top": TOP, "width": WIDTH, "height": HEIGHT},
        "findings": _findings(summary),
        "caveats": caveats(summary),
        "scorecard": scorecard(summary),
        "rates": _shown(_rate_table(summary)),
        "tables": [_shown(table) for table in summary["tables"]],
        "quality": _quality(summary),
        "unlabelled": _unlabelled(summary),
        "misordered": summary["misordered"],
        "labels": summary.get("labels", []),
        "kappas": [
            {**entry, "judges": [short(judge) for judge in entry["judges"]]}
            for entry in summary.get("kappas", [])
        ],
        "gates": summary.get("gates", []),
    }
    tells = _tells(summary)
    for most in SAMPLES:
        cards, contexts = samples(log, most, tells)
        differing, differ = disagreements(log, most // 4, tells)
        text = template.render(
            fixed,
            cards=cards,
            contexts=contexts,
            differing=differing,
            differ=differ,
            choices=_choices([*differing, *cards], summary),
        )
        if len(text.encode("utf-8")) <= MOST_BYTES:
            break
    return text


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _findings(summary: Mapping[str, Any]) -> list[Finding]:
    """Without the doubts of judges whose place the labels have taken."""
    found = findings(summary)
    labelled = {finding.axis for finding in found if finding.basis == "labelled"}
    return [finding for finding in found if finding.gap or finding.axis not in labelled]


def _tells(summary: Mapping[str, Any]) -> Tells:
    rates = [rate for axis in AXES for rate in judged_rates(summary, axis)]
    doubtful = {(rate.suite, rate.axis, rate.judge) for rate in rates if rate.doubt}
    return cache(lambda suite, axis, judge: (suite, axis, judge) not in doubtful)


def _choices(cards: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the samples can be filtered by: ``suites``, ``labels`` and ``models``."""
    return {
        "suites": sorted({card["suite"] for card in cards}),
        "labels": sorted({card["label"] for card in cards} - {""}),
        "models": [model["name"] for model in summary["models"]],
    }


def _shown(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table as text: ``title``, ``notes``, ``header``, ``rows`` and ``numeric`` columns."""
    header, *rows = table_cells(table)
    return {
        "title": table["title"],
        "notes": table["notes"],
        "header": header,
        "rows": rows,
        "numeric": numeric_columns(table),
    }


def _rate_table(summary: Mapping[str, Any]) -> dict[str, Any]:
    """All rates by suite, and in it by label and source where it has several."""
    judges = [(judge["axis"], judge["name"]) for judge in summary["judges"]]
    columns: dict[str, dict[str, Any]] = {
        "suite": {"label": "suite"},
        "group": {"label": "contexts"},
        "model": {"label": "model"},
        "n": {"label": "n"},
        "missing": {"label": "missing"},
    }
    corrected = {}
    for axis, judge in judges:
        columns[f"{axis} {judge}"] = {"label": f"{axis}, % ({short(judge)})", "scale": 100}
        own_rates = {s: corrected_of(summary, s, axis, judge) for s in summary["suites"]}
        if any(own_rates.values()):
            key = f"corrected {axis} {judge}"
            columns[key] = {"label": "corrected, %", "scale": 100}
            corrected[key] = own_rates
    rows = []
    for suite, description in summary["suites"].items():
        if not description["axes"]:
            continue
        own = [result for result in summary["results"] if result["suite"] == suite]
        groups: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for result in own:
            groups.setdefault("all", []).append((result["model"], result["all"]))
            for field in ("label", "source"):
                values = result["groups"].get(field, {})
                for value, found in values.items() if len(values) > 1 else ():
                    groups.setdefault(f"{field} {value}", []).append((result["model"], found))
        for group, members in groups.items():
            for model, found in members:
                rates = {
                    f"{axis} {judge}": found["rates"].get(axis, {}).get(judge)
                    for axis, judge in judges
                }
                rows.append(
                    {
                        "suite": suite,
                        "group": group,
                        "model": model,
                        "n": found["n"],
                        "missing": sum(rate["missing"] for rate in rates.values() if rate),
                        **{key: rate and rate["rate"] for key, rate in rates.items()},
                        **{
                            key: (own_rates[suite] or {}).get(model)
                            for key, own_rates in corrected.items()
                            if group == "all"
                        },
                    }
                )
    notes = [
        "95 % Wilson intervals. n: contexts; missing: judgements of their replies, which are in no "
        "rate. A dash: not judged there."
    ]
    if corrected:
        notes[0] += " Rates are corrected on suites as a whole only, as they were labelled."
        for suite in summary["suites"]:
            notes += [note for note in correction_notes(summary, suite) if note not in notes]
    return make_table("Each suite as a whole, then by label and by source", columns, rows, notes)


def _quality(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each judge against labels: its confusion matrices, and its calibration as far as it has one.

    ``calibration`` is None for a judge that only says yes or no, whose curve would be one dot.
    """
    shown = []
    for entry in summary["judge_quality"]:
        matrices = [(entry["classes"], entry["confusion"])]
        if "safety_labels" in entry:
            matrices.append((entry["safety_labels"], entry["safety_confusion"]))
        curve = entry["calibration"]
        known = len(curve) > 1
        shown.append(
            {
                **{key: entry[key] for key in ("suite", "axis", "n", "missing")},
                "judge": short(entry["judge"]),
                "by_people": entry.get("against", "people") == "people",
                "error": entry["calibration_error"],
                "matrices": matrices,
                "calibration": curve if known else None,
                "dots": calibration_plot(curve) if known else None,
            }
        )
    return shown


def _unlabelled(summary: Mapping[str, Any]) -> list[str]:
    """The judges that nothing labelled by people was there for."""
    known = {
        (entry["axis"], entry["judge"])
        for entry in summary["judge_quality"]
        if entry.get("against", "people") == "people"
    }
    return [
        f"{short(judge['name'])} ({judge['axis']})"
        for judge in summary["judges"]
        if (judge["axis"], judge["name"]) not in known
    ]
