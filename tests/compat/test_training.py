"""A run that was killed, stopped, ended or changed, started again."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from parlai.scripts.train_model import TrainLoop, TrainModel, set_seed

from parlai_prosocial.compat import patches
from parlai_prosocial.compat.training import release
from parlai_prosocial.errors import UserError
from parlai_prosocial.util.writer import Writer

patches.apply()

STEPS = 6
SETTINGS = {
    "task": "diasafety:Contrastive",
    "batchsize": 2,
    "max_train_steps": STEPS,
    "optimizer": "adamw",
    "learningrate": 0.01,
    "lr_scheduler": "linear",
    "warmup_updates": 2,
    "precision": "fp32",
    "text_truncate": 48,
    "label_truncate": 16,
    "negatives": 1,
    "in_batch_negatives": 1,
    "skip_generation": True,
    "short_final_eval": True,
    "validation_max_exs": 2,
    "validation_metric": "ppl",
    "save_every_n_secs": 1e-9,
    "log_every_n_steps": 1,
    "seed": 4,
}


GENERATORS = ("skip_generation", "negatives", "in_batch_negatives", "precision")
NOT_OF = {
    "prosocial": (),
    "prosocial/classifier": GENERATORS,
    "prosocial/transformer": ("lora_rank", "precision"),
}
"""Settings that an agent does not have."""


class Killed(BaseException):
    """What ends a run in the middle, as SIGKILL does: nothing of it goes on."""


@pytest.fixture(scope="module")
def datapath(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def train(tiny_backbones, datapath, monkeypatch):
    """Train in this process, whose generators are in another state every time."""

    def run(path, killed_after=None, **changes):
        settings = {"model": "prosocial", "lora_rank": 2} | SETTINGS | changes
        if settings["model"] == "prosocial":
            settings = {"backbone": str(tiny_backbones["llama"])} | settings
        absent = NOT_OF[settings["model"]]
        settings = {key: value for key, value in settings.items() if key not in absent}
        random.seed()
        np.random.seed()
        torch.manual_seed(0)  # a new model's weights are drawn before --seed acts
        saves = []
        save_model = TrainLoop.save_model

        def save(self, suffix=None):
            save_model(self, suffix)
            saves.append(suffix)
            if len(saves) == killed_after:
                raise Killed

        opt = TrainModel.setup_args().parse_kwargs(
            model_file=str(path), datapath=str(datapath), **settings
        )
        with monkeypatch.context() as patch:
            patch.setattr(TrainLoop, "save_model", save)
            loop = TrainLoop(opt)
            try:
                set_seed(opt["seed"])
                for _ in loop.train_steps():
                    pass
            except Killed:
                return None
            finally:
                release(loop)
        return loop

    return run


def weights(path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    path = Path(path)
    try:
        manifest = json.loads(path.read_text())
    except ValueError:  # ParlAI's own file
        return torch.load(path, map_location="cpu", weights_only=True)["model"]
    files = sorted((path.parent / manifest["weights"]).glob("*.safetensors"))
    assert files
    return {f"{f.name} {k}": v for f in files for k, v in load_file(f).items()}


def training_state(path) -> Path:
    """The file of the newest checkpoint; the one before it has its own."""
    return path.parent / json.loads(path.read_text())["weights"] / "training.pt"


def same(first, second) -> bool:
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


TRANSFORMER = {
    "model": "prosocial/transformer",
    "embedding_size": 16,
    "ffn_size": 16,
    "n_heads": 2,
    "n_layers": 1,
    "n_positions": 64,
    "dropout": 0.1,
    "dict_tokenizer": "re",
    "dict_maxtokens": 500,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"task": "self_dialogue,diasafety:Contrastive", "multitask_weights": [1.0, 1.0]},
        {"task": "self_dialogue", "batchsize": 1},
        {"update_freq": 2},
        {"datatype": "train:stream"},
        {"task": "self_dialogue", "dynamic_batching": "full", "text_truncate": 16},
        {"validation_every_n_steps": 2},
        {"lr_scheduler": "invsqrt", "warmup_updates": 2, "max_train_steps": 5},
        {"lora_rank": 0, "contrast_score": "likelihood+cosine", "optimizer": "adam"},
        {"contrast_reference": "init", "casual_kl": 0.5},
        {"model": "prosocial/classifier", "task": "diasafety:Safety"},
        TRANSFORMER,
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    changes, train, tmp_path, tiny_encoder
):
    if changes.get("model") == "prosocial/classifier":
        changes = changes | {"backbone": str(tiny_encoder)}
    train(tmp_path / "whole" / "model", **changes)
    killed = tmp_path / "killed" / "model"
    assert train(killed, killed_after=2, **changes) is None
    assert train(killed, killed_after=2, **changes) is None  # once more, after it was taken up
    assert not killed.exists() or "validation_every_n_steps" in changes
    train(killed, **changes)
    assert same(killed, tmp_path / "whole" / "model")


@pytest.fixture
def said(monkeypatch):
    """What ParlAI's logger warns of."""
    lines = []
    monkeypatch.setattr("parlai.utils.logging.warning", lambda text: lines.append(str(text)))
    return lines


