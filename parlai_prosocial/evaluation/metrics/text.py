"""Replies held against people's, and among themselves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from parlai.core.metrics import BleuMetric, F1Metric

from parlai_prosocial.evaluation.metrics.metric import Metric


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
class _MeanOverReplies(Metric):
    total: float = field(default=0.0, init=False)
    count: int = field(default=0, init=False)

    def score(self, reply: str, references: Sequence[str]) -> float:
        raise NotImplementedError

    def update(self, replies: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Add N replies, each with one reference or more."""
        for reply, own in zip(replies, references, strict=True):
            self.total += self.score(reply, own)
            self.count += 1

    def compute(self) -> float | None:
        """The mean over replies; None where there are none."""
        return self.total / self.count if self.count else None


@dataclass
class F1(_MeanOverReplies):
    """Mean of :func:`f1`, 0..1.

    >>> metric = F1()
    >>> metric.update(["The cat sat!", "no"], [["a cat sat down"], ["yes"]])
    >>> metric.compute()
    0.4
    """

    def score(self, reply: str, references: Sequence[str]) -> float:
        return f1(reply, references)


@dataclass
class Bleu4(_MeanOverReplies):
    """Mean of :func:`bleu_4` over replies, 0..1. It is no corpus BLEU.

    >>> metric = Bleu4()
    >>> metric.update(["one two three four"], [["one two three four"]])
    >>> metric.compute()
    1.0
    """

    def score(self, reply: str, references: Sequence[str]) -> float:
        return bleu_4(reply, references)


@dataclass
class Distinct(Metric):
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
