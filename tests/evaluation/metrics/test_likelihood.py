"""Perplexity against ParlAI's, and against the bootstrap's estimate."""

import pytest
from parlai.core.metrics import Metrics
from parlai.core.torch_generator_agent import PPLMetric

from parlai_prosocial.evaluation.metrics.likelihood import Perplexity
from parlai_prosocial.evaluation.statistics.perplexity import perplexity

NLL, TOKENS = [12.25, 3.5, 40.75, 0.5], [5, 1, 13, 2]


def test_equal_to_parlai_over_ranks():
    metrics = Metrics()
    for value in PPLMetric.many(NLL, TOKENS):
        metrics.add("ppl", value)
    expected = metrics.report()["ppl"].value()
    ranks = Perplexity(), Perplexity()
    ranks[0].update(NLL[:3], TOKENS[:3])
    ranks[1].update(NLL[3:], TOKENS[3:])
    ranks[0].merge(ranks[1])
    assert ranks[0].compute() == pytest.approx(expected, abs=1e-6)
    assert ranks[0].compute() == pytest.approx(perplexity(NLL, TOKENS, range(4)).estimate, abs=1e-9)
    assert Perplexity().compute() is None
