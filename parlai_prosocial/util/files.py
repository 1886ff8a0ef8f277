"""Files on disk: written whole or not at all, and verified."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parlai_prosocial.errors import DISK_TAKES_NO_MORE, UserError

Say = Callable[[str], None]

NOT_OURS = (
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)
"""What a system says of a place that cannot be written, or of a broken disk."""


@contextmanager
def writing(place: Path, part: Path | None = None) -> Iterator[None]:
    """Say in one line where the disk was full or read-only, and leave nothing half-written.

    Args:
        place: what is written, for the message.
        part: the file or folder beside it that holds what is not complete; gone on every error.

    Raises:
        UserError: the disk took no more.
    """
    try:
        yield
    except BaseException as error:
        if part is not None:
            remove(part)
        code = _system_error(error)
        if code is None or code not in (*DISK_TAKES_NO_MORE, *NOT_OURS):
            raise
        at = getattr(error, "filename", None) or place
        raise UserError(
            f"{place}: cannot be written ({os.strerror(code)} at {at}; {_free(place)}); make room "
            "or name another place, and run the same command again; what was complete before is "
            "still there"
        ) from error


def _system_error(error: BaseException | None) -> int | None:
    """The system's number of an error, also where a library has put words of its own over it.

    Rust's libraries, as safetensors, quote the number; torch's writer fails once more after it.
    """
    if isinstance(error, OSError):
        return error.errno
    if quoted := re.search(r"\(os error (\d+)\)$", str(error)):
        return int(quoted[1])
    return _system_error(error.__context__) if isinstance(error, RuntimeError) else None


def _free(place: Path) -> str:
    folder = place.absolute().parent
    while not folder.exists():
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free in {folder}"


def remove(path: Path) -> None:
    """Delete a file or a folder, where it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(NotADirectoryError):  # below what is a file
            path.unlink(missing_ok=True)


def write_aside(file: Path, text: str) -> None:
    """Write a file aside and move it into place when it is on disk; its folder is made.

    Raises:
        UserError: the disk is full or read-only; what was there before is untouched.
    """
    part = file.with_name(file.name + ".part")
    with writing(file, part):
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)


def check_jsonl(out: Path) -> None:
    """Raise :class:`UserError` for a name that those who read JSON Lines would not open."""
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: give a name that ends with .jsonl")


def file_sha256(file: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(file: Path, sha256: str, mend: str) -> None:
    """Raise :class:`UserError`, with both hashes, where a file has another one."""
    found = file_sha256(file)
    if found != sha256:
        raise UserError(f"{file} has sha256 {found}, should be {sha256}: {mend}")


def read_json(file: Path, shape: Any = dict[str, Any], mend: str = "restore the file") -> Any:
    """What a JSON file holds.

    Args:
        file: its path.
        shape: the type that it must have, which pydantic checks strictly: a TypedDict, say.
        mend: what to do where it has not.

    Raises:
        UserError: it cannot be read, is no JSON, or a field is missing or wrong, which is named.
    """
    return parsed_json(read_bytes(file, mend), shape, str(file), mend)


def read_bytes(file: Path, mend: str) -> bytes:
    """A file's bytes; :class:`UserError` where it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); {mend}") from None


def text_lines(file: Path, mend: str = "restore the file") -> list[str]:
    """Lines of a UTF-8 file, blank ones left out; :class:`UserError` where it cannot be read.

    Only line feeds part them: ``str.splitlines`` parts texts at U+2028 and U+0085 too, which stand
    in people's words and, unescaped, in JSON.
    """
    try:
        text = read_bytes(file, mend).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 at byte {error.start}; {mend}") from None
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def parsed_json(text: str | bytes, shape: Any, where: str, mend: str) -> Any:
    """What JSON holds; arguments and errors as for :func:`read_json`."""
    # Here and not at import, since pydantic takes a while to import.
    from pydantic import ValidationError

    try:
        return _checker(shape).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Keys are the file's own: on one line, and without what no terminal can show.
        field = "".join(f"{part}: " for part in _path(first["loc"]))
        told = f"{field}{first['msg']}"
        raise UserError(f"{where}: {told if told.isprintable() else repr(told)}; {mend}") from None


@functools.cache
def _checker(shape: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


def _path(places: tuple[int | str, ...]) -> list[str]:
    """Keys and indices as one path, as people write it: ``files.model`` or ``rows[3]``."""
    path = ""
    for place in places:
        path += f"[{place}]" if isinstance(place, int) else f".{place}"
    return [path.removeprefix(".")] if path else []


def json_text(value: Any) -> str:
    """JSON as our small files have it: indented, with a line feed at its end."""
    return json.dumps(value, indent=2) + "\n"


def write_json(file: Path, value: Any) -> None:
    """Write a JSON file in place; ``write_aside(file, json_text(value))`` replaces one."""
    file.write_text(json_text(value), "utf-8")
