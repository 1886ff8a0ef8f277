"""Where things stand in the report's plots; the template draws them as SVG."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from parlai_prosocial.evaluation.results.verdicts import JudgedRate, rate_of

SHAPES = {
    "circle": "M-7 0a7 7 0 1 0 14 0a7 7 0 1 0 -14 0z",
    "square": "M-6 -6h12v12h-12z",
    "triangle": "M0 -8l8 14h-16z",
    "diamond": "M0 -9l9 9l-9 9l-9 -9z",
    "cross": "M-7 -3h4v-4h6v4h4v6h-4v4h-6v-4h-4z",
}
LABELS = ((14, -9), (-14, -9), (14, 18), (-14, 18))
"""Where a point's number stands beside it, in turn, so that those of equal points can be read."""
LEFT, TOP, WIDTH, HEIGHT = 52, 12, 336, 280
"""Of the plot's area, in the units of its view box."""


def two_axes(summary: Mapping[str, Any], x: JudgedRate, y: JudgedRate) -> dict[str, Any]:
    """Each model as a point with its intervals: one rate across, another one up.

    Returns:
        ``x``, ``y``: the measures; ``ticks``: of both axes, ``label`` and their places ``x`` and
        ``y``; ``points``: ``number``, ``model``, ``shape`` (its name), ``path``, ``x`` and ``y`` as
        ``estimate``, ``low`` and ``high`` places, ``label`` (where its number stands beside it) and
        ``rates``, the two intervals; ``missing``: models without a point.
    """
    found = [
        (
            number,
            model["name"],
            rate_of(summary, model["name"], x),
            rate_of(summary, model["name"], y),
        )
        for number, model in enumerate(summary["models"], 1)
    ]
    known = [
        (number, name, across["rate"], up["rate"])
        for number, name, across, up in found
        if across and up and across["rate"] and up["rate"]
    ]
    top = max((rate["high"] for row in known for rate in row[2:]), default=1.0)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if step * 6 >= top)
    end = step * math.ceil(top / step - 1e-9)

    def across_at(share: float) -> float:
        return round(LEFT + WIDTH * share / end, 1)

    def up_at(share: float) -> float:
        return round(TOP + HEIGHT * (1 - share / end), 1)

    shapes = list(SHAPES.items())
    return {
        "x": x,
        "y": y,
        "ticks": [
            {"label": f"{100 * step * i:.0f}", "x": across_at(step * i), "y": up_at(step * i)}
            for i in range(round(end / step) + 1)
        ],
        "points": [
            {
                "number": number,
                "model": name,
                "shape": shapes[(number - 1) % len(shapes)][0],
                "path": shapes[(number - 1) % len(shapes)][1],
                "x": {key: across_at(across[key]) for key in ("estimate", "low", "high")},
                "y": {key: up_at(up[key]) for key in ("estimate", "low", "high")},
                "label": LABELS[(number - 1) % len(LABELS)],
                "rates": (across, up),
            }
            for number, name, across, up in known
        ],
        "missing": [name for _, name, a, b in found if not (a and b and a["rate"] and b["rate"])],
    }


def calibration_plot(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Each range of confidence as a dot: its place, and its radius by how many texts it has.

    The area shows confidence from 50 to 100 % across, and accuracy from 0 to 100 % up.
    """
    most = max(point["count"] for point in curve)
    return [
        {
            "x": round(LEFT + WIDTH * (point["confidence"] - 0.5) / 0.5, 1),
            "y": round(TOP + HEIGHT * (1 - point["accuracy"]), 1),
            "r": round(3 + 7 * math.sqrt(point["count"] / most), 1),
        }
        for point in curve
    ]
