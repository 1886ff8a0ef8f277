import subprocess

import pytest

WORDS = "a\ni\ne\no\ns\nt\nin\nre\n"
"""What a random model may well say."""


@pytest.fixture
def runs(monkeypatch):
    """The commands that are run, none of them in earnest."""
    commands = []

    def run(command):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.fixture(scope="module")
def words_datapath(tmp_path_factory):
    """A data path in which ParlAI's list of offensive words is :data:`WORDS`."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "OffensiveLanguage").mkdir()
    (folder / "OffensiveLanguage" / "OffensiveLanguage.txt").write_text(WORDS)
    return folder
