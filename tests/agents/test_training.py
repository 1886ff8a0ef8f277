"""Training runs through ParlAI's own scripts: train, resume, continue from another model."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import pytest
import torch
from parlai.scripts.eval_model import EvalModel
from parlai.scripts.train_model import TrainModel

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import Checkpoint

SETTINGS = {
    "model": "prosocial",
    "task": "mic:Contrastive",
    "prosocial_sample": True,
    "batchsize": 2,
    "lora_rank": 0,
    "precision": "fp32",
    "learningrate": 1e-3,
    "lr_scheduler": "none",
    "text_truncate": 64,
    "label_truncate": 12,
    "validation_max_exs": 4,
    "validation_metric": "loss",
    "log_every_n_steps": 1,
    "datatype": "train:ordered:stream",
}


@pytest.fixture
def train(tmp_path, tiny_backbones):
    def run(model_file="run/model", backbone="llama", **settings):
        settings = {"backbone": str(tiny_backbones[backbone]), **SETTINGS, **settings}
        return TrainModel.main(model_file=str(tmp_path / model_file), **settings)

    return run


def weights(path):
    found = Checkpoint(str(path))
    adapter = found.folder if found.is_adapter else None
    folder = found.info["backbone"] if adapter else found.folder
    backbone = Backbone(Path(folder), adapter=adapter)
    return {n: p.detach().clone() for n, p in backbone.named_parameters()}


def differs(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize("backbone", ["gpt2", "llama", "t5", "blenderbot"])
def test_every_backbone_trains_resumes_and_generates(train, tmp_path, tiny_backbones, backbone):
    rank = 2 if backbone in ("gpt2", "blenderbot") else 0
    settings = {"backbone": backbone, "lora_rank": rank, "validation_every_n_steps": 2}
    settings |= {"save_after_valid": True}
    valid, test = train(max_train_steps=2, **settings)
    assert valid["ppl"].value() > 1
    assert test["gen_n_toks"].value() >= 1
    path = tmp_path / "run" / "model"
    after_two = weights(path)
    assert Checkpoint(str(path)).training_state()["number_training_updates"] == 2
    # At the cutoff, 1 unless given, ParlAI takes the task as solved and stops.
    settings |= {"validation_metric": "contrast_acc", "validation_cutoff": 2.0}
    train(max_train_steps=4, **settings)
    assert differs(after_two, weights(str(path) + ".checkpoint")) > 0
    report = EvalModel.main(
        model_file=str(path),
        task="mic:Contrastive",
        prosocial_sample=True,
        datatype="valid",
        num_examples=4,
        inference="beam",
        beam_size=2,
    )
    for name in ("loss", "ppl", "contrast_loss", "contrast_acc", "margin", "logp_pos", "f1"):
        assert name in report, name


@pytest.fixture
def one_row(tmp_path):
    """Own data whose one training row is every batch, wherever ParlAI goes on in it."""
    row = {"context": ["Hi!"], "response": "hello there", "negatives": ["no", "It is fine."]}
    file = tmp_path / "own.jsonl"
    rows = [row | {"split": split} for split in ("train", "valid", "test")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"task": "prosocial:Own", "prosocial_data": str(file), "prosocial_sample": False}
    return settings | {"batchsize": 1, "datatype": "train"}


@pytest.mark.parametrize(
    ("rank", "schedule"), [(0, "invsqrt"), (2, "linear"), (2, "none"), (2, "reduceonplateau")]
)
def test_stopping_and_resuming_changes_nothing(train, tmp_path, one_row, rank, schedule):
    settings = {"lora_rank": rank, "optimizer": "adamw", "lr_scheduler": schedule, **one_row}
    settings |= {"warmup_updates": 2, "validation_every_n_steps": 1, "save_after_valid": True}
    # ParlAI saves after each validation, but not after the last step.
    train("whole/model", max_train_steps=6, **settings)
    train("parts/model", max_train_steps=6, num_epochs=4, **settings)
    halfway = weights(tmp_path / "parts" / "model.checkpoint")
    train("parts/model", max_train_steps=6, num_epochs=-1, **settings)
    whole = weights(tmp_path / "whole" / "model.checkpoint")
    parts = weights(tmp_path / "parts" / "model.checkpoint")
    assert differs(whole, halfway) > 1e-5
    assert differs(whole, parts) < 1e-7
    states = [
        Checkpoint(str(tmp_path / run / "model.checkpoint")).training_state()
        for run in ("whole", "parts")
    ]
    assert [state["number_training_updates"] for state in states] == [5, 5]
    assert states[0].get("lr_scheduler") == states[1].get("lr_scheduler")
    moments = [state["optimizer"]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys() != set()
    for key, moment in moments[0].items():
        assert moment["step"] == moments[1][key]["step"] == 5
        torch.testing.assert_close(moment["exp_avg"], moments[1][key]["exp_avg"])


def test_the_attention_kernel_is_measured_once_in_a_run(train, tmp_path, one_row, monkeypatch):
    trials = []

    def trial(config, rows, length, dtype):
        trials.append((rows, length, dtype))
        return "plain", "it was tried"

    monkeypatch.setattr("parlai_prosocial.agents.prosocial.faster_attention", trial)
    settings = {"precision": "bf16", "lora_rank": 2, "save_after_valid": True, **one_row}
    train(max_train_steps=2, validation_every_n_steps=1, **settings)
    assert len(trials) == 1
    assert trials[0][2] == torch.bfloat16
    path = tmp_path / "run" / "model"
    assert Checkpoint(str(path)).training_state()["attention_kernel"] == "plain"
    train(max_train_steps=4, validation_every_n_steps=1, **settings)
    assert len(trials) == 1
    train("next/model", init_model=str(path), max_train_steps=1, **settings)
    assert len(trials) == 2


@pytest.mark.parametrize("faster", [True, False])
def test_a_run_that_goes_on_computes_as_it_began(train, tmp_path, one_row, monkeypatch, faster):
    def measures(answer):
        monkeypatch.setattr("parlai_prosocial.agents.glue.bf16_is_faster", lambda device: answer)

    settings = {"precision": "auto", "lora_rank": 2, "save_after_valid": True, **one_row}
    settings |= {"validation_every_n_steps": 1}
    measures(faster)
    train(max_train_steps=2, **settings)
    measures(not faster)
    train(max_train_steps=4, **settings)
    train("next/model", init_model=str(tmp_path / "run" / "model"), max_train_steps=2, **settings)
    found = {
        name: Checkpoint(str(tmp_path / name / "model.checkpoint")).info["precision"]
        for name in ("run", "next")
    }
    begun, other = ("bf16", "fp32") if faster else ("fp32", "bf16")
    assert found == {"run": begun, "next": other}


def test_init_model_takes_weights_and_not_the_optimiser(train, tmp_path):
    train("first/model", max_train_steps=2)
    first = str(tmp_path / "first" / "model")
    train("second/model", init_model=first, max_train_steps=1, learningrate=1e-9)
    second = tmp_path / "second" / "model"
    assert differs(weights(first), weights(second)) < 1e-6
    assert Checkpoint(str(second)).training_state()["number_training_updates"] == 1


def test_an_adapter_goes_on_from_init_model_with_its_base(train, tmp_path):
    train("first/model", max_train_steps=1, lora_rank=2)
    # Without --backbone and --lora-rank: the checkpoint knows its base, and has its adapter.
    settings = {name: SETTINGS[name] for name in SETTINGS if name != "lora_rank"}
    settings |= {"max_train_steps": 1, "learningrate": 1e-9}
    init = str(tmp_path / "first" / "model")
    TrainModel.main(model_file=str(tmp_path / "second/model"), init_model=init, **settings)
    first, second = (weights(tmp_path / run / "model") for run in ("first", "second"))
    assert differs(first, second) < 1e-6


def test_flags_that_a_checkpoint_decides_are_refused(train, tmp_path, tiny_backbones):
    train("adapter/model", max_train_steps=1, lora_rank=2)
    train("full/model", max_train_steps=1)
    adapter, full = (str(tmp_path / name / "model") for name in ("adapter", "full"))
    for init, flags, message in (
        (adapter, {"lora_rank": 4}, "--lora-rank 4: does not act on .*adapter/model, which has 2"),
        (full, {"lora_rank": 4}, "--lora-rank 4: does not act on .*full/model, which has 0"),
        (full, {"backbone": "t5"}, "--backbone .*t5: does not act on .*full/model"),
        (full, {"system_prompt": "Be rude."}, "--system-prompt Be rude.: does not act on"),
    ):
        with pytest.raises(UserError, match=message):
            train("other/model", init_model=init, max_train_steps=1, **flags)
    # One that says the same is no mistake.
    train("other/model", init_model=adapter, max_train_steps=1, lora_rank=2)


def test_an_adapter_refuses_a_base_that_was_changed(tmp_path, tiny_backbones):
    base = shutil.copytree(tiny_backbones["gpt2"], tmp_path / "base")
    path = str(tmp_path / "model")
    settings = SETTINGS | {"backbone": str(base), "lora_rank": 2, "max_train_steps": 1}
    TrainModel.main(model_file=path, **settings)
    data = bytearray((base / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (base / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="this adapter was trained on"):
        EvalModel.main(model_file=path, task="mic:Contrastive", prosocial_sample=True)


def test_the_system_prompt_is_stored(train, tmp_path):
    train(max_train_steps=1, system_prompt="Be brief.")
    path = tmp_path / "run" / "model"
    assert Checkpoint(str(path)).info["system_prompt"] == "Be brief."
    report = EvalModel.main(
        model_file=str(path),
        task="mic:Contrastive",
        prosocial_sample=True,
        num_examples=1,
        datatype="valid",
        skip_generation=True,
    )
    assert report["loss"].value() > 0


def test_dynamic_batching_and_tensorboard(train, tmp_path):
    train(
        max_train_steps=2,
        dynamic_batching="full",
        batchsize=4,
        tensorboard_log=True,
        datatype="train",
        validation_metric="ppl",
        validation_metric_mode="min",
        in_batch_negatives=1,
    )
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_a_task_without_negatives_trains_on_the_batch(train, tmp_path):
    train(
        task="prosocial:Response",
        in_batch_negatives=2,
        batchsize=4,
        max_train_steps=2,
        datatype="train",
        skip_generation=True,
    )
    trained = json.loads((tmp_path / "run" / "model.trainstats").read_text())
    assert trained["train_reports"][-1]["contrast_loss"] > 0


def test_scores_are_the_same_at_every_batch_size(train, tmp_path):
    train(max_train_steps=1)
    losses = [
        EvalModel.main(
            model_file=str(tmp_path / "run" / "model"),
            task="mic:Contrastive,prosocial:Contrastive",
            prosocial_sample=True,
            datatype="valid",
            batchsize=size,
            num_examples=12,
            skip_generation=True,
        )
        for size in (1, 6)
    ]
    for name in ("loss", "contrast_loss", "logp_neg", "margin"):
        one, six = (report[name].value() for report in losses)
        assert one == pytest.approx(six, abs=1e-4), name


def test_a_pickled_model_file_is_refused(train, tmp_path):
    train(max_train_steps=1)
    path = tmp_path / "run" / "model"
    torch.save({"model": {}}, path)
    with pytest.raises(UserError, match="not a checkpoint of -m prosocial"):
        EvalModel.main(model_file=str(path), task="mic:Contrastive", prosocial_sample=True)


def test_each_loss_learns_something_of_its_own(train, tmp_path):
    # A wide margin: the default ones are met by chance here, and then nothing is contrasted.
    runs = {
        "likelihood only": {"contrast_weight": 0.0},
        "n-pair": {},
        "ranked-margin": {"contrast_loss": "ranked-margin", "margin": 5.0},
        "likelihood-margin": {"contrast_loss": "likelihood-margin"},
        "dpo": {"contrast_loss": "dpo", "contrast_reference": "init"},
        "simpo": {"contrast_loss": "simpo"},
    }
    learnt = {}
    for name, settings in runs.items():
        train(f"{name}/model", max_train_steps=2, **settings)
        learnt[name] = weights(tmp_path / name / "model")
    for one, other in combinations(learnt, 2):
        assert differs(learnt[one], learnt[other]) > 0, (one, other)


@pytest.mark.parametrize("model", ["prosocial", "prosocial/transformer"])
def test_training_logs_of_several_tasks_weigh_by_examples(model):
    flags = ["-m", model, "-t", "self_dialogue,diasafety"]
    assert TrainModel.setup_args().parse_args(flags)["aggregate_micro"]
    macro = [*flags, "--aggregate-micro", "false"]
    assert not TrainModel.setup_args().parse_args(macro)["aggregate_micro"]
    assert not EvalModel.setup_args().parse_args(flags)["aggregate_micro"]
