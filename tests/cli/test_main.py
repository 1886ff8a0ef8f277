import subprocess
import sys

import pytest

from parlai_prosocial.cli.main import COMMANDS


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
