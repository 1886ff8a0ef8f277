"""The n-pair loss against a naive double loop, and the properties that it promises."""

import math

import pytest
import torch

from parlai_prosocial.losses.candidates import Candidates
from parlai_prosocial.losses.n_pair import NPairLoss


def naive_loss(
    positive,
    negatives,
    mask,
    temperature,
    log_weights=None,
    in_batch=None,
    in_batch_mask=None,
    in_batch_log_weight=0.0,
):
    """The formula of docs/design.md#the-losses, term by term, in Python floats."""
    losses = []
    for i in range(len(positive)):
        total = 1.0
        for j in range(negatives.shape[1]):
            if mask[i, j]:
                weight = 1.0 if log_weights is None else math.exp(log_weights[i, j])
                gap = float(negatives[i, j]) - float(positive[i])
                total += weight * math.exp(gap / temperature)
        if in_batch is not None:
            for j in range(in_batch.shape[1]):
                if in_batch_mask[i, j]:
                    gap = float(in_batch[i, j]) - float(positive[i])
                    total += math.exp(in_batch_log_weight) * math.exp(gap / temperature)
        losses.append(math.log(total))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("in_batch", ["none", "square", "joint"])
def test_equals_the_naive_double_loop(batch, temperature, weighted, in_batch):
    if not weighted:
        batch["negative_log_weights"] = None
    if in_batch == "none":
        batch["in_batch_scores"] = batch["in_batch_mask"] = None
    elif in_batch == "joint":  # responses of another process beside the own ones
        for name in ("in_batch_scores", "in_batch_mask"):
            batch[name] = torch.cat([batch[name], batch[name].roll(1, 0)], dim=1)
    loss = NPairLoss(temperature)(Candidates(**batch, in_batch_log_weight=-0.7))
    expected = naive_loss(
        batch["positive_scores"],
        batch["negative_scores"],
        batch["negative_mask"],
        temperature,
        batch["negative_log_weights"],
        batch["in_batch_scores"],
        batch["in_batch_mask"],
        in_batch_log_weight=-0.7,
    )
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


def test_gradcheck(batch):
    log_weights, mask = batch["negative_log_weights"], batch["negative_mask"]

    def loss(positive, negative, in_batch):
        return NPairLoss(0.5)(
            Candidates(
                positive, negative, mask, log_weights, in_batch, batch["in_batch_mask"], -1.0
            )
        )

    inputs = [
        batch[name].requires_grad_()
        for name in ("positive_scores", "negative_scores", "in_batch_scores")
    ]
    assert torch.autograd.gradcheck(loss, inputs)


def test_one_negative_is_simpo_without_margin():
    positive, negative = torch.tensor([-1.5, -3.0]), torch.tensor([-2.0, -1.0])
    loss = NPairLoss(temperature=0.5)(
        Candidates(positive, negative[:, None], torch.ones(2, 1, dtype=torch.bool))
    )
    expected = -torch.nn.functional.logsigmoid(2.0 * (positive - negative))
    torch.testing.assert_close(loss, expected)


def test_a_heavier_negative_costs_more_and_pulls_more():
    positive = torch.zeros(2)
    negative = torch.zeros(2, 1, requires_grad=True)
    loss = NPairLoss()(
        Candidates(
            positive,
            negative,
            torch.ones(2, 1, dtype=torch.bool),
            torch.tensor([[math.log(0.25)], [math.log(4.0)]]),
        )
    )
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([math.log(1.25), math.log(5.0)]))
    torch.testing.assert_close(negative.grad, torch.tensor([[0.2], [0.8]]))


def test_bf16_scores_are_subtracted_in_float32_under_autocast():
    # 256 - 1/64 rounds to 256 in bf16: subtracting there would lose the gap.
    positive = torch.tensor([256.0], dtype=torch.bfloat16)
    negative = torch.tensor([[1 / 64]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = NPairLoss(1000.0)(Candidates(positive, negative, torch.ones(1, 1, dtype=torch.bool)))
    assert loss.dtype == torch.float32
    expected = torch.tensor([math.log1p(math.exp((1 / 64 - 256.0) / 1000.0))])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_temperature_must_be_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature"):
        NPairLoss(temperature)
