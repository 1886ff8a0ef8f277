"""The n-pair loss against a naive double loop, and the properties that it promises."""

import math

import pytest
import torch

from parlai_prosocial.losses.n_pair import NPairLoss, has_negatives


def naive_loss(
    positive,
    negatives,
    mask,
    temperature,
    log_weights=None,
    in_batch=None,
    false_negatives=None,
    in_batch_log_weight=0.0,
):
    """The formula of DESIGN.md section 2, term by term, in Python floats."""
    losses = []
    for i in range(len(positive)):
        total = 1.0
        for j in range(negatives.shape[1]):
            if mask[i, j]:
                weight = 1.0 if log_weights is None else math.exp(log_weights[i, j])
                gap = float(negatives[i, j]) - float(positive[i])
                total += weight * math.exp(gap / temperature)
        if in_batch is not None:
            for j in range(len(positive)):
                left_out = false_negatives is not None and bool(false_negatives[i, j])
                if j != i and not left_out:
                    gap = float(in_batch[i, j]) - float(positive[i])
                    total += math.exp(in_batch_log_weight) * math.exp(gap / temperature)
        losses.append(math.log(total))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.fixture
def batch():
    """Six examples with 0 to 4 of 5 negatives, in float64, with in-batch scores."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    counts = torch.tensor([0, 1, 2, 3, 4, 4])
    in_batch = normal(6, 6)
    return {
        "positive_scores": in_batch.diagonal().clone(),
        "negative_scores": normal(6, 5),
        "negative_mask": torch.arange(5)[None] < counts[:, None],
        "negative_log_weights": normal(6, 5),
        "in_batch_scores": in_batch,
        "false_negatives": normal(6, 6) > 0.5,
    }


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("in_batch", ["none", "all", "without false negatives"])
def test_equals_the_naive_double_loop(batch, temperature, weighted, in_batch):
    if not weighted:
        batch["negative_log_weights"] = None
    if in_batch != "without false negatives":
        batch["false_negatives"] = None
    if in_batch == "none":
        batch["in_batch_scores"] = None
    loss = NPairLoss(temperature)(**batch, in_batch_log_weight=-0.7)
    expected = naive_loss(
        batch["positive_scores"],
        batch["negative_scores"],
        batch["negative_mask"],
        temperature,
        batch["negative_log_weights"],
        batch["in_batch_scores"],
        batch["false_negatives"],
        in_batch_log_weight=-0.7,
    )
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


def test_gradcheck(batch):
    log_weights, mask = batch["negative_log_weights"], batch["negative_mask"]

    def loss(positive, negative, in_batch):
        return NPairLoss(0.5)(
            positive, negative, mask, log_weights, in_batch, batch["false_negatives"], -1.0
        )

    inputs = [
        batch[name].requires_grad_()
        for name in ("positive_scores", "negative_scores", "in_batch_scores")
    ]
    assert torch.autograd.gradcheck(loss, inputs)


def test_order_of_negatives_does_not_matter(batch):
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = dict(batch)
    for name in ("negative_scores", "negative_mask", "negative_log_weights"):
        shuffled[name] = batch[name][:, order]
    torch.testing.assert_close(NPairLoss()(**shuffled), NPairLoss()(**batch))


def test_order_of_the_batch_does_not_matter(batch):
    order = torch.tensor([3, 0, 5, 4, 1, 2])
    shuffled = {name: tensor[order] for name, tensor in batch.items()}
    for name in ("in_batch_scores", "false_negatives"):
        shuffled[name] = shuffled[name][:, order]
    torch.testing.assert_close(NPairLoss()(**shuffled), NPairLoss()(**batch)[order])


@pytest.mark.parametrize("rubbish", [0.0, 1e30, -torch.inf, torch.inf, torch.nan])
def test_padding_changes_neither_loss_nor_gradient(batch, rubbish):
    def loss_and_gradients(padding):
        positive = batch["positive_scores"].clone().requires_grad_()
        negative = batch["negative_scores"].clone().requires_grad_()
        width = (6, padding)
        loss = NPairLoss(0.5)(
            positive,
            torch.cat([negative, torch.full(width, rubbish, dtype=torch.float64)], dim=1),
            torch.cat([batch["negative_mask"], torch.zeros(width, dtype=torch.bool)], dim=1),
            torch.cat([batch["negative_log_weights"], torch.full(width, rubbish)], dim=1),
        )
        loss.sum().backward()
        return loss, positive.grad, negative.grad

    for padded, plain in zip(loss_and_gradients(3), loss_and_gradients(0), strict=True):
        torch.testing.assert_close(padded, plain)


def test_masked_scores_get_no_gradient(batch):
    negative = batch["negative_scores"].requires_grad_()
    NPairLoss()(batch["positive_scores"], negative, batch["negative_mask"]).sum().backward()
    assert (negative.grad[~batch["negative_mask"]] == 0).all()
    assert (negative.grad[batch["negative_mask"]] > 0).all()


@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("filler", [0.0, -torch.inf, torch.nan])
def test_no_negative_at_all_is_exactly_zero(width, filler):
    positive = torch.tensor([-1.0, -50.0], requires_grad=True)
    negative = torch.full((2, width), filler, requires_grad=True)
    loss = NPairLoss(0.1)(positive, negative, torch.zeros(2, width, dtype=torch.bool))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert positive.grad.tolist() == [0.0, 0.0]
    assert (negative.grad == 0).all()


def test_all_in_batch_negatives_false_is_exactly_zero():
    positive = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss = NPairLoss()(
        positive,
        torch.zeros(2, 0),
        torch.zeros(2, 0, dtype=torch.bool),
        in_batch_scores=torch.randn(2, 2),
        false_negatives=torch.tensor([[False, True], [True, False]]),
    )
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert positive.grad.tolist() == [0.0, 0.0]


def test_batch_of_one_has_no_in_batch_negative():
    nothing = torch.zeros(1, 0)
    loss = NPairLoss()(torch.ones(1), nothing, nothing.bool(), in_batch_scores=torch.ones(1, 1))
    assert loss.tolist() == [0.0]


def test_one_negative_is_simpo_without_margin():
    positive, negative = torch.tensor([-1.5, -3.0]), torch.tensor([-2.0, -1.0])
    loss = NPairLoss(temperature=0.5)(
        positive, negative[:, None], torch.ones(2, 1, dtype=torch.bool)
    )
    expected = -torch.nn.functional.logsigmoid(2.0 * (positive - negative))
    torch.testing.assert_close(loss, expected)


def test_a_heavier_negative_costs_more_and_pulls_more():
    positive = torch.zeros(2)
    negative = torch.zeros(2, 1, requires_grad=True)
    loss = NPairLoss()(
        positive,
        negative,
        torch.ones(2, 1, dtype=torch.bool),
        torch.tensor([[math.log(0.25)], [math.log(4.0)]]),
    )
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([math.log(1.25), math.log(5.0)]))
    torch.testing.assert_close(negative.grad, torch.tensor([[0.2], [0.8]]))


EXTREMES = [0.0, 1e4, -1e4, 3e38, -3e38, torch.inf, -torch.inf]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [1e-3, 1.0])
def test_extreme_scores_stay_finite(dtype, temperature):
    values = torch.tensor(EXTREMES, dtype=dtype)
    positive = values.repeat_interleave(len(values)).requires_grad_()
    negative = values.repeat(len(values))[:, None].requires_grad_()
    in_batch = negative.detach().expand(-1, len(positive)).clone().requires_grad_()
    mask = torch.ones_like(negative, dtype=torch.bool)
    loss = NPairLoss(temperature)(positive, negative, mask, in_batch_scores=in_batch)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    for tensor in (loss, positive.grad, negative.grad, in_batch.grad):
        assert tensor.isfinite().all()


def test_bf16_scores_are_subtracted_in_float32_under_autocast():
    # 256 - 1/64 rounds to 256 in bf16: subtracting there would lose the gap.
    positive = torch.tensor([256.0], dtype=torch.bfloat16)
    negative = torch.tensor([[1 / 64]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = NPairLoss(1000.0)(positive, negative, torch.ones(1, 1, dtype=torch.bool))
    assert loss.dtype == torch.float32
    expected = torch.tensor([math.log1p(math.exp((1 / 64 - 256.0) / 1000.0))])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_nan_scores_are_not_hidden():
    loss = NPairLoss()(torch.tensor([torch.nan]), torch.zeros(1, 1), torch.ones(1, 1).bool())
    assert loss.isnan().all()


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_temperature_must_be_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature"):
        NPairLoss(temperature)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("positive_scores", (6, 1)),
        ("negative_mask", (6, 4)),
        ("negative_log_weights", (1, 5)),
        ("in_batch_scores", (6, 5)),
        ("false_negatives", (6,)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(batch, name, shape):
    batch[name] = torch.zeros(shape, dtype=batch[name].dtype)
    with pytest.raises(ValueError, match=name):
        NPairLoss()(**batch)


def test_has_negatives_agrees_with_the_loss(batch):
    for in_batch in (False, True):
        if not in_batch:
            given = {k: v for k, v in batch.items() if k in ("negative_scores", "negative_mask")}
        else:
            batch["false_negatives"][:3] = True
            given = {k: v for k, v in batch.items() if k != "positive_scores"}
        loss = NPairLoss()(batch["positive_scores"], **given)
        found = has_negatives(
            given["negative_mask"], given.get("in_batch_scores"), given.get("false_negatives")
        )
        assert found.tolist() == (loss > 0).tolist()
        assert not found.all() and found.any()
