"""Every command's help ends with examples, and they are commands that parse."""

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.main import cli

REPOSITORY = Path(__file__).parents[2]


def leaves(group, names=()):
    """The words of every command that is no group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*names, name))
        else:
            yield *names, name


def examples(help_page):
    found = re.search(r"^ *Examples?:\n((?: +\S.*\n)+)", help_page, re.MULTILINE)
    lines = re.sub(r"\\\n", " ", found[1]) if found else ""
    return [shlex.split(line) for line in lines.splitlines()]


@pytest.mark.parametrize("words", leaves(cli), ids=" ".join)
def test_the_examples_of_a_command_parse(words, monkeypatch):
    monkeypatch.chdir(REPOSITORY)  # one names a file of the repository
    shown = CliRunner().invoke(cli, [*words, "--help"], terminal_width=200).output
    found = examples(shown)
    assert found, shown
    for program, *arguments in found:
        assert program == "prosocial" and tuple(arguments[: len(words)]) == words
        command = cli
        for word in words:
            command = command.get_command(click.Context(command), word)
        command.make_context(words[-1], arguments[len(words) :])  # an unknown option raises


def test_an_example_that_does_not_parse_would_be_seen():
    [[_, *arguments]] = examples("Example:\n  prosocial zoo show a \\\n      --no-such-flag\n")
    assert arguments == ["zoo", "show", "a", "--no-such-flag"]
    command = cli.get_command(click.Context(cli), "zoo").commands["show"]
    with pytest.raises(click.NoSuchOption):
        command.make_context("show", arguments[2:])
