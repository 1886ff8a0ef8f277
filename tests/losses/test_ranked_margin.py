"""The ranked margin loss against a naive double loop, and what its ranks mean."""

import math

import pytest
import torch

from parlai_prosocial.losses.candidates import Candidates
from parlai_prosocial.losses.ranked_margin import RankedMarginLoss


def naive_loss(positive, negatives, mask, margin, log_weights, in_batch, in_batch_mask, weight):
    """docs/design.md#the-losses, pair by pair, in Python floats."""
    losses = []
    for i in range(len(positive)):
        candidates = [(-math.inf, float(positive[i]))]
        for j in range(negatives.shape[1]):
            if mask[i, j]:
                badness = 0.0 if log_weights is None else float(log_weights[i, j])
                candidates.append((badness, float(negatives[i, j])))
        if in_batch is not None:
            for j in range(in_batch.shape[1]):
                if in_batch_mask[i, j]:
                    candidates.append((weight, float(in_batch[i, j])))
        distinct = sorted({badness for badness, _ in candidates})
        total = 0.0
        for better, high in candidates:
            for worse, low in candidates:
                steps = distinct.index(worse) - distinct.index(better)
                if steps > 0:
                    total += max(0.0, low - high + margin * steps)
        losses.append(total)
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("weights", ["none", "distinct", "ties"])
@pytest.mark.parametrize("in_batch", ["none", "square", "joint"])
def test_equals_the_naive_double_loop(batch, margin, weights, in_batch):
    if weights == "none":
        batch["negative_log_weights"] = None
    elif weights == "ties":
        batch["negative_log_weights"] = batch["negative_log_weights"].round()
    if in_batch == "none":
        batch["in_batch_scores"] = batch["in_batch_mask"] = None
    elif in_batch == "joint":  # responses of another process beside the own ones
        for name in ("in_batch_scores", "in_batch_mask"):
            batch[name] = torch.cat([batch[name], batch[name].roll(1, 0)], dim=1)
    loss = RankedMarginLoss(margin)(Candidates(**batch, in_batch_log_weight=-1.0))
    expected = naive_loss(
        batch["positive_scores"],
        batch["negative_scores"],
        batch["negative_mask"],
        margin,
        batch["negative_log_weights"],
        batch["in_batch_scores"],
        batch["in_batch_mask"],
        -1.0,
    )
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


def test_gradcheck(batch):
    def loss(positive, negative, in_batch):
        return RankedMarginLoss(0.3)(
            Candidates(
                positive,
                negative,
                batch["negative_mask"],
                batch["negative_log_weights"].round(),
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


def test_negatives_are_ordered_among_themselves():
    negatives = torch.tensor([[-5.0, -9.0]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss = RankedMarginLoss(1.0)
    # The second is less bad than the first, but scores lower: they should change places.
    loss(Candidates(torch.zeros(1), negatives, mask, torch.tensor([[2.0, 1.0]]))).sum().backward()
    assert negatives.grad.tolist() == [[1.0, -1.0]]


def test_equal_weights_are_a_tie():
    negatives = torch.tensor([[-5.0, -9.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss = RankedMarginLoss(1.0)
    assert loss(Candidates(torch.zeros(1), negatives, mask, torch.zeros(1, 2))).tolist() == [0.0]
    assert loss(Candidates(torch.zeros(1), negatives, mask)).tolist() == [0.0]


@pytest.mark.parametrize("margin", [-0.1, math.nan])
def test_a_negative_margin_is_refused(margin):
    with pytest.raises(ValueError, match="margin"):
        RankedMarginLoss(margin)


def test_weights_that_differ_by_rounding_share_a_rank():
    weights = torch.tensor([[0.1 + 0.2, 0.3, 0.6]], dtype=torch.float64)
    assert weights[0, 0] != weights[0, 1]
    scores, mask = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    exact = torch.tensor([[0.3, 0.3, 0.6]], dtype=torch.float64)
    losses = [
        RankedMarginLoss(1.0)(Candidates(scores[:, 0], scores, mask, given.log()))
        for given in (weights, exact)
    ]
    torch.testing.assert_close(*losses)
