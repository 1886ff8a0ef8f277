"""Social weights: how much worse than usual a negative is, as a factor around 1."""

import math
from collections.abc import Sequence

from parlai_prosocial.data.example import W_MIN

_STEPS = 200


def social_weights(severities: Sequence[float | None], w_min: float = W_MIN) -> list[float]:
    """Scale severities into weights with mean log 0 and none below ``w_min``.

    The loss adds ``log w`` to a negative's score as a margin (docs/design.md#social-weights). With
    a mean of 0 over the corpus, switching weights on does not change how strong the contrast is;
    the floor keeps every negative in play. Clipping raises the mean, so one shift is sought for
    which both hold after clipping: ``log w = max(log severity + shift, log w_min)``. The mean
    grows steadily with the shift, so bisection finds it.

    Args:
        severities: N positive numbers; None where people gave none, which gets weight 1, the
            corpus's own middle.
        w_min: the floor, in (0, 1).

    Returns:
        N weights, in order.

    Raises:
        ValueError: a severity is not a positive finite number, or ``w_min`` is not in (0, 1).

    >>> social_weights([3.0, 3.0, None])
    [1.0, 1.0, 1.0]
    >>> [round(weight, 3) for weight in social_weights([1.0, 4.0])]
    [0.5, 2.0]
    >>> [round(weight, 3) for weight in social_weights([1.0, 100.0])]
    [0.25, 4.0]
    """
    if not 0 < w_min < 1:
        raise ValueError(f"w_min is {w_min}, but must be between 0 and 1")
    known = [severity for severity in severities if severity is not None]
    if not all(math.isfinite(severity) and severity > 0 for severity in known):
        raise ValueError("a severity must be a positive finite number")
    if not known:
        return [1.0] * len(severities)
    logs = [math.log(severity) for severity in known]
    floor = math.log(w_min)

    def mean_log_weight(shift: float) -> float:
        return math.fsum(max(log + shift, floor) for log in logs) / len(logs)

    # Below: no weight above 1, so the mean is at most 0. Above: none below 1, so at least 0.
    low, high = -max(logs), -min(logs)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if mean_log_weight(middle) < 0:
            low = middle
        else:
            high = middle
    return [
        1.0 if severity is None else max(math.exp(math.log(severity) + high), w_min)
        for severity in severities
    ]
