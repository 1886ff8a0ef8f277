"""DPO and SimPO: TRL's own losses where a context has one negative, and means of them beyond."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import logsigmoid

from parlai_prosocial.losses.candidates import Candidates
from parlai_prosocial.losses.dpo import DPOLoss
from parlai_prosocial.losses.n_pair import NPairLoss
from parlai_prosocial.losses.simpo import SimPOLoss

ONE = torch.ones(6, 1, dtype=torch.bool)
each_loss = pytest.mark.parametrize("loss", [DPOLoss(0.3), SimPOLoss(2.5, 0.7)])


def test_simpo_is_trls(batch):
    cpo = pytest.importorskip("trl.experimental.cpo")
    settings = SimpleNamespace(
        loss_type="simpo",
        beta=2.5,
        simpo_gamma=0.7,
        label_smoothing=0.0,
        alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    positive, negative = batch["positive_scores"], batch["negative_scores"][:, 0]
    expected, _, _ = cpo.CPOTrainer.cpo_loss(settings, positive, negative)
    found = SimPOLoss(2.5, 0.7)(Candidates(positive, negative[:, None], ONE))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_dpo_of_one_negative_is_n_pair_at_one_over_beta(batch):
    candidates = Candidates(batch["positive_scores"], batch["negative_scores"][:, :1], ONE)
    torch.testing.assert_close(DPOLoss(0.25)(candidates), NPairLoss(4.0)(candidates))


@each_loss
def test_several_negatives_are_the_weighted_mean_of_their_pairs(loss, batch):
    margin = getattr(loss, "margin", 0.0)
    found = loss(
        Candidates(
            *(batch[name] for name in ("positive_scores", "negative_scores", "negative_mask")),
            batch["negative_log_weights"],
        )
    )
    for i, mask in enumerate(batch["negative_mask"]):
        gaps = batch["positive_scores"][i] - batch["negative_scores"][i][mask]
        pairs = (
            -logsigmoid(loss.beta * gaps - margin) * batch["negative_log_weights"][i][mask].exp()
        )
        assert float(found[i]) == pytest.approx(float(pairs.mean()) if len(pairs) else 0.0)


@each_loss
def test_gradcheck(loss, batch):
    def of(positive, negative):
        return loss(
            Candidates(positive, negative, batch["negative_mask"], batch["negative_log_weights"])
        )

    inputs = [batch[name].requires_grad_() for name in ("positive_scores", "negative_scores")]
    assert torch.autograd.gradcheck(of, inputs)


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"beta": float("nan")}, {"margin": -1.0}])
def test_a_setting_that_makes_no_sense_is_refused(wrong):
    for loss in (DPOLoss, SimPOLoss) if "beta" in wrong else (SimPOLoss,):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            loss(**wrong)