def test_a_stream_is_drawn_again_and_that_is_said(train, tmp_path, said):
    path = tmp_path / "model"
    train(path, killed_after=3, datatype="train:stream")
    train(path, datatype="train:stream")
    [line] = [line for line in said if "drawing" in line]
    assert "drawing 3 batches again without training on them" in line
    assert "diasafety:Contrastive is a stream" in line


def test_other_data_than_before_is_refused(train, tmp_path):
    own = tmp_path / "own.jsonl"
    rows = [{"context": [f"Question {i}?"], "response": f"Answer {i}."} for i in range(30)]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"task": "prosocial:Own", "prosocial_data": str(own)}
    train(tmp_path / "model", killed_after=2, **changes)
    own.write_text("".join(json.dumps(row) + "\n" for row in rows[:20]))
    with pytest.raises(UserError, match=r"cannot go on: prosocial:Own had \d+ examples, now \d+"):
        train(tmp_path / "model", **changes)
    train(tmp_path / "model", **changes, change_settings=True)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"batchsize": 3}, "--batchsize was 2, now 3"),
        ({"learningrate": 0.5}, "--learningrate was 0.01, now 0.5"),
        ({"seed": 9}, "--seed was 4, now 9"),
    ],
)
def test_another_setting_is_shown_and_goes_on_only_when_told(changes, shown, train, tmp_path):
    train(tmp_path / "model", killed_after=2)
    before = weights(tmp_path / "model.checkpoint")
    with pytest.raises(UserError, match="was begun with other settings") as caught:
        train(tmp_path / "model", **changes)
    assert shown in str(caught.value) and "--change-settings true" in str(caught.value)
    assert weights(tmp_path / "model.checkpoint").keys() == before.keys()
    train(tmp_path / "model", **changes, change_settings=True)


@pytest.mark.parametrize("changes", [{"lora_rank": 3}, {"backbone": "gpt2"}])
def test_what_lies_in_the_checkpoint_cannot_change(changes, train, tiny_backbones, tmp_path):
    if "backbone" in changes:
        changes = {"backbone": str(tiny_backbones["gpt2"])}
    train(tmp_path / "model", killed_after=2)
    options = (tmp_path / "model.checkpoint.opt").read_bytes()
    with pytest.raises(UserError, match="cannot change in a model that is there"):
        train(tmp_path / "model", **changes, change_settings=True)
    assert (tmp_path / "model.checkpoint.opt").read_bytes() == options


def test_limits_and_what_is_watched_may_change(train, tmp_path):
    train(tmp_path / "model", killed_after=2)
    loop = train(tmp_path / "model", max_train_steps=8, log_every_n_steps=3, validation_max_exs=4)
    assert loop._train_steps == 8


def test_settings_that_are_not_given_again_stay(train, tmp_path):
    train(tmp_path / "whole" / "model", gradient_clip=0.01, multitask_weights=[2.0])
    train(tmp_path / "model", killed_after=2, gradient_clip=0.01, multitask_weights=[2.0])
    loop = train(tmp_path / "model")
    assert loop.opt["gradient_clip"] == 0.01
    assert same(tmp_path / "model", tmp_path / "whole" / "model")


