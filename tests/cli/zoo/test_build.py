"""`prosocial zoo`: listed, shown, verified, and trained again."""

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

import parlai_prosocial
from parlai_prosocial.cli import zoo as module
from parlai_prosocial.cli.main import cli
from parlai_prosocial.errors import UserError
from parlai_prosocial.training.recipe import train_step
from parlai_prosocial.zoo import build
from parlai_prosocial.zoo.entry import find_entry


def run(*arguments, **kwargs):
    return CliRunner().invoke(cli, ["zoo", *map(str, arguments)], **kwargs)


def message(result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


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
