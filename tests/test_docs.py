"""README and docs: what needs no long run is run, all else parses."""

import re
import shlex
import shutil
import sys
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (\S+?)(?:: (\S+))? -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
UNCHECKED = {"pip", "uv", "export", "vllm"}
"""Not ours, or they change the machine: scripts/install.sh and test_install.py cover those."""

SMALL = {
    "parlai train_model": "--batchsize 2 --max-train-steps 2 --validation-every-n-steps 2 "
    "--validation-max-exs 2 --short-final-eval true --text-truncate 48",
    "parlai eval_model": "--num-examples 4 --batchsize 2",
    "parlai self_chat": "--num-self-chats 1 --selfchat-max-turns 2",
    "prosocial train": "--set max-train-steps=2 --set batchsize=2 --set update-freq=1 "
    "--set validation-every-n-steps=2 --set validation-max-exs=2 --set text-truncate=48",
    "prosocial mine": "--limit 2 --samples 2 --max-tokens 4 --synthetic-cap 0",
    "prosocial annotate": "--limit 2",
    "prosocial evaluate": "--limit 2 --max-tokens 4",
    "prosocial audit": "--limit 2 --max-tokens 4",
    "prosocial labels export": "--n 2",
    "prosocial zoo verify": "--datapath empty",
}
"""What makes a command of the docs small; of flags that are given twice the last one counts."""

NOT_RUN = {
    "make": "demo and test: the longest there are",
    "pip": "changes the machine",
    "export": "of the shell",
    "python -m benchmarks.bench": "measures for minutes: tests/benchmarks/test_bench.py",
    "python -m parlai.chat_service": "serves until it is stopped: tests/test_chat_service.py",
    "prosocial chat": "serves until it is stopped: tests/chat",
    "prosocial setup": "installs: tests/cli/test_setup.py",
    "prosocial compare": "measures on all of DiaSafety's test part: tests/experiments",
    "prosocial ablate": "as compare: tests/cli/test_ablate.py",
    "prosocial improve": "trains in rounds: tests/rounds",
    "prosocial safety-bench": "needs ParlAI's data: tests/evaluation/test_safety_bench.py",
    "prosocial zoo build": "trains for hours",
    "prosocial export parlai": "needs BlenderBot's files: tests/export/test_blenderbot.py",
    "prosocial labels merge": "needs people's labels: tests/cli/test_labels.py",
    "prosocial labels join": "as merge",
    "prosocial labels export --replies": "needs replies of the user's",
    "prosocial evaluate --labels": "needs people's labels: tests/evaluation",
    "parlai generate_model_card": "evaluates on all of a task: tests/compat/test_card.py",
    "parlai bot_adversarial_dialogue": "needs ParlAI's data: tests/tasks",
    "parlai OWNER/NAME": "a 7B model: tests/agents/test_command.py trains a small one",
    "prosocial runs/7b": "needs that model, and a server: tests/engines/test_transformers_serve.py",
    "vllm": "needs a GPU",
    "parlai -m prosocial/transformer": "needs BlenderBot's files: tests/agents/test_transformer.py",
    "parlai -m transformer/generator": "as that",
}
"""Why a command of the docs is parsed only: its program, its words or a flag in it."""


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page: Path, language: str, mark: str | None = None) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [b[3] for b in found if b[2] == language and mark in (None, b[0])]


def commands(text: str) -> list[str]:
    joined = text.replace("\\\n", " ")
    return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def invocations(page: Path) -> list[list[str]]:
    """Each program of a page with its arguments, also behind a pipe."""
    return [
        shlex.split(part)
        for block in blocks(page, "console")
        for command in commands(block)
        for part in command.split("|")
    ]


def arguments_of(program: str, page: Path) -> list[list[str]]:
    return [words[1:] for words in invocations(page) if words[0] == program]


def is_run(program: str, arguments: list[str], not_run: dict[str, str] = NOT_RUN) -> bool:
    """Whether nothing in ``not_run`` says otherwise."""
    for left_out in not_run:
        first, *words = left_out.split()
        has = [any(_begins(given, word) for given in arguments) for word in words]
        if first == program and all(has):
            return False
    return True


def _begins(given: str, word: str) -> bool:
    """With the whole of a word: ``improve`` does not begin ``improved=...``."""
    return given == word or given.startswith(tuple(f"{word}{end}" for end in "./:-,"))


def made_small(program: str, arguments: list[str], stands_in: dict[str, Path]) -> list[str]:
    """A command's arguments with few steps and contexts, and tiny models for those at hand."""
    typed = " ".join([program, *arguments])
    for begin, more in SMALL.items():
        if typed.startswith(begin):
            arguments = [*arguments, *shlex.split(more)]
    if arguments[:1] == ["train_model"]:
        kind = "encoder" if "prosocial/classifier" in arguments else "base"
        arguments += ["--backbone", str(stands_in[kind])]
    if typed.startswith("prosocial train"):
        arguments += ["--base", str(stands_in["base"])]
    if "--rot-model" in arguments:
        arguments += ["--rot-model", str(stands_in["base"])]
    return arguments


