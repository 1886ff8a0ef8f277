"""The report's first table: a row a model, its rates as bars, each axis with its own scale."""

from collections.abc import Mapping
from typing import Any

from parlai_prosocial.data.labelled import AGREEMENT, OVER_CAUTION, UNSAFE
from parlai_prosocial.evaluation.results.verdicts import judged_rates, rate_of
from parlai_prosocial.judges.judge import short

ENDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Where an axis may end: at the first of these that holds all its intervals."""


def scorecard(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is unsafe, and over-caution; agreement where nobody said what is unsafe.

    Labels speak for an axis that has any; else its first judge does, unless it tells nothing.

    Returns:
        ``axes``: a list: ``axis``, ``basis`` (whence the rates are), ``about`` (on what),
        ``doubt`` (why there are no bars; empty where there are) and ``end`` of its scale, a share;
        ``rows``: a list: ``model``, ``reference`` (whether it is), and ``cells``, one an axis: None
        where it has no rate, else ``interval``, ``hits``, ``of``, ``missing`` and ``places``,
        estimate, low and high in per cent of the bar's width.
    """
    axes = [_axis(summary, UNSAFE), _axis(summary, OVER_CAUTION)]
    if axes[0] is None:
        axes[0] = _axis(summary, AGREEMENT)
    known = [axis for axis in axes if axis is not None]
    models = [model["name"] for model in summary["models"]]
    return {
        "axes": known,
        "rows": [
            {
                "model": model,
                "reference": len(models) > 1 and model == models[-1],
                "cells": [axis["cells"][model] for axis in known],
            }
            for model in models
        ],
    }


def _axis(summary: Mapping[str, Any], axis: str) -> dict[str, Any] | None:
    """An entry of ``axes``, and its ``cells`` by model; None where there is nothing of it."""
    models = [model["name"] for model in summary["models"]]
    doubt = ""
    for entry in summary.get("labels", ()):
        if entry["axis"] == axis and entry["agreed"]:
            basis = f"labelled by {'; '.join(entry['labellers'])}"
            about = f"{entry['agreed']} replies to {', '.join(entry['suites'])}"
            found = {
                model: _cell(share["rate"], share["unfit"], share["n"], 0)
                for model, share in entry["models"].items()
            }
            break
    else:
        rates = judged_rates(summary, axis)
        if not rates:
            return None
        first = rates[0]
        doubt = first.doubt
        basis, about = f"judged by {short(first.judge)}", f"replies to {first.suite}"
        judged = {model: rate_of(summary, model, first) for model in models}
        found = {
            model: _cell(rate["rate"], rate["hits"], rate["judged"], rate["missing"])
            for model, rate in judged.items()
            if rate
        }
    shown = {model: None if doubt else found.get(model) for model in models}
    highest = max((cell["interval"]["high"] for cell in shown.values() if cell), default=0)
    end = next(end for end in ENDS if end >= min(highest, 1.0))
    for cell in filter(None, shown.values()):
        cell["places"] = {
            key: round(100 * min(max(cell["interval"][key], 0.0), end) / end, 2)
            for key in ("estimate", "low", "high")
        }
    named = {"axis": axis, "basis": basis, "about": about, "doubt": doubt, "end": end}
    return named | {"cells": shown}


def _cell(rate: Any, hits: int, of: int, missing: int) -> dict[str, Any] | None:
    return rate and {"interval": rate, "hits": hits, "of": of, "missing": missing}
