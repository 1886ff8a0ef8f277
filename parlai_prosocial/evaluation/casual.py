"""Perplexity of people's replies in casual conversation: what safety training may cost."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from parlai_prosocial.evaluation.bootstrap import (
    Interval,
    percentile_ends,
    resample_ratios,
    two_sided_p,
)

MAX_CONTEXT_TURNS = 4


@dataclass(frozen=True)
class CasualReply:
    """One turn of a dialogue, to be scored given the turns before it.

    Attributes:
        context: the 1 to 4 turns before, oldest first.
        response: the turn itself.
        dialogue: the dialogue's id; the bootstrap's cluster.
    """

    context: list[str]
    response: str
    dialogue: Hashable


def casual_replies(dialogues: Sequence[Mapping], replies_per_dialogue: int) -> list[CasualReply]:
    """Take up to n replies of each dialogue, spread evenly from its second turn to its last.

    Args:
        dialogues: Self-dialogue rows of the test split, with ``id`` and ``turns`` (list of str).
        replies_per_dialogue: n >= 1 (1: the second turn); a dialogue with fewer replies gives all
            it has.

    >>> [reply] = casual_replies([{"id": 1, "turns": ["a", "b"]}], 3)
    >>> reply
    CasualReply(context=['a'], response='b', dialogue=1)
    """
    chosen = []
    for dialogue in dialogues:
        turns = dialogue["turns"]
        count = min(replies_per_dialogue, max(0, len(turns) - 1))
        for turn in np.linspace(1, len(turns) - 1, count).round().astype(int):
            context = turns[max(0, turn - MAX_CONTEXT_TURNS) : turn]
            chosen.append(CasualReply(context, turns[turn], dialogue["id"]))
    return chosen


def perplexity(
    nll_sums: Sequence[float],
    token_counts: Sequence[int],
    dialogues: Sequence[Hashable],
    seeds: Sequence[Hashable] | None = None,
    rng_seed: int = 0,
) -> Interval:
    """exp(total negative log-likelihood / total tokens), with an interval clustered by dialogue.

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