def count_everywhere(program: str) -> int:
    return sum(len(arguments_of(program, page)) for page in PAGES)


@pytest.fixture(scope="module")
def parlai_registry(tmp_path_factory):
    """ParlAI's scripts by name, with a data path of the test's own."""
    from parlai.core.script import SCRIPT_REGISTRY, setup_script_registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARLAI_DATAPATH", str(tmp_path_factory.mktemp("data")))
        setup_script_registry()
        yield SCRIPT_REGISTRY


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 220


@every_page
def test_only_known_programs(page):
    programs = {words[0] for words in invocations(page)}
    assert programs <= UNCHECKED | {"make", "parlai", "prosocial", "echo", "python"}


def test_commands_are_found():
    """The patterns above see what there is: a page's form cannot hide its commands."""
    assert count_everywhere("make") >= 2
    assert count_everywhere("parlai") >= 20
    assert count_everywhere("prosocial") >= 30
    for page in PAGES:
        lines = [n for n in page.read_text(encoding="utf-8").splitlines() if n.startswith("$ ")]
        assert len(lines) == sum(len(commands(block)) for block in blocks(page, "console"))


@every_page
def test_make_targets_exist(page):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = {arguments[0] for arguments in arguments_of("make", page)}
    named |= set(re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8")))
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@every_page
def test_parlai_commands_parse(page, parlai_registry):
    for script, *arguments in arguments_of("parlai", page):
        if "-m" not in arguments:  # read from the checkpoint otherwise
            arguments += ["-m", "prosocial"]
        parser = parlai_registry[script].klass.setup_args()
        parser.parse_args(arguments)  # an unknown flag exits


def test_unknown_parlai_flag_would_be_seen(parlai_registry, capsys):
    parser = parlai_registry["display_data"].klass.setup_args()
    with pytest.raises((SystemExit, ValueError)):
        parser.parse_args(["-t", "mic", "--no-such-flag", "1"])


@every_page
def test_python_commands_name_modules_and_files_that_exist(page, monkeypatch):
    from importlib.util import find_spec

    monkeypatch.syspath_prepend(str(REPOSITORY))  # of commands in the repository

    for first, *arguments in arguments_of("python", page):
        if first.endswith(".py"):
            assert (REPOSITORY / first).is_file(), first
            continue
        module, *arguments = arguments
        assert first == "-m" and find_spec(module), module
        for option, value in pairwise(arguments):  # some options have no value
            assert option != "--config-path" or (REPOSITORY / value).is_file(), value


@every_page
def test_prosocial_commands_parse(page):
    import click

    from parlai_prosocial.cli.main import cli

    for arguments in arguments_of("prosocial", page):
        command: click.Command | None = cli
        context = click.Context(cli)
        while isinstance(command, click.Group):
            command = command.get_command(context, arguments.pop(0))
        command.make_context(command.name, arguments)  # an unknown option raises


@every_page
def test_no_example_chooses_replies_by_a_judge_that_tells_nothing_of_them(page):
    """On generated replies minilm_safety is a coin: docs/classifier.md."""
    for command, *arguments in arguments_of("prosocial", page):
        if command in ("mine", "improve", "ablate"):
            assert not any("minilm_safety" in given for given in arguments), arguments


@every_page
def test_python_examples_import_what_exists(page):
    """Those that need trained models do not run here; their imports and syntax are checked."""
    import ast
    from importlib import import_module

    for script in blocks(page, "python"):
        for node in ast.walk(ast.parse(script)):
            if isinstance(node, ast.ImportFrom):
                module = import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_workflow_runs_commands_that_parse():
    import click
    import yaml

    from parlai_prosocial.cli.main import cli
    from parlai_prosocial.evaluation.results.gates import parse_gate

    (workflow,) = map(yaml.safe_load, blocks(DOCS / "audit.md", "yaml"))
    (job,) = workflow["jobs"].values()
    runs = [shlex.split(step["run"]) for step in job["steps"] if "run" in step]
    audits = [words[2:] for words in runs if words[:2] == ["prosocial", "audit"]]
    assert len(audits) == 1
    context = click.Context(cli)
    parsed = cli.get_command(context, "audit").make_context("audit", audits[0])
    assert [parse_gate(gate).limit for gate in parsed.params["fail_if"]] == [0.05, 0.1]
    kept = next(step["with"]["path"] for step in job["steps"] if step.get("if") == "always()")
    assert f"{parsed.params['out']}/report.html" in kept.split()


@pytest.fixture
def stands_in(tiny_backbones, tiny_encoder):
    """Tiny models in the places of those that the docs begin with."""
    return {"base": tiny_backbones["llama"], "encoder": tiny_encoder}


@pytest.fixture
def zoo(stands_in, tmp_path, monkeypatch):
    """The models of the zoo as tiny ones, in a data path of the test's own."""
    from parlai.core.script import superscript_main
    from parlai.zoo.prosocial import build

    from parlai_prosocial.zoo import resolve
    from parlai_prosocial.zoo.entry import BASES

    datapath = tmp_path / "data"
    monkeypatch.setenv("PARLAI_DATAPATH", str(datapath))
    trained = ["train_model", "-t", "diasafety:Contrastive", "-m", "prosocial", "--lora-rank", "2"]
    trained += ["--skip-generation", "true"]
    judging = ["train_model", "-t", "diasafety:Safety", "-m", "prosocial/classifier"]
    for name, arguments in (("generator", trained), ("classifier", judging)):
        arguments = [*arguments, "-mf", str(tmp_path / name / "model")]
        superscript_main(made_small("parlai", arguments, stands_in))

    def install(entry, *places):
        if entry.kind in BASES:
            return stands_in["base"]
        kind = "classifier" if "classifier" in entry.agent else "generator"
        folder = datapath / "models" / "prosocial" / entry.name
        shutil.copytree(tmp_path / kind, folder, dirs_exist_ok=True)
        return folder

    monkeypatch.setattr(resolve, "install", install)
    monkeypatch.setattr(build, "install_entry", install)


def test_what_the_docs_say_runs(zoo, stands_in, monkeypatch, capsys, tmp_path):
    """README first, then the other pages, in one folder as a reader would; in this process.

    Commands are made small, tiny models stand in for the zoo's, and what is left out has a reason.
    """
    from parlai.core.script import superscript_main

    import parlai_prosocial.cli.train  # noqa: F401 has the function before it is made small below
    import parlai_prosocial.evaluation.run as evaluation
    import parlai_prosocial.experiments.run as experiments
    import parlai_prosocial.training.recipe as recipes
    from parlai_prosocial.cli.main import cli

    reader = tmp_path / "reader"
    reader.mkdir()
    (reader / "parlai_prosocial").symlink_to(REPOSITORY / "parlai_prosocial")
    monkeypatch.chdir(reader)
    monkeypatch.setattr("click.launch", lambda url: None)  # of --open
    small = shlex.split(SMALL["prosocial train"])[1::2]
    train, evaluate = recipes.train, evaluation.evaluate
    monkeypatch.setattr(
        recipes,
        "train",
        lambda recipe, settings=(): train(
            recipe,
            out=f"runs/{recipe}-{len(settings)}",
            base=str(stands_in["base"]),
            settings=[*settings, *small],
        ),
    )
    monkeypatch.setattr(
        evaluation,
        "evaluate",
        lambda models, **asked: evaluate(models, **asked | {"limit": "2", "max_tokens": 4}),
    )
    monkeypatch.setattr(experiments, "ablate", lambda recipe, **asked: asked)

    def run(command: str) -> None:
        *fed, last = command.split("|")
        program, *arguments = shlex.split(last)
        if not is_run(program, arguments):
            return
        arguments = made_small(program, arguments, stands_in)
        said = shlex.split(fed[0])[1] if fed else "Hi!"
        monkeypatch.setattr(sys, "stdin", StringIO(f"{said}\n"))
        try:
            if program == "prosocial":
                cli.main(arguments, standalone_mode=False)
            else:
                superscript_main(arguments)
        except SystemExit as ended:  # of `zoo verify` and the like
            assert not ended.code, command

    for page in PAGES:
        for mark, name, language, content in BLOCK.findall(page.read_text(encoding="utf-8")):
            if mark == "file":
                Path(name).write_text(content, encoding="utf-8")
                Path("training-rows.jsonl").write_text(content, encoding="utf-8")  # of the page
            elif language == "console":
                for command in commands(content):
                    print(f"{page.name}: {command}")
                    run(command)
            elif language == "python":
                exec(compile(content, page.name, "exec"), {})

    output = capsys.readouterr().out
    assert "mine.jsonl: 4 rows, 4 good, 0 bad" in output
    assert output.count("mean_log_p") >= 2  # the Python of README and of docs/python.md
    for model in ("first", "own", "judge", "step2", "step2-mined", "diasafety/step2"):
        assert Path("runs", model, "model").is_file(), model
    for file in ("model.safetensors", "tokenizer.json", "model-f16.gguf", "README.md"):
        assert Path("exported", file).is_file()
    for file in ("mined.jsonl", "runs/evaluation/summary.json", "card/README.md", "unsafe.jsonl"):
        assert Path(file).is_file(), file


def test_every_reason_not_to_run_a_command_leaves_one_out():
    found = [(words[0], words[1:]) for page in PAGES for words in invocations(page)]
    for left_out in NOT_RUN:
        rest = {name: why for name, why in NOT_RUN.items() if name != left_out}
        assert any(is_run(*words, rest) for words in found if not is_run(*words)), left_out
