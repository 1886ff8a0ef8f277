"""What a model thinks of replies that people wrote."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp

from parlai_prosocial.evaluation.metrics.metric import Metric


@dataclass
class Perplexity(Metric):
    """exp(-log p / tokens), both summed over all replies first, as ParlAI's ``ppl``.

    The end-of-turn token counts. Models with different tokenizers have no comparable perplexity.

    >>> metric = Perplexity()
    >>> metric.update([1.0, 3.0], [1, 3])
    >>> round(metric.compute(), 4)
    2.7183
    """

    nll: float = field(default=0.0, init=False)
    tokens: int = field(default=0, init=False)

    def update(self, nll: Sequence[float], tokens: Sequence[int]) -> None:
        """Add N replies: each one's -log p in nats and its tokens."""
        self.nll += sum(nll)
        self.tokens += sum(tokens)

    def compute(self) -> float | None:
        """At least 1; None where there are no tokens."""
        return exp(self.nll / self.tokens) if self.tokens else None
