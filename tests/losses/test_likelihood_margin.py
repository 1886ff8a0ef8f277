"""The likelihood margin loss against a naive double loop."""

import math

import pytest
import torch

from parlai_prosocial.losses.candidates import Candidates
from parlai_prosocial.losses.likelihood_margin import LikelihoodMarginLoss


def naive_loss(positive, negatives, mask, margin, log_weights, in_batch, in_batch_mask, weight):
    """docs/design.md#the-losses, term by term, in Python floats."""
    losses = []
    for i in range(len(positive)):
        terms = []
        for j in range(negatives.shape[1]):
            if mask[i, j]:
                w = 1.0 if log_weights is None else math.exp(log_weights[i, j])
                terms.append(w * max(0.0, margin + float(negatives[i, j]) - float(positive[i])))
        if in_batch is not None:
            for j in range(in_batch.shape[1]):
                if in_batch_mask[i, j]:
                    gap = float(in_batch[i, j]) - float(positive[i])
                    terms.append(math.exp(weight) * max(0.0, margin + gap))
        losses.append(sum(terms) / len(terms) if terms else 0.0)
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("margin", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("in_batch", ["none", "square", "joint"])
def test_equals_the_naive_double_loop(batch, margin, weighted, in_batch):
    if not weighted:
        batch["negative_log_weights"] = None
    if in_batch == "none":
        batch["in_batch_scores"] = batch["in_batch_mask"] = None
    elif in_batch == "joint":  # responses of another process beside the own ones
        for name in ("in_batch_scores", "in_batch_mask"):
            batch[name] = torch.cat([batch[name], batch[name].roll(1, 0)], dim=1)
    loss = LikelihoodMarginLoss(margin)(Candidates(**batch, in_batch_log_weight=-0.7))
    expected = naive_loss(
        batch["positive_scores"],
        batch["negative_scores"],
        batch["negative_mask"],
        margin,
        batch["negative_log_weights"],
        batch["in_batch_scores"],
        batch["in_batch_mask"],
        -0.7,
    )
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


def test_gradcheck(batch):
    def loss(positive, negative, in_batch):
        return LikelihoodMarginLoss(0.5)(
            Candidates(
                positive,
                negative,
                batch["negative_mask"],
                batch["negative_log_weights"],
                in_batch,
                batch["in_batch_mask"],
                -1.0,
            )
        )

    inputs = [
        batch[name].requires_grad_()
        for name in ("positive_scores", "negative_scores", "in_batch_scores")
    ]
    assert torch.autograd.gradcheck(loss, inputs)


def test_a_pair_that_is_apart_is_left_alone():
    negatives = torch.tensor([[-11.0, -9.0]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    LikelihoodMarginLoss(10.0)(Candidates(torch.zeros(1), negatives, mask)).sum().backward()
    assert negatives.grad.tolist() == [[0.0, 0.5]]


@pytest.mark.parametrize("margin", [-0.1, math.nan])
def test_a_negative_margin_is_refused(margin):
    with pytest.raises(ValueError, match="margin"):
        LikelihoodMarginLoss(margin)
