import subprocess

import pytest


@pytest.fixture
def runs(monkeypatch):
    """The commands that are run, none of them in earnest."""
    commands = []

    def run(command):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return commands
