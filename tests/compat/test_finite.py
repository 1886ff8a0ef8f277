"""Steps whose loss or gradient is no number."""

import json

import pytest
import torch
from parlai.scripts.train_model import TrainLoop, TrainModel
from safetensors.torch import load_file

from parlai_prosocial.agents.prosocial import ProsocialAgent
from parlai_prosocial.compat.finite import IN_A_ROW
from parlai_prosocial.compat.training import release
from parlai_prosocial.errors import UserError


@pytest.fixture
def train(tiny_backbones, tmp_path, monkeypatch):
    """Train a few steps, of which those in ``bad`` have a loss that ``spoil`` has been at."""

    def run(bad, spoil=float("nan"), steps=6, **changes):
        compute_loss = ProsocialAgent.compute_loss
        count = 0

        def loss(self, batch, return_output=False):
            nonlocal count
            found = compute_loss(self, batch, return_output)
            if not self.is_training:
                return found
            count += 1
            return found * spoil if count in bad else found

        monkeypatch.setattr(ProsocialAgent, "compute_loss", loss)
        opt = TrainModel.setup_args().parse_kwargs(
            model="prosocial",
            task="mic:Contrastive",
            prosocial_sample=True,
            backbone=str(tiny_backbones["llama"]),
            model_file=str(tmp_path / "model"),
            lora_rank=0,
            precision="fp32",
            batchsize=2,
            optimizer="sgd",
            learningrate=0.1,
            lr_scheduler="none",
            warmup_updates=-1,
            text_truncate=48,
            label_truncate=16,
            skip_generation=True,
            max_train_steps=steps,
            seed=2,
            log_every_n_steps=1,
            **changes,
        )
        loop = TrainLoop(opt)
        reports = []
        try:
            reports.extend(loop.train_steps())
        finally:
            release(loop)
        return reports

    return run


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr("parlai.utils.logging.warning", lambda text: lines.append(str(text)))
    return lines


def result(folder):
    manifest = json.loads((folder / "model").read_text())
    return load_file(folder / manifest["weights"] / "model.safetensors")


@pytest.mark.parametrize("spoil", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("clip", [1.0, -1.0])
def test_a_bad_step_changes_nothing_and_is_counted(spoil, clip, train, tmp_path, said):
    reports = train({3}, spoil, gradient_clip=clip)
    assert sum(float(report.get("skipped_steps", 0)) for report in reports) == 1
    assert all(tensor.isfinite().all() for tensor in result(tmp_path).values())
    [line] = [line for line in said if "is no number" in line]
    # Two examples, each by its task and a hash: a text may be abusive.
    _, batch = line.split("Its batch: ")
    assert [name.split()[0] for name in batch.split(", ")] == ["mic:Contrastive"] * 2
    assert line.startswith("loss or gradient of update 3 ")


def test_a_bad_gradient_of_a_good_loss_is_no_step(train, tmp_path, said, monkeypatch):
    backward = ProsocialAgent.backward

    def spoilt(self, loss, **kwargs):
        backward(self, loss, **kwargs)
        if self._number_training_updates == 2 and not said:
            next(p for p in self.model.parameters() if p.grad is not None).grad[:] = torch.nan

    monkeypatch.setattr(ProsocialAgent, "backward", spoilt)
    train(set())
    assert sum("is no number" in line for line in said) == 1
    assert all(tensor.isfinite().all() for tensor in result(tmp_path).values())


def test_too_many_in_a_row_end_the_run_at_the_last_good_checkpoint(train, tmp_path):
    bad = set(range(4, 4 + IN_A_ROW))
    with pytest.raises(UserError, match=f"{IN_A_ROW} .* in a row had a loss or gradient") as caught:
        train(bad, steps=20, save_every_n_secs=1e-9)
    assert "after 3 good ones" in str(caught.value)
    assert not (tmp_path / "model").exists()
    stats = json.loads((tmp_path / "model.checkpoint.trainstats").read_text())
    assert stats["train_steps"] == 3


def test_bad_steps_that_end_a_run_are_no_result(train, tmp_path):
    with pytest.raises(UserError, match="the weights of now are not saved"):
        train({5, 6}, steps=6)
    assert not (tmp_path / "model").exists()


def test_bad_steps_between_good_ones_do_not_add_up(train, tmp_path):
    reports = train(set(range(1, 21)) - {5, 10, 15, 20}, steps=20)
    assert sum(float(report.get("skipped_steps", 0)) for report in reports) == 16
    assert (tmp_path / "model").exists()


def test_half_a_bad_update_is_none(train, tmp_path):
    reports = train({3}, steps=3, update_freq=2)  # the first half of the second update
    assert sum(float(report.get("skipped_steps", 0)) for report in reports) == 1
    assert all(tensor.isfinite().all() for tensor in result(tmp_path).values())
