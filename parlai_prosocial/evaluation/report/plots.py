"""Where things stand in the report's calibration curves; the template draws them as SVG."""

import math
from collections.abc import Mapping, Sequence

LEFT, TOP, WIDTH, HEIGHT = 52, 12, 336, 280
"""Of the plot's area, in the units of its view box."""


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