def test_the_last_checkpoint_is_gone_on_from_where_the_best_weights_are_older(train, tmp_path):
    """The statistics beside the best weights are written again when training ends."""
    changes = {"validation_every_n_steps": 1, "save_after_valid": True}
    changes |= {"validation_metric": "exs", "validation_cutoff": 9}  # the first stays the best
    train(tmp_path / "model", **changes)._save_train_stats()
    stats = json.loads((tmp_path / "model.trainstats").read_text())
    assert (stats["train_steps"], stats["weights_step"]) == (STEPS, 1)
    loop = train(tmp_path / "model", **changes, max_train_steps=8)
    assert loop.resumed_from == str(tmp_path / "model.checkpoint")


def test_a_missing_training_state_is_said(train, tmp_path, said):
    train(tmp_path / "model", killed_after=2)
    training_state(tmp_path / "model.checkpoint").unlink()
    train(tmp_path / "model")
    assert any("training.pt is missing: goes on without the optimiser" in line for line in said)


@pytest.mark.parametrize("cut", ["training.pt", ".trainstats"])
def test_torn_files_are_said_and_nothing_is_lost(cut, train, tmp_path, said):
    train(tmp_path / "whole" / "model")
    path = tmp_path / "killed" / "model"
    train(path, killed_after=2)
    if cut == ".trainstats":
        file = path.with_name("model.checkpoint.trainstats")
    else:
        file = training_state(path.with_name("model.checkpoint"))
    file.write_bytes(file.read_bytes()[:300])
    if cut == "training.pt":
        with pytest.raises(
            UserError, match=r"training\.pt has 300 bytes, was written with .*restore it"
        ):
            train(path)
        return
    train(path)
    assert any("is torn; goes on by what the checkpoint itself says" in line for line in said)
    assert same(path, tmp_path / "whole" / "model")


def test_a_second_run_into_one_model_file_is_refused(train, tmp_path):
    with (
        Writer(tmp_path / "model", "-mf"),
        pytest.raises(UserError, match=r"process .* writes there"),
    ):
        train(tmp_path / "model")
    train(tmp_path / "model")


# The command, in processes of its own


@pytest.fixture
def command(tiny_backbones, datapath):
    def arguments(path, **changes):
        settings = SETTINGS | {"backbone": str(tiny_backbones["llama"]), "lora_rank": 2} | changes
        line = [sys.executable, "-m", "parlai", "train_model", "-m", "prosocial"]
        line += ["--datapath", str(datapath), "-mf", str(path)]
        for key, value in settings.items():
            line += [f"--{key.replace('_', '-')}", str(value)]
        return line

    return arguments


def test_a_finished_run_stays_finished(command, tmp_path):
    path = tmp_path / "model"
    subprocess.run(command(path), check=True, capture_output=True)
    files = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in tmp_path.rglob("*") if f.is_file()}
    again = subprocess.run(command(path), check=True, capture_output=True, text=True)
    assert f"{path}: finished at step {STEPS}; nothing was changed" in again.stdout
    for file, (changed, content) in files.items():
        if file.suffix != ".lock":
            assert (file.stat().st_mtime_ns, file.read_bytes()) == (changed, content), file
    other = subprocess.run(command(path, batchsize=3), capture_output=True, text=True)
    assert other.returncode == 1 and "--batchsize was 2, now 3" in other.stderr
    longer = subprocess.run(command(path, max_train_steps=8), capture_output=True, text=True)
    assert longer.returncode == 0, longer.stderr
    assert json.loads((tmp_path / "model.trainstats").read_text())["train_steps"] == 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_with_a_checkpoint_and_the_same_command_goes_on(
    number, command, train, tmp_path
):
    path = tmp_path / "model"
    # A schedule would depend on the number of steps.
    changes = {"lr_scheduler": "none", "warmup_updates": -1, "save_every_n_secs": -1}
    process = subprocess.Popen(
        command(path, max_train_steps=5000, **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "total_steps:3 " in line:
            process.send_signal(number)
    output = "".join(lines)
    assert process.wait(60) == 128 + number, output
    assert "Traceback" not in output
    [told] = [line for line in lines if line.startswith("stopped at step ")]
    step = int(told.split()[3].rstrip(";"))
    assert told == f"stopped at step {step}; the same command goes on\n"
    stats = json.loads((tmp_path / "model.checkpoint.trainstats").read_text())
    assert stats["train_steps"] == step
    # And it does, to the weights of a run that was never stopped.
    for file in (path, tmp_path / "whole"):
        line = command(file, **changes, max_train_steps=step + 2)
        subprocess.run(line, check=True, capture_output=True)
    assert same(path, tmp_path / "whole")
