"""A finished run becomes a model that answers by its zoo name."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from parlai.core.agents import create_agent_from_model_file
from parlai.core.message import Message
from safetensors.torch import load_file

import parlai_prosocial
from parlai_prosocial.cards import add as zoo_add
from parlai_prosocial.cards.provenance import training_chain
from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.zoo.entry import find_entry
from parlai_prosocial.zoo.install import install, verify_bundled
from parlai_prosocial.zoo.resolve import open_generator

BASE = "zoo:prosocial/smollm2_135m"


def message(result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def test_a_finished_run_becomes_an_entry(add, finished, datapath, tmp_path):
    result = add(out=tmp_path / "zoo")
    assert result.exit_code == 0, result.output
    entry = find_entry("tiny", tmp_path / "zoo")
    verify_bundled(entry)
    assert entry.kind == "bundled"
    assert entry.recipe == "tiny"
    base = datapath / "models/prosocial/smollm2_135m/hf/model.safetensors"
    assert entry.base == {"name": BASE, "sha256": hashlib.sha256(base.read_bytes()).hexdigest()}
    preset, where = "parlai_prosocial/recipes/tiny/step", "runs/zoo/tiny/step"
    assert entry.commands == [
        f"parlai train_model -o {preset}1.opt -mf {where}1/model --backbone {BASE} --seed 3",
        f"parlai train_model -o {preset}2.opt -mf {where}2/model --init-model {where}1/model "
        f"--backbone {BASE} --seed 3",
    ]
    assert entry.builds == [f"{where}1/model", f"{where}2/model"]
    assert [step["steps"] for step in entry.training] == [2, 2]
    assert all(step["tokens"] > 0 and step["seconds"] > 0 for step in entry.training)
    assert [run["opt"]["contrast_score"] for run in entry.training] == ["likelihood+cosine"] * 2
    (measured,) = entry.metrics
    assert [t["title"] for t in measured["tables"]] == ["Both axes"]
    assert measured["tables"][0]["rows"][0]["unsafe"]["low"] == 0.1
    assert measured["environment"]["command"] == "prosocial ablate --judge classifier:m"
    log = [json.loads(line) for line in (entry.folder / entry.log).read_text().splitlines()]
    assert {line["run"] for line in log} == {1, 2}
    assert all(line["loss"] > 0 for line in log)

    # Weights in bfloat16, and no folder of this machine in any file.
    weights = sorted((tmp_path / "zoo").rglob("*.safetensors"))
    assert [w.name for w in weights] == ["adapter_model.safetensors", "contrast_head.safetensors"]
    assert all(t.dtype == torch.bfloat16 for w in weights for t in load_file(w).values())
    for file in (tmp_path / "zoo").rglob("*"):
        if file.suffix in (".json", ".opt", ".jsonl", ""):
            assert file.is_dir() or str(Path(finished).parents[2]) not in file.read_text()
            assert file.is_dir() or str(datapath) not in file.read_text()


def test_what_is_installed_scores_as_the_run_did(add, finished, datapath, tmp_path, of_the_package):
    add(out=tmp_path / "zoo")
    entry = find_entry("tiny", tmp_path / "zoo")
    of_the_package(entry)
    folder = install(entry, datapath, print)
    try:
        before, after = (
            open_generator(file, "--model", str(datapath)) for file in (finished, folder / "model")
        )
        # In what precision a run goes on is not of the model.
        assert before.info["precision"] == "fp32"
        assert after.info == {k: v for k, v in before.info.items() if k != "precision"}
        assert after.backbone.contrast_head is not None
        context = before.backbone.prompt.encode_context("I feel tired today.")
        reply = before.backbone.prompt.encode_response("You could rest.")
        with torch.no_grad():
            scores = [
                m.backbone(m.backbone.pack([context], [[reply]])).mean_log_probs().item()
                for m in (before, after)
            ]
            plain = open_generator(BASE, "--model", str(datapath)).backbone
            untuned = plain(plain.pack([context], [[reply]])).mean_log_probs().item()
        assert scores[0] == pytest.approx(scores[1], abs=0.02)
        assert abs(scores[0] - untuned) > 0.1  # the adapter does something
        # ParlAI's Python calls parse no flags, so what the bundle leaves out has its defaults.
        decoding = {"datapath": str(datapath), "label_truncate": 4}
        agent = create_agent_from_model_file(str(folder / "model"), decoding)
        agent.observe(Message({"text": "Hi!", "episode_done": True}))
        assert agent.act()["text"]
        chain = training_chain(str(folder / "model"))
        assert [(step.steps, step.tasks) for step in chain] == [(2, ["prosocial:Contrastive"])] * 2
        assert chain[0].command.startswith("parlai train_model -o parlai_prosocial/recipes/tiny")

        exporting = ["export", "hf", "--model", str(folder / "model"), "--datapath", str(datapath)]
        done = CliRunner().invoke(cli, [*exporting, "--out", str(tmp_path / "exported")])
        assert done.exit_code == 0, done.exception
        card = (tmp_path / "exported" / "README.md").read_text()
        assert "12.5 [10.0, 15.0]" in card and chain[1].command in card
    finally:
        shutil.rmtree(folder)


def test_parlai_talks_to_an_added_model_by_its_zoo_name(add, datapath, tmp_path):
    """The stock command, with a copy of the package that has one entry more."""
    package = Path(parlai_prosocial.__file__).parent
    copy = tmp_path / "site" / "parlai_prosocial"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert add(out=copy / "zoo" / "entries").exit_code == 0
    installed = datapath / "models" / "prosocial" / "tiny"

    try:
        done = subprocess.run(
            ["parlai", "interactive", "-mf", "zoo:prosocial/tiny/model"],
            input="Hi!\n[EXIT]\n",
            env=os.environ
            | {"PYTHONPATH": str(tmp_path / "site"), "PARLAI_DATAPATH": str(datapath)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "[Prosocial]:" in done.stdout
        assert (installed / "model.hf-000001" / "adapter_model.safetensors").is_file()
    finally:
        shutil.rmtree(installed, ignore_errors=True)


def test_what_cannot_be_added_leaves_nothing(add, finished, datapath, tmp_path, monkeypatch):
    out = tmp_path / "zoo"
    assert "no row 'x'; there are MLE; n-pair" in message(add(row="x", out=out))
    monkeypatch.setattr(zoo_add, "LIMIT", 10_000)
    assert "MB of bundled models, above 0 MB" in message(add(out=out))
    monkeypatch.undo()
    monkeypatch.setattr(zoo_add, "change_by_rounding", lambda *a: 0.3)
    assert "bfloat16 changes its scores by 0.300" in message(add(out=out))
    monkeypatch.undo()
    assert not out.exists() or list(out.iterdir()) == []

    assert add(out=out).exit_code == 0
    assert f"tiny: is in {out} already; delete" in message(add(out=out))


def test_a_run_that_others_cannot_have_is_refused(add, finished, tiny_backbones, tmp_path):
    from parlai_prosocial.models.backbone import Backbone
    from parlai_prosocial.models.checkpoint import save_checkpoint

    whole, private = str(tmp_path / "whole" / "model"), str(tmp_path / "private" / "model")
    save_checkpoint(whole, Backbone(tiny_backbones["llama"]), {"backbone": BASE}, {})
    assert "is no adapter" in message(add(model=whole, out=tmp_path / "zoo"))
    backbone = Backbone(tiny_backbones["llama"], lora_rank=2)
    save_checkpoint(private, backbone, {"backbone": "/home/me/base"}, {})
    assert "its base is /home/me/base, which others" in message(
        add(model=private, out=tmp_path / "zoo")
    )
    # Step 1 is needed to tell how it was trained.
    moved = shutil.copytree(Path(finished).parent, tmp_path / "step2")
    opt = json.loads((moved / "model.opt").read_text())
    opt["init_model"] = str(tmp_path / "step1" / "model")
    (moved / "model.opt").write_text(json.dumps(opt))
    assert "run this in the folder where it was trained" in message(
        add(model=str(moved / "model"), out=tmp_path / "zoo")
    )


@pytest.mark.parametrize("command", ["prosocial ablate --arms dpo", "parlai train_model --flag"])
def test_a_command_that_cannot_be_told_is_asked_for(command):
    with pytest.raises(UserError, match="give the commands with --command"):
        zoo_add.public_command(command, "tiny", 1, 1)


def test_a_recipe_of_ones_own_is_refused():
    with pytest.raises(UserError, match=r"-o /home/me/step1\.opt: is no recipe of the package"):
        zoo_add.public_command("parlai train_model -o /home/me/step1.opt", "tiny", 1, 1)
