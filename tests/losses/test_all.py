"""What every contrastive loss promises: masks, order, padding, extremes, shapes."""

import pytest
import torch

from parlai_prosocial.losses.candidates import Candidates, has_negatives
from parlai_prosocial.losses.dpo import DPOLoss
from parlai_prosocial.losses.likelihood_margin import LikelihoodMarginLoss
from parlai_prosocial.losses.n_pair import NPairLoss
from parlai_prosocial.losses.ranked_margin import RankedMarginLoss
from parlai_prosocial.losses.simpo import SimPOLoss

# Margins so wide that every pair counts: a hinge that is satisfied would hide a wrong mask.
LOSSES = [
    NPairLoss(0.5),
    RankedMarginLoss(20.0),
    LikelihoodMarginLoss(20.0),
    DPOLoss(),
    SimPOLoss(),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


@each_loss
def test_order_of_negatives_does_not_matter(loss, batch):
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = dict(batch)
    for name in ("negative_scores", "negative_mask", "negative_log_weights"):
        shuffled[name] = batch[name][:, order]
    torch.testing.assert_close(loss(Candidates(**shuffled)), loss(Candidates(**batch)))


@each_loss
def test_order_of_the_batch_does_not_matter(loss, batch):
    order = torch.tensor([3, 0, 5, 4, 1, 2])
    shuffled = {name: tensor[order] for name, tensor in batch.items()}
    for name in ("in_batch_scores", "in_batch_mask"):
        shuffled[name] = shuffled[name][:, order]
    torch.testing.assert_close(loss(Candidates(**shuffled)), loss(Candidates(**batch))[order])


@each_loss
@pytest.mark.parametrize("rubbish", [0.0, 1e30, -torch.inf, torch.inf, torch.nan])
def test_padding_changes_neither_loss_nor_gradient(loss, batch, rubbish):
    def loss_and_gradients(padding):
        positive = batch["positive_scores"].clone().requires_grad_()
        negative = batch["negative_scores"].clone().requires_grad_()
        width = (6, padding)
        losses = loss(
            Candidates(
                positive,
                torch.cat([negative, torch.full(width, rubbish, dtype=torch.float64)], dim=1),
                torch.cat([batch["negative_mask"], torch.zeros(width, dtype=torch.bool)], dim=1),
                torch.cat([batch["negative_log_weights"], torch.full(width, rubbish)], dim=1),
            )
        )
        losses.sum().backward()
        return losses, positive.grad, negative.grad

    for padded, plain in zip(loss_and_gradients(3), loss_and_gradients(0), strict=True):
        torch.testing.assert_close(padded, plain)


@each_loss
def test_masked_scores_get_no_gradient_and_others_do(loss, batch):
    negative = batch["negative_scores"].requires_grad_()
    loss(Candidates(batch["positive_scores"], negative, batch["negative_mask"])).sum().backward()
    assert (negative.grad[~batch["negative_mask"]] == 0).all()
    assert (negative.grad[batch["negative_mask"]] > 0).all()


@each_loss
@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("filler", [0.0, -torch.inf, torch.nan])
def test_no_negative_at_all_is_exactly_zero(loss, width, filler):
    positive = torch.tensor([-1.0, -50.0], requires_grad=True)
    negative = torch.full((2, width), filler, requires_grad=True)
    losses = loss(Candidates(positive, negative, torch.zeros(2, width, dtype=torch.bool)))
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.0]
    assert positive.grad.tolist() == [0.0, 0.0]
    assert (negative.grad == 0).all()


@each_loss
def test_no_in_batch_negative_is_exactly_zero(loss):
    positive = torch.tensor([-1.0, -2.0], requires_grad=True)
    losses = loss(
        Candidates(
            positive,
            torch.zeros(2, 0),
            torch.zeros(2, 0, dtype=torch.bool),
            in_batch_scores=torch.randn(2, 2),
            in_batch_mask=torch.zeros(2, 2, dtype=torch.bool),
        )
    )
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.0]
    assert positive.grad.tolist() == [0.0, 0.0]


EXTREMES = [0.0, 1e4, -1e4, 3e38, -3e38, torch.inf, -torch.inf]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "loss",
    [NPairLoss(1e-3), *LOSSES],
    ids=lambda loss: f"{type(loss).__name__}{getattr(loss, 'temperature', '')}",
)
def test_extreme_scores_stay_finite(loss, dtype):
    values = torch.tensor(EXTREMES, dtype=dtype)
    positive = values.repeat_interleave(len(values)).requires_grad_()
    negative = values.repeat(len(values))[:, None].requires_grad_()
    in_batch = negative.detach().expand(-1, len(positive)).clone().requires_grad_()
    mask = torch.ones_like(negative, dtype=torch.bool)
    others = ~torch.eye(len(positive), dtype=torch.bool)
    losses = loss(
        Candidates(positive, negative, mask, in_batch_scores=in_batch, in_batch_mask=others)
    )
    losses.sum().backward()
    assert losses.dtype == torch.float32
    for tensor in (losses, positive.grad, negative.grad, in_batch.grad):
        assert tensor.isfinite().all()


@each_loss
def test_nan_scores_are_not_hidden(loss):
    losses = loss(Candidates(torch.tensor([torch.nan]), torch.zeros(1, 1), torch.ones(1, 1).bool()))
    assert losses.isnan().all()


@each_loss
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("positive_scores", (6, 1)),
        ("negative_mask", (6, 4)),
        ("negative_log_weights", (1, 5)),
        ("in_batch_mask", (6, 5)),
        ("in_batch_mask", (6,)),
        ("in_batch_scores", (5, 6)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(loss, batch, name, shape):
    batch[name] = torch.zeros(shape, dtype=batch[name].dtype)
    with pytest.raises(ValueError, match=name):
        loss(Candidates(**batch))


@each_loss
def test_in_batch_scores_need_their_mask(loss, batch):
    with pytest.raises(ValueError, match="together"):
        loss(Candidates(**(batch | {"in_batch_mask": None})))


@each_loss
@pytest.mark.parametrize("in_batch", [False, True])
def test_has_negatives_agrees_with_the_loss(loss, batch, in_batch):
    if in_batch:
        batch["in_batch_mask"][:3] = False
        given = {k: v for k, v in batch.items() if k != "positive_scores"}
    else:
        given = {k: v for k, v in batch.items() if k in ("negative_scores", "negative_mask")}
    losses = loss(Candidates(batch["positive_scores"], **given))
    found = has_negatives(given["negative_mask"], given.get("in_batch_mask"))
    assert found.tolist() == (losses > 0).tolist()
    assert not found.all() and found.any()
