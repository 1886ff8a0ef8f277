"""A base's folder in the data path, made once.

``<datapath>/models/prosocial/<name>/`` holds::

    hf/                    a Hugging Face folder, plus prosocial_base.json (name, hashes, licence)
    model, model.opt       so that ParlAI opens zoo:prosocial/<name>/model; not of encoders

The folder is built beside its place and moved there when complete, under a lock: a reader never
sees half of it, and of two processes the second finds the first one's result.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.backbone import weights_sha256
from parlai_prosocial.util.files import Say, read_json, write_json, writing
from parlai_prosocial.util.writer import made_by_one

RECORD = "prosocial_base.json"


def install_base(
    datapath: str | Path,
    name: str,
    sha256: str,
    source: str,
    make: Callable[[Path, Path, Say], None],
    say: Say,
    licence: str = "Apache-2.0",
    replies: bool = True,
) -> Path:
    """The Hugging Face folder of a base, made first if need be.

    Args:
        datapath: ParlAI's.
        name: of the entry.
        sha256: of what the base is made from, for telling versions apart.
        source: where that is from, for the record.
        make: ``make(hf, scratch, say)`` fills the folder ``hf``; ``scratch`` is deleted after it.
        say: called with one line at each longer step.
        licence: of the weights.
        replies: whether ``-m prosocial`` can open it; False for an encoder.

    Raises:
        UserError: the data path can't be written, or holds something else in its place.
    """
    folder = Path(datapath) / "models" / "prosocial" / name
    if _is_installed(folder, sha256):
        return folder / "hf"
    with made_by_one(folder.with_name(name), say):
        if not _is_installed(folder, sha256):
            _build(folder, name, sha256, source, make, say, licence, replies)
    return folder / "hf"


def _is_installed(folder: Path, sha256: str) -> bool:
    """Whether ``folder`` is what this version installs; its weights are not hashed again."""
    try:
        record = read_json(folder / "hf" / RECORD)
    except UserError:
        return False
    return record.get("sha256") == sha256


def _build(
    folder: Path,
    name: str,
    sha256: str,
    source: str,
    make: Callable[[Path, Path, Say], None],
    say: Say,
    licence: str,
    replies: bool,
) -> None:
    if folder.exists():
        raise UserError(f"{folder} is not the {name} that this version makes: delete it, try again")
    part = folder.with_name(f"{name}.part")
    scratch = part / "scratch"
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    with writing(folder, part):
        hf = part / "hf"
        hf.mkdir(parents=True)
        scratch.mkdir()
        make(hf, scratch, say)
        shutil.rmtree(scratch)
        record = {
            "name": name,
            "sha256": sha256,
            "weights_sha256": weights_sha256(hf),
            "licence": licence,
            "source": source,
        }
        write_json(hf / RECORD, record)
        if replies:
            write_json(part / "model", {"format": "prosocial-checkpoint-1", "weights": "hf"})
            opt = {"model": "prosocial", "backbone": f"zoo:prosocial/{name}"}
            write_json(part / "model.opt", opt)
        os.replace(part, folder)
    say(f"{name}: ready in {folder}")
