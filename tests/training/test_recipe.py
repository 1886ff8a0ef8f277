import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from tqdm import tqdm

import parlai_prosocial
from parlai_prosocial.cli.train import train as command
from parlai_prosocial.errors import UserError
from parlai_prosocial.training import recipe as module
from parlai_prosocial.training.recipe import (
    RECIPES,
    STEPS,
    StepResult,
    recipe_folder,
    step_arguments,
    train,
)

TINY = {
    "model": "prosocial",
    "lora_rank": 2,
    "precision": "fp32",
    "lr_scheduler": "none",
    "batchsize": 2,
    "max_train_steps": 2,
    "text_truncate": 48,
    "label_truncate": 16,
    "skip_generation": True,
    "validation_max_exs": 2,
    "seed": 5,
    "log_every_n_steps": 1,
    "in_batch_negatives": 1,
}


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "step1.opt").write_text(json.dumps(TINY | {"task": "diasafety:Contrastive"}))
    step2 = TINY | {"task": "self_dialogue,diasafety:Contrastive", "multitask_weights": [1.0, 1.0]}
    (folder / "step2.opt").write_text(json.dumps(step2))
    return folder


def adapter_weights(out: Path, step: str) -> dict:
    manifest = json.loads((out / step / "model").read_text())
    return load_file(out / step / manifest["weights"] / "adapter_model.safetensors")


def test_both_steps_give_what_the_printed_parlai_commands_give(
    tiny_recipe, tiny_backbones, tmp_path, monkeypatch
):
    monkeypatch.setenv("PARLAI_DATAPATH", str(tmp_path / "data"))
    base = str(tiny_backbones["llama"])
    ours = tmp_path / "ours"
    trained = parlai_prosocial.train(tiny_recipe, out=ours, base=base)
    assert [Path(r.model_file).parent.name for r in trained.steps] == list(STEPS)
    assert trained.model_file == str(ours / "step2" / "model")
    frame = trained.to_pandas()
    assert list(frame.index) == list(STEPS)
    assert (frame["tokens"] > 0).all() and (frame["seconds"] > 0).all()
    assert f"{frame['tokens'].sum():,} tokens" in str(trained)

    # The stock command, without its evaluation of the whole test part after training.
    stock = tmp_path / "stock"
    for step in STEPS:
        arguments = step_arguments(tiny_recipe, step, stock, base, [])
        script = (
            "from parlai.scripts.train_model import TrainLoop;"
            "TrainLoop._run_eval = lambda *a, **k: {};"
            "from parlai.__main__ import main; main()"
        )
        subprocess.run(
            [sys.executable, "-c", script, "train_model", *arguments],
            check=True,
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "PARLAI_DATAPATH": str(tmp_path / "data")},
        )
        mine, theirs = adapter_weights(ours, step), adapter_weights(stock, step)
        assert mine.keys() == theirs.keys()
        assert all((mine[name] == theirs[name]).all() for name in mine)
    # Step 2 went on from step 1 and moved on.
    first, second = adapter_weights(ours, "step1"), adapter_weights(ours, "step2")
    assert any((first[name] != second[name]).any() for name in first)


def test_a_finished_step_is_not_trained_again(tiny_recipe, tiny_backbones, tmp_path, monkeypatch):
    monkeypatch.setenv("PARLAI_DATAPATH", str(tmp_path / "data"))
    base = str(tiny_backbones["llama"])
    out = tmp_path / "out"
    first = train(tiny_recipe, out=out, base=base)
    written = (out / "step2" / "model").stat().st_mtime_ns
    said: list[str] = []
    assert train(tiny_recipe, out=out, base=base, say=said.append) == first
    assert said[-2:] == [f"{step}: finished before, {out / step}" for step in STEPS]
    assert (out / "step2" / "model").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="another command"):
        train(tiny_recipe, out=out, base=base, settings=["learningrate=0.5"])


class Interrupting(tqdm):
    """A progress bar during whose second step the user presses Ctrl-C."""

    def update(self, n=1):
        if self.n + n >= 2 and not self.initial:
            raise KeyboardInterrupt
        return super().update(n)


def test_a_stopped_step_goes_on_and_counts_all_of_its_tokens(
    tiny_recipe, tiny_backbones, tmp_path, monkeypatch
):
    monkeypatch.setenv("PARLAI_DATAPATH", str(tmp_path / "data"))
    base = str(tiny_backbones["llama"])
    settings = ["save-every-n-secs=0.0001", "max-train-steps=4", "datatype=train:ordered:stream"]
    [whole, _] = train(tiny_recipe, out=tmp_path / "whole", base=base, settings=settings).steps
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(module, "tqdm", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe, out=stopped, base=base, settings=settings)
    [resumed, _] = train(tiny_recipe, out=stopped, base=base, settings=settings).steps
    assert resumed.steps == whole.steps == 4
    # A resumed stream begins anew in ParlAI, so its batches differ a little.
    assert resumed.tokens == pytest.approx(whole.tokens, rel=0.5)
    assert resumed.seconds > 0


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_step_may_be_all_warm_up(tiny_recipe, tiny_backbones, tmp_path, monkeypatch, schedule):
    monkeypatch.setenv("PARLAI_DATAPATH", str(tmp_path / "data"))
    done = train(
        tiny_recipe,
        out=tmp_path / "out",
        base=str(tiny_backbones["llama"]),
        settings=["warmup-updates=2", f"lr-scheduler={schedule}"],
    )
    assert [step.steps for step in done.steps] == [2, 2]


def test_settings_go_to_both_steps_or_to_one():
    recipe = RECIPES / "demo"
    settings = ["batchsize=3", "step2.contrast_weight=0"]
    first, second = (step_arguments(recipe, s, Path("o"), "zoo:b", settings) for s in STEPS)
    assert first[-4:] == ["--backbone", "zoo:b", "--batchsize", "3"]
    assert second[-4:] == ["--batchsize", "3", "--contrast-weight", "0"]
    assert second[4:6] == ["--init-model", "o/step1/model"]


@pytest.mark.parametrize("name", ["demo", "diasafety", "paper"])
def test_every_preset_is_taken_by_parlai(name, tmp_path):
    from parlai.scripts.train_model import TrainModel

    for step in STEPS:
        arguments = step_arguments(recipe_folder(name), step, tmp_path, None, [])
        opt = TrainModel.setup_args().parse_args(arguments)
        assert opt["model"] == "prosocial"
        assert opt["max_train_steps"] > opt["warmup_updates"]
        assert len(opt["multitask_weights"]) in (1, len(opt["task"].split(",")))


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="demo, diasafety, paper"):
        recipe_folder("no-such-recipe")
    with pytest.raises(UserError, match="key=value"):
        step_arguments(RECIPES / "demo", "step1", Path("o"), None, ["batchsize"])


def test_the_command_prints_the_two_parlai_commands(tiny_recipe, monkeypatch):
    monkeypatch.setattr(module, "train_step", lambda *a: StepResult("m", 2, 3, 1.0, ""))
    arguments = ["--recipe", str(tiny_recipe), "--out", "o", "--set", "seed=1"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "parlai train_model" in line]
    assert len(lines) == 2 and "--seed 1" in lines[0] and "--init-model o/step1/model" in lines[1]
    assert "parlai interactive -mf m" in result.output
