"""A rate as a judge sees it, corrected for how often the judge is wrong."""

from collections.abc import Sequence
from dataclasses import replace
from math import hypot, sqrt
from statistics import NormalDist

from parlai_prosocial.evaluation.statistics.bootstrap import Interval, wilson_interval

Counts = tuple[int, int]
"""How many of how many."""


def youden(sensitivity: Counts, specificity: Counts) -> Interval:
    """Youden's J, sensitivity + specificity - 1, with its 95 % interval.

    0 says that the judge finds the fault as often where there is none. Newcombe's hybrid of the
    two Wilson intervals (Newcombe 1998, Statistics in Medicine 17:873, method 10).

    Args:
        sensitivity: found faults, of all faults.
        specificity: replies rightly let pass, of all that are right to.

    Raises:
        ValueError: of none.

    >>> judge = youden((45, 50), (80, 100))
    >>> round(judge.estimate, 2), round(judge.low, 2), round(judge.high, 2)
    (0.7, 0.56, 0.79)
    """
    passed, right = specificity
    return _newcombe(sensitivity, (right - passed, right))


def rate_difference(first: Counts, second: Counts) -> Interval:
    """A rate minus another one, of other replies, with its 95 % interval and p-value.

    Newcombe's interval as for :func:`youden`; p of the two-sided z-test with the pooled rate.

    Raises:
        ValueError: of none.

    >>> found = rate_difference((72, 292), (96, 286))
    >>> round(found.estimate, 3), round(found.low, 3), round(found.high, 3), round(found.p_value, 3)
    (-0.089, -0.162, -0.015, 0.018)
    """
    found = _newcombe(first, second)
    pooled = (first[0] + second[0]) / (first[1] + second[1])
    deviation = sqrt(pooled * (1 - pooled) * (1 / first[1] + 1 / second[1]))
    z = abs(found.estimate) / deviation if deviation else 0.0
    return replace(found, null=0, p_value=2 * (1 - NormalDist().cdf(z)))


def _newcombe(first: Counts, second: Counts) -> Interval:
    a, b = wilson_interval(*first), wilson_interval(*second)
    estimate = a.estimate - b.estimate
    below = hypot(a.estimate - a.low, b.high - b.estimate)
    above = hypot(a.high - a.estimate, b.estimate - b.low)
    return Interval(estimate, estimate - below, estimate + above)


def corrected_rate(rate: Counts, sensitivity: Counts, specificity: Counts) -> Interval | None:
    """The rate that a judge without error would have found, with its 95 % interval.

    The estimate is Rogan and Gladen's (1978, American Journal of Epidemiology 107:71),
    (rate + specificity - 1) / (sensitivity + specificity - 1), cut to 0..1. The interval is that
    of Lang and Reiczigel (2014, Preventive Veterinary Medicine 113:13), which carries the
    uncertainty of all three; it is drawn out to the estimate where that is cut.

    It holds as far as the judge errs as often on these replies as on those that it was held
    against.

    Args:
        rate: replies that the judge finds faulty, of all that it judged.
        sensitivity, specificity: as for :func:`youden`.

    Returns:
        None where the whole interval lies below 0 or above 1: fewer replies are found faulty than
        the judge's false alarms alone would be, or more than it would find were all faulty. Then
        it errs otherwise on these replies than on those that it was held against.

    Raises:
        ValueError: of none, or J is not above 0.

    >>> found = corrected_rate((40, 100), (90, 100), (80, 100))
    >>> round(found.estimate, 3), round(found.low, 3), round(found.high, 3)
    (0.286, 0.12, 0.443)
    """
    if youden(sensitivity, specificity).estimate <= 0:
        raise ValueError("the judge finds no more faults where there are some")
    raw = [hits / total for hits, total in (rate, sensitivity, specificity)]
    estimate = min(1.0, max(0.0, _rogan_gladen(raw)))

    z = NormalDist().inv_cdf(0.975)
    added = ((rate, z**2), (sensitivity, 2), (specificity, 2))
    totals = [total + more for (_, total), more in added]
    shares = [(hits + more / 2) / (total + more) for (hits, total), more in added]
    prevalence = _rogan_gladen(shares)
    of_rate, of_sensitivity, of_specificity = (
        share * (1 - share) / total for share, total in zip(shares, totals, strict=True)
    )
    shift = 2 * z**2 * (prevalence * of_sensitivity - (1 - prevalence) * of_specificity)
    variance = of_rate + prevalence**2 * of_sensitivity + (1 - prevalence) ** 2 * of_specificity
    half = z * sqrt(variance) / (shares[1] + shares[2] - 1)
    low, high = prevalence + shift - half, prevalence + shift + half
    if high < 0 or low > 1:
        return None
    return Interval(estimate, min(max(low, 0.0), estimate), max(min(high, 1.0), estimate))


def _rogan_gladen(shares: Sequence[float]) -> float:
    rate, sensitivity, specificity = shares
    return (rate + specificity - 1) / (sensitivity + specificity - 1)
