"""The README's cheap commands run, its others at least parse, and its links lead somewhere."""

import re
import shlex
import sys
from io import StringIO
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:<!-- (\S+?)(?:: (\S+))? -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
UNCHECKED = {"pip", "uv", "export"}
"""Programs whose commands change the machine; scripts/install.sh and test_install.py cover them."""


def blocks(language: str, mark: str | None = None) -> list[str]:
    return [b[3] for b in BLOCK.findall(README) if b[2] == language and mark in (None, b[0])]


def commands(text: str) -> list[str]:
    joined = text.replace("\\\n", " ")
    return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def arguments_of(program: str) -> list[list[str]]:
    """What stands after ``program`` in every command of the README, also behind a pipe."""
    parts = [
        shlex.split(part)
        for block in blocks("console")
        for command in commands(block)
        for part in command.split("|")
    ]
    return [part[1:] for part in parts if part[0] == program]


@pytest.fixture
def parlai_registry(monkeypatch, tmp_path):
    """ParlAI's scripts by name, with a data path of the test's own."""
    from parlai.core.script import SCRIPT_REGISTRY, setup_script_registry

    monkeypatch.setenv("PARLAI_DATAPATH", str(tmp_path / "data"))
    setup_script_registry()
    return SCRIPT_REGISTRY


def test_only_known_programs():
    programs = {
        shlex.split(part)[0]
        for block in blocks("console")
        for command in commands(block)
        for part in command.split("|")
    }
    assert programs <= UNCHECKED | {"make", "parlai", "prosocial", "echo", "python"}
    assert {"make", "parlai", "prosocial"} <= programs


def test_make_targets_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = {arguments[0] for arguments in arguments_of("make")}
    named |= set(re.findall(r"`make ([a-z-]+)`", README))
    assert {"demo", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_parlai_commands_parse(parlai_registry):
    found = arguments_of("parlai")
    assert len(found) >= 8
    for script, *arguments in found:
        if "-m" not in arguments:  # read from the checkpoint otherwise
            arguments += ["-m", "prosocial"]
        parser = parlai_registry[script].klass.setup_args()
        parser.parse_args(arguments)  # an unknown flag exits


def test_python_commands_name_modules_and_files_that_exist():
    from importlib.util import find_spec

    found = arguments_of("python")
    assert found
    for flag, module, *arguments in found:
        assert flag == "-m" and find_spec(module), module
        for option, value in zip(arguments[::2], arguments[1::2], strict=True):
            assert option != "--config-path" or (REPOSITORY / value).is_file(), value


def test_unknown_parlai_flag_would_be_seen(parlai_registry, capsys):
    parser = parlai_registry["display_data"].klass.setup_args()
    with pytest.raises((SystemExit, ValueError)):
        parser.parse_args(["-t", "mic", "--no-such-flag", "1"])


def test_prosocial_commands_parse():
    import click

    from parlai_prosocial.cli.main import cli

    found = arguments_of("prosocial")
    assert len(found) >= 5
    for arguments in found:
        command: click.Command | None = cli
        context = click.Context(cli)
        while isinstance(command, click.Group):
            command = command.get_command(context, arguments.pop(0))
        command.make_context(command.name, arguments)  # an unknown option raises


def test_workflow_runs_commands_that_parse():
    import click
    import yaml

    from parlai_prosocial.cli.main import cli
    from parlai_prosocial.evaluation.results.gates import parse_gate

    (workflow,) = map(yaml.safe_load, blocks("yaml"))
    (job,) = workflow["jobs"].values()
    runs = [shlex.split(step["run"]) for step in job["steps"] if "run" in step]
    audits = [words[2:] for words in runs if words[:2] == ["prosocial", "audit"]]
    assert len(audits) == 1
    context = click.Context(cli)
    parsed = cli.get_command(context, "audit").make_context("audit", audits[0])
    assert [parse_gate(gate).limit for gate in parsed.params["gates"]] == [0.05, 0.1]
    kept = next(step["with"]["path"] for step in job["steps"] if step.get("if") == "always()")
    assert f"{parsed.params['out']}/report.html" in kept.split()


def test_flag_table_is_complete():
    from parlai.core.params import ParlaiParser

    from parlai_prosocial.agents import options

    parser = ParlaiParser(False, False)
    options.add_arguments(parser)
    groups = [g for g in parser._action_groups if g.title in ("Prosocial", "Contrast")]
    defaults = {a.option_strings[0]: a.default for g in groups for a in g._group_actions}
    table = dict(re.findall(r"^\| `(--[a-z-]+)` \| (.*?) \|", README, re.MULTILINE))
    assert set(table) == set(defaults)
    for flag, default in defaults.items():
        if flag != "--system-prompt":
            assert table[flag].strip("`").lower() == str(default).lower(), flag


def test_task_table_is_complete():
    from importlib import import_module

    from parlai.core.loader import load_teacher_module
    from parlai.tasks.prosocial.base import CorpusTeacher

    section = README.split("| task |")[1].split("\n\n")[0]
    first_cells = [line.split("|")[1] for line in section.splitlines()[2:]]
    named = {task for cell in first_cells for task in re.findall(r"`(.*?)`", cell)}
    teachers = {load_teacher_module(task) for task in named}
    for corpus in ("prosocial", "mic", "diasafety", "self_dialogue"):
        module = import_module(f"parlai.tasks.{corpus}.agents")
        for name, kind in vars(module).items():
            is_task = isinstance(kind, type) and issubclass(kind, CorpusTeacher)
            if is_task and not name.startswith("_") and kind.__module__ == module.__name__:
                # A task without a variant stands for the one that it is a plain subclass of.
                assert kind in teachers or any(issubclass(t, kind) for t in teachers), name


def test_links_lead_somewhere():
    pages = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in anchors, f"{page.name}: {target}"
            elif not target.startswith(("https://", "http://")):
                assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


def test_marked_commands_run(
    parlai_registry, tiny_backbones, monkeypatch, capsys, tmp_path_factory
):
    """In order and in one folder, as a reader would; in this process, which saves the start-ups.

    A tiny model stands in for the base, and training stops after two steps.
    """
    from parlai.core.script import superscript_main

    from parlai_prosocial.cli.main import cli

    folder = tmp_path_factory.mktemp("reader")
    monkeypatch.chdir(folder)
    for mark, name, _, content in BLOCK.findall(README):
        if mark == "file":
            Path(name).write_text(content, encoding="utf-8")

    for block in blocks("console", mark="test"):
        for command in commands(block):
            *fed, run = command.split("|")
            program, *arguments = shlex.split(run)
            text = shlex.split(fed[0])[1] + "\n" if fed else ""
            monkeypatch.setattr(sys, "stdin", StringIO(text))
            if program == "prosocial":
                cli.main(arguments, standalone_mode=False)
                continue
            if arguments[0] == "train_model":
                arguments += ["--backbone", str(tiny_backbones["llama"]), "--max-train-steps", "2"]
            superscript_main(arguments)
    output = capsys.readouterr().out
    assert "mine.jsonl: 4 rows, 4 good, 0 bad" in output
    for run in ("first", "own"):
        assert Path("runs", run, "model").is_file()

    (script,) = blocks("python", mark="test")
    exec(compile(script, "README.md", "exec"), {})
    for file in ("model.safetensors", "tokenizer.json", "model-f16.gguf", "README.md"):
        assert Path("exported", file).is_file()
    assert "mean_log_p" in capsys.readouterr().out
