"""A model of the zoo trained here, by the commands of its entry."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from parlai_prosocial.errors import UserError
from parlai_prosocial.zoo.entry import Entry

RECIPES = "parlai_prosocial/recipes/"


def run_commands(entry: Entry) -> None:
    """Run what trains a model, in this folder.

    Raises:
        UserError: a command ended with a status other than 0.
    """
    for command in entry.commands:
        program, *arguments = shlex.split(command)
        beside = shutil.which(program, path=str(Path(sys.executable).parent))
        status = subprocess.run([beside or program, *map(_of_the_package, arguments)]).returncode
        if status:
            raise UserError(f"`{command}` ended with status {status}; its own message is above")


def _of_the_package(word: str) -> str:
    """A preset of ours by its path in the package, from whatever folder."""
    if word.startswith(RECIPES) and not Path(word).exists():
        return str(Path(__file__).parents[2] / word)
    return word
