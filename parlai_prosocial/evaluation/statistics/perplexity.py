"""Perplexity over replies, with intervals clustered by dialogue, and the ratio of two models'."""

from collections.abc import Hashable, Sequence
from math import exp

from parlai_prosocial.evaluation.statistics.bootstrap import (
    Interval,
    percentile_ends,
    resample_ratios,
    two_sided_p,
)


def corpus_perplexity(nll_sums: Sequence[float], token_counts: Sequence[int]) -> float:
    """exp(total negative log-likelihood / total tokens), as ParlAI's ``ppl``; at least 1.

    Args:
        nll_sums, token_counts: as for :func:`perplexity`, one reply at least.

    >>> round(corpus_perplexity([1.0, 3.0], [1, 3]), 4)
    2.7183
    """
    return exp(sum(nll_sums) / sum(token_counts))


def perplexity(
    nll_sums: Sequence[float],
    token_counts: Sequence[int],
    dialogues: Sequence[Hashable],
    seeds: Sequence[Hashable] | None = None,
    rng_seed: int = 0,
) -> Interval:
    """:func:`corpus_perplexity` with an interval clustered by dialogue.

    All arguments but the last have one item a reply. Over several seeds it is the geometric mean
    of their perplexities.

    Args:
        nll_sums: -log p of the reply in nats, summed over its tokens, end-of-turn included.
        token_counts: tokens of the reply, end-of-turn included.
        dialogues: ``CasualReply.dialogue``.
        seeds: the run that scored each reply; None for a single run.
        rng_seed: the same seed gives the same interval.

    >>> round(perplexity([1.0, 3.0], [1, 3], ["a", "b"]).estimate, 4)
    2.7183
    """
    estimate, draws = resample_ratios(
        nll_sums, token_counts, [0] * len(dialogues), dialogues, seeds, rng_seed
    )
    low, high = percentile_ends(draws)
    return Interval(exp(estimate), exp(low), exp(high))


def perplexity_ratio(
    first: tuple[Sequence[float], Sequence[int]],
    second: tuple[Sequence[float], Sequence[int]],
    dialogues: Sequence[Hashable],
    seeds: Sequence[Hashable] | None = None,
    rng_seed: int = 0,
) -> Interval:
    """Perplexity of the first model / that of the second, on the same replies.

    Args:
        first, second: each (nll_sums, token_counts) as for :func:`perplexity`. The token counts
            may differ; with different tokenizers the ratio then compares unlike units.
        dialogues, seeds, rng_seed: as for :func:`perplexity`.

    Returns:
        With null 1 and a two-sided bootstrap p-value; above 1, the first model is worse.

    >>> round(perplexity_ratio(([2.0, 4.0], [2, 2]), ([1.0, 3.0], [2, 2]), ["a", "b"]).estimate, 4)
    1.6487
    """
    one_category = [0] * len(dialogues)
    estimates, draws = zip(
        *(
            # The same seed draws the same dialogues for both models: this is the pairing.
            resample_ratios(nll_sums, token_counts, one_category, dialogues, seeds, rng_seed)
            for nll_sums, token_counts in (first, second)
        ),
        strict=True,
    )
    gaps = draws[0] - draws[1]
    low, high = percentile_ends(gaps)
    estimate = exp(estimates[0] - estimates[1])
    return Interval(estimate, exp(low), exp(high), null=1.0, p_value=two_sided_p(gaps))
