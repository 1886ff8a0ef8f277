"""Replies held against people's, and among themselves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from parlai.core.metrics import BleuMetric, F1Metric


def f1(reply: str, references: Sequence[str]) -> float:
    """ParlAI's F1 of words, without case, punctuation and articles; the best over the references.

    >>> f1("The cat sat!", ["a cat sat down"])
    0.8
    """
    return float(F1Metric.compute(reply, list(references)).value())


def bleu_4(reply: str, references: Sequence[str]) -> float:
    """ParlAI's BLEU-4 of one reply: NLTK's, smoothed by 1e-12, on F1's words.

    Fewer than four words have no pair of four, and so hardly more than 0.

    >>> round(bleu_4("we saw the old boat in the harbour", ["We saw an old boat in harbour."]), 3)
    1.0
    """
    return float(BleuMetric.compute(reply, list(references), k=4).value())


@dataclass
class Distinct:
    """Distinct n-grams / n-grams over all replies, 0..1 (Li et al. 2016).

    Words are split at white space, without regard to case. It falls as the replies grow more:
    compare models at the same number of replies only.

    Args:
        n: words of an n-gram.

    >>> metric = Distinct(2)
    >>> metric.update(["so it is", "so it goes"])
    >>> metric.compute()
    0.75
    """

    n: int
    counts: Counter[tuple[str, ...]] = field(default_factory=Counter, init=False)

    def update(self, replies: Sequence[str]) -> None:
        for reply in replies:
            words = reply.casefold().split()
            self.counts.update(zip(*(words[i:] for i in range(self.n)), strict=False))

    def compute(self) -> float:
        """0 where no reply has n words."""
        return len(self.counts) / self.counts.total() if self.counts else 0.0
