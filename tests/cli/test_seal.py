"""A checkpoint without hashes talks, but is measured only after ``prosocial seal``."""

import json

import pytest
import torch
from click.testing import CliRunner

from parlai_prosocial import Prosocial
from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.safety_bench import open_agent
from parlai_prosocial.models.backbone import Backbone
from parlai_prosocial.models.checkpoint import Checkpoint, save_checkpoint
from parlai_prosocial.models.classifier import SafetyClassifier
from parlai_prosocial.util.files import read_json, write_json
from parlai_prosocial.zoo import install
from parlai_prosocial.zoo.entry import find_entry
from parlai_prosocial.zoo.sealed import check_measurable

LINE = {
    "split": "valid",
    "context": ["I lied."],
    "response": "Tell them.",
    "safety_label": "__needs_caution__",
}


def strip_hashes(model_file):
    """What was written before there were hashes."""
    content = read_json(model_file)
    del content["files"]
    write_json(model_file, content)


@pytest.fixture
def run(tiny_backbones, tiny_encoder, tmp_path, monkeypatch):
    """A folder with a generator and a classifier, both without hashes, and data."""
    monkeypatch.setenv("PARLAI_DATAPATH", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    base = str(tiny_backbones["llama"])
    info = {"backbone": base, "system_prompt": "Be kind."}
    save_checkpoint("model", Backbone(tiny_backbones["llama"], lora_rank=2), info, {})
    SafetyClassifier(tiny_encoder, ["__notok__", "__ok__"]).save("judge", str(tiny_encoder), {})
    options = {"model": "prosocial", "label_truncate": 4, "precision": "fp32"}
    (tmp_path / "model.opt").write_text(json.dumps(options))
    (tmp_path / "judge.opt").write_text(json.dumps({"model": "prosocial/classifier"}))
    (tmp_path / "own.jsonl").write_text(json.dumps(LINE) + "\n")
    for name in ("model", "judge"):
        strip_hashes(tmp_path / name)
    return tmp_path


MEASURED = [("model", "prosocial:Own"), ("judge", "prosocial:BinarySafety")]


@pytest.mark.parametrize(("name", "task"), MEASURED)
def test_without_hashes_it_talks_and_is_not_measured(run, name, task):
    from parlai.core.agents import create_agent_from_model_file
    from parlai.scripts.eval_model import EvalModel

    measure = {"model_file": name, "task": task, "prosocial_data": "own.jsonl"}
    with pytest.raises(UserError) as caught:
        EvalModel.main(**measure, datatype="valid")
    assert f"prosocial seal {name}" in str(caught.value)

    agent = create_agent_from_model_file(name, {"interactive_mode": True})
    agent.observe({"text": "Hi!", "episode_done": True})
    assert "text" in agent.act()

    done = CliRunner().invoke(cli, ["seal", name])
    assert done.exit_code == 0 and f"{name}: recorded the hashes of " in done.output
    assert EvalModel.main(**measure, datatype="valid")
    done = CliRunner().invoke(cli, ["seal", name])
    assert f"{name}: has its hashes, and every file is as it was written\n" in done.output


def test_our_own_commands_refuse_it(run):
    assert Prosocial.from_pretrained("model").reply(["Hi!"]).text is not None
    done = CliRunner().invoke(
        cli, ["evaluate", "--model", "model", "--suite", "casual", "--out", "o"]
    )
    assert "prosocial seal model" in str(done.exception)
    with pytest.raises(UserError, match="prosocial seal model"):
        open_agent("model", str(run / "data"))


def test_a_folder_is_not_sealed(run, tiny_backbones):
    done = CliRunner().invoke(cli, ["seal", str(tiny_backbones["llama"])])
    assert "give a checkpoint of ours" in str(done.exception)


def test_broken_weights_are_not_sealed(run):
    [file] = run.glob("model.hf-*/adapter_model.safetensors")
    file.write_bytes(file.read_bytes()[:200])
    done = CliRunner().invoke(cli, ["seal", "model"])
    assert done.exit_code != 0 and "files" not in read_json(run / "model")


def test_an_installed_model_is_held_against_its_entry(run):
    """Bundled manifests have no hashes: the zoo's entry has them."""
    entry = find_entry("zoo:prosocial/smollm2_135m_mle")
    folder = install.installed_folder(entry, run / "data")
    install.install(entry, run / "data", lambda line: None)
    check_measurable(Checkpoint(str(folder / "model")), run / "data")
    [file] = folder.glob("model.hf-*/adapter_model.safetensors")
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors.*delete"):
        check_measurable(Checkpoint(str(folder / "model")), run / "data")
