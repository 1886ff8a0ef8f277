"""Models of the zoo put into ParlAI's data path, where ``-mf zoo:prosocial/NAME/model`` looks."""

import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import Say, check_sha256, write_aside, writing
from parlai_prosocial.util.writer import made_by_one
from parlai_prosocial.zoo.bases import smollm2
from parlai_prosocial.zoo.bases.published import PUBLISHED
from parlai_prosocial.zoo.entry import BASES, Entry, ZooFile

MAKERS: dict[str, Callable[[str | Path, Say], Path]] = {
    smollm2.NAME: smollm2.ensure_base,
    smollm2.HUB_NAME: smollm2.ensure_hub_base,
    **PUBLISHED,
}
"""What makes a base, and returns its Hugging Face folder."""


def installed_folder(entry: Entry, datapath: str | Path) -> Path:
    """Where the model is or will be installed."""
    return Path(datapath) / "models" / "prosocial" / entry.name


def install(entry: Entry, datapath: str | Path, say: Say) -> Path:
    """Install a model unless it is there, and verify it.

    Args:
        entry: from :func:`~parlai_prosocial.zoo.entry.find_entry`.
        datapath: ParlAI's.
        say: called with one line at each longer step.

    Returns:
        The folder with ``model`` and ``model.opt``; of a base its Hugging Face folder.

    Raises:
        UserError: the model is not published, cannot be fetched, or a file has a wrong hash. What
            was written is deleted.
    """
    if entry.kind in BASES:
        try:
            return MAKERS[entry.name](datapath, say)
        except ImportError as error:
            raise UserError(f"{error}; `prosocial setup` installs what is missing") from error
    if entry.kind == "build":
        raise UserError(
            f"{entry.path}: not published yet; build it with `prosocial zoo build {entry.name}`, "
            f"which runs `{' && '.join(entry.commands)}`, then use -mf {entry.builds[-1]}"
        )
    folder = installed_folder(entry, datapath)
    with made_by_one(folder.with_name(entry.name), say):
        if not folder.exists():
            check_versions(entry)
            _install_files(entry, folder, say)
        verify_installed(entry, datapath)
        _describe(entry, folder)
    return folder


def verify_installed(entry: Entry, datapath: str | Path) -> None:
    """Raise :class:`UserError` where an installed file is not the entry's."""
    folder = installed_folder(entry, datapath)
    for file in entry.files:
        verify(folder / file.name, file, f"delete {folder} and try again")


def verify_bundled(entry: Entry) -> None:
    """Raise :class:`UserError` where a file in the package is not the entry's."""
    for file in entry.files:
        verify(entry.folder / file.name, file, "reinstall parlai-prosocial")


def check_versions(entry: Entry) -> None:
    """Raise :class:`UserError` where an installed distribution is too old, or missing."""
    for name, oldest in entry.needs.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "0"
        if Version(found) < Version(oldest):
            raise UserError(
                f"{entry.path} needs {name} {oldest} or later, here is "
                f"{found if found != '0' else 'none'}: pip install '{name}>={oldest}'"
            )


def _install_files(entry: Entry, folder: Path, say: Say) -> None:
    """Gather all files beside ``folder`` and move them there when they are complete."""
    part = folder.with_name(f"{entry.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    with writing(folder, part):
        for file in entry.files:
            source, copy = entry.folder / file.name, part / file.name
            mend = "reinstall parlai-prosocial"
            verify(source, file, mend)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            verify(copy, file, mend)
        os.replace(part, folder)
    say(f"{entry.name}: installed in {folder}")


def verify(path: Path, file: ZooFile, mend: str) -> None:
    """Raise :class:`UserError`, with both hashes, where ``path`` is not the entry's file."""
    if not path.is_file():
        raise UserError(f"{path} is missing: {mend}")
    check_sha256(path, file.sha256, mend)


def _describe(entry: Entry, folder: Path) -> None:
    """Put the entry beside the model, for its card; the package may know more than when it came."""
    description = entry.folder.with_suffix(".json").read_text("utf-8")
    beside = folder / f"{entry.name}.json"
    if not beside.is_file() or beside.read_text("utf-8") != description:
        write_aside(beside, description)
