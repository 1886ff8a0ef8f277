"""Files on disk: written whole or not at all, and verified."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import UserError

Say = Callable[[str], None]


def write_aside(file: Path, text: str) -> None:
    """Write a file aside and move it into place; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    os.replace(part, file)


def file_sha256(file: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(file: Path, sha256: str, mend: str) -> None:
    """Raise :class:`UserError`, with both hashes, where a file has another one."""
    found = file_sha256(file)
    if found != sha256:
        raise UserError(f"{file} has sha256 {found}, should be {sha256}: {mend}")


def read_json(file: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(file.read_text("utf-8"))


def json_text(value: Any) -> str:
    """JSON as our small files have it: indented, with a line feed at its end."""
    return json.dumps(value, indent=2) + "\n"


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file in place; ``write_aside(file, json_text(value))`` replaces one."""
    file.write_text(json_text(value), "utf-8")
