import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli import main as main_module
from parlai_prosocial.cli.main import COMMANDS, LazyGroup, cli, main


def prosocial(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from parlai_prosocial.cli.main import main; main()", *arguments],
        capture_output=True,
        text=True,
    )


def test_help_lists_the_commands_and_imports_none_of_them():
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from parlai_prosocial.cli.main import cli\n"
            "cli(['--help'], standalone_mode=False)\n"
            "print('imported:', sorted({'torch', 'transformers', 'parlai'} & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
    ).stdout
    for command in ("setup", "doctor", "data", "train", "compare"):
        assert f"\n  {command} " in shown
    assert "imported: []" in shown


def test_a_user_error_is_one_line_and_status_1(tmp_path):
    code = (
        "import parlai_prosocial.cli.setup as module\n"
        "from parlai_prosocial.cli.main import main\n"
        "module.installed_version = lambda name: None\n"
        "module.importlib.util.find_spec = lambda name: None\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "setup", "--yes"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_an_unknown_command_is_named():
    done = prosocial("trian")
    assert done.returncode == 2
    assert "trian" in done.stderr


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_shows_its_help_where_parlai_is_not_installed_yet(command):
    code = (
        "import sys\n"
        "sys.modules['parlai'] = None\n"
        "from parlai_prosocial.cli.main import cli\n"
        f"cli(['{command}', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage:")


@pytest.mark.parametrize(
    "arguments, meant",
    [
        (["audti"], "audit"),
        (["train", "--recipe", "deom"], "demo"),
        (["train", "--recipe", "demo", "--set", "lerningrate=1"], "--learningrate"),
        (["compare", "--set", "step1.bathcsize=1"], "--batchsize"),
        (["ablate", "--arms", "n-piar"], "n-pair"),
        (["mine", "--task", "diasafty", "--model", "nowhere"], "diasafety"),
        (["audit", "--model", "zoo:prosocial/smollm2_135"], "zoo:prosocial/smollm2_135m"),
        (["annotate", "--task", "mic", "--set", "mic_dta=x", "--rot-model", "x"], "--mic-data"),
        (["evaluate", "--suite", "casaul", "--model", "http://localhost:9/v1#m"], "casual"),
        (
            ["evaluate", "--suite", "casual", "--model", "zoo:prosocial/t5bas"],
            "zoo:prosocial/t5_base",
        ),
        (["mine", "--task", "mic", "--model", "nowhere", "--judge", "wrods"], "words"),
        (["zoo", "show", "minilm_saftey"], "zoo:prosocial/minilm_safety"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistyped_name_ends_with_status_2_and_makes_nothing(
    arguments, meant, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PARLAI_DATAPATH", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    if arguments[0] in main_module.GO_ON:
        name = "out.jsonl" if arguments[0] in ("mine", "annotate") else "out"
        arguments = [*arguments, "--out", name]
    monkeypatch.setattr(sys, "argv", ["prosocial", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"data"}


@pytest.mark.parametrize(
    "command, named",
    [
        ("suites", ["safe_but_scary", "twins_test", "all"]),
        ("judges", ["classifier:", "llama-guard:", "words"]),
        ("recipes", ["demo", "paper", "arms: n-pair, mle"]),
        ("zoo", ["minilm_safety", "smollm2_135m_prosocial"]),
    ],
)
def test_what_there_is_can_be_listed(command, named):
    shown = CliRunner().invoke(cli, [command, "list"]).output
    assert all(name in shown for name in named)


@pytest.mark.parametrize("command, said", [("mine", "the same command goes on"), ("chat", "")])
def test_ctrl_c_says_stopped(command, said, monkeypatch, capsys):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(LazyGroup, "invoke", stopped)
    monkeypatch.setattr(sys, "argv", ["prosocial", command])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 130
    assert "stopped" in error and said in error and "Aborted" not in error


def test_every_command_has_help_in_a_group():
    modules = {file.stem for file in Path(main_module.__file__).parent.glob("[!_]*.py")}
    assert modules - {"main"} == {name.replace("-", "_") for name in COMMANDS}
