"""A batch that does not fit into memory."""

import pytest
import torch
from parlai.scripts.train_model import TrainLoop, TrainModel, set_seed

from parlai_prosocial.agents.prosocial import ProsocialAgent
from parlai_prosocial.compat.training import release


@pytest.fixture
def train(tiny_backbones, tmp_path, monkeypatch):
    """Train three steps of four examples on a machine for ``room`` of them, give loop's reports."""

    def run(room, name="model", contrast_weight=0.0):
        sizes = []
        compute_loss = ProsocialAgent.compute_loss

        def loss(self, batch, return_output=False):
            sizes.append(batch.batchsize)
            if batch.batchsize > room:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return compute_loss(self, batch, return_output)

        opt = TrainModel.setup_args().parse_kwargs(
            model="prosocial",
            task="mic:Contrastive",
            prosocial_sample=True,
            backbone=str(tiny_backbones["llama"]),
            model_file=str(tmp_path / name),
            lora_rank=0,
            precision="fp32",
            batchsize=4,
            optimizer="sgd",
            learningrate=0.1,
            gradient_clip=-1.0,
            lr_scheduler="none",
            warmup_updates=-1,
            label_truncate=160,  # so that replies differ in length
            text_truncate=48,
            skip_generation=True,
            contrast_weight=contrast_weight,
            max_train_steps=3,
            seed=2,
            log_every_n_steps=1,
        )
        with monkeypatch.context() as patch:
            patch.setattr(ProsocialAgent, "compute_loss", loss)
            loop = TrainLoop(opt)
            agent = loop.agent
            set_seed(2)
            try:
                reports = list(loop.train_steps())
            finally:
                release(loop)
        return reports, sizes, {n: p.detach() for n, p in agent.model.named_parameters()}

    return run


@pytest.mark.parametrize("contrast_weight", [0.0, 1.0])
def test_its_parts_give_the_gradient_of_the_whole(train, contrast_weight):
    _, whole_sizes, whole = train(4, "whole", contrast_weight)
    reports, sizes, parts = train(2, "parts", contrast_weight)
    assert whole_sizes == [4] * 3 and sizes == [4, 2, 2] * 3
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)
    assert sum(float(report["split_batches"]) for report in reports) == 2  # the last has no log


def test_it_is_halved_until_it_fits(train):
    reports, sizes, _ = train(room=1, contrast_weight=1.0)
    assert sizes == [4, 2, 1, 1, 1, 1] * 3
    assert all(float(report["split_batches"]) == 1 for report in reports)


def test_single_examples_that_do_not_fit_are_skipped_and_counted(train):
    reports, _, weights = train(room=0)
    assert all(float(report["skipped_batches"]) == 1 for report in reports)
    assert all(tensor.isfinite().all() for tensor in weights.values())
