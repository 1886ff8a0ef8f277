"""Files of the zoo, verified: downloaded, copied, unpacked. Nothing wrong is left in its place."""

import hashlib
import os
import re
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import check_sha256, file_sha256
from parlai_prosocial.zoo.entry import ZooFile

MIRROR = "PROSOCIAL_ZOO"
"""Environment variable: a folder, or an http address, that holds NAME/FILE of hosted models."""

CHUNK = 1 << 16
"""Bytes read at once; what a broken connection loses at most."""

ATTEMPTS = 3
"""How often a connection that breaks is taken up again before giving up."""

PATIENCE = (8.0, 30.0)
"""Seconds to wait for a connection, and for each answer on it."""

BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
PAGE_BEGINNINGS = (b"<!doctype html", b"<html")


class InterruptedDownload(UserError):
    """The connection broke. What arrived is kept, and the next try resumes there."""


def verify(path: Path, file: ZooFile, mend: str) -> None:
    """Raise :class:`UserError`, with both hashes, where ``path`` is not the entry's file."""
    if not path.is_file():
        raise UserError(f"{path} is missing: {mend}")
    check_sha256(path, file.sha256, mend)


def copy_verified(source: Path, target: Path, file: ZooFile, mend: str) -> None:
    """Copy a file and verify the copy; a wrong one is deleted again.

    Raises:
        UserError: the source is missing or has another hash.
    """
    if not source.is_file():
        raise UserError(f"{source} is missing: {mend}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    found = file_sha256(target)
    if found != file.sha256:
        target.unlink()
        raise UserError(f"{source} has sha256 {found}, should be {file.sha256}: {mend}")


def download(url: str, target: Path, file: ZooFile) -> None:
    """Fetch ``url`` into ``target.part``, hash it on the way, and move it into place.

    A part that is there already is resumed (HTTP ``Range``), or begun again where the server
    cannot do that or the result has a wrong hash.

    Raises:
        InterruptedDownload: the connection broke, again and again; the part stays.
        UserError: the server refuses, or gives a web page, a file of another size, or one with
            another hash; the part is deleted.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for attempts_left in reversed(range(ATTEMPTS)):
        resumed = part.exists()
        try:
            found = _fetch_rest(url, part, file)
        except BROKEN as error:
            if attempts_left:
                continue
            reason = str(error).strip().split("\n")[0]
            raise _stopped(f"{url}: the connection broke ({reason})", part) from None
        if found == file.sha256:
            os.replace(part, target)
            return
        part.unlink()
        if not resumed:
            break
    raise UserError(
        f"{url} gives a file with sha256 {found}, should be {file.sha256}: it was replaced or "
        f"damaged; try again, or set {MIRROR} to a mirror"
    )


def _stopped(what: str, part: Path) -> UserError:
    """The error of a download that may succeed later, by whether something came already."""
    if part.exists() and part.stat().st_size:
        return InterruptedDownload(f"{what}; run it again to resume")
    part.unlink(missing_ok=True)
    return UserError(f"{what}; try again later, or set {MIRROR} to a mirror or a folder")


def _fetch_rest(url: str, part: Path, file: ZooFile) -> str:
    """Append to ``part`` what it lacks, and return the hash of the whole."""
    digest, start = hashlib.sha256(), 0
    if part.exists():
        with part.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
        start = part.stat().st_size
        if start == file.size:
            return digest.hexdigest()
    # Compressed on the way, byte ranges and sizes would not be those of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as response:
        if response.status_code == 416:  # the part is longer than the server's file
            part.unlink()
            return _fetch_rest(url, part, file)
        if response.status_code >= 400:
            raise _stopped(f"{url}: {response.status_code} {response.reason}", part)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise _stopped(f"{url} gives a web page instead of {file.name}", part)
        begins, total = _extent(response)
        if begins != start:  # it gives all of it, whatever was asked for
            digest, start = hashlib.sha256(), 0
        if total is not None and file.size is not None and total != file.size:
            part.unlink(missing_ok=True)
            raise UserError(
                f"{url} has {total:,} bytes, should have {file.size:,}: it is cut short or "
                f"replaced; try again later, or set {MIRROR} to a mirror"
            )
        _append(response, part, start, digest, file)
    came = part.stat().st_size
    if file.size is not None and came < file.size:
        raise requests.ConnectionError(f"it ended after {came:,} of {file.size:,} bytes")
    return digest.hexdigest()


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Where in the file the answer begins, and how long the file is, where the server says."""
    if response.status_code == 206:
        given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if given:
            return int(given[1]), None if given[2] == "*" else int(given[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _append(
    response: requests.Response, part: Path, start: int, digest: Any, file: ZooFile
) -> None:
    bar = tqdm(
        total=file.size, initial=start, unit="B", unit_scale=True, desc=file.name, disable=None
    )
    with bar, part.open("ab" if start else "wb") as stream:
        at_beginning = not start
        for chunk in response.iter_content(CHUNK):
            if at_beginning and chunk.lstrip()[:14].lower().startswith(PAGE_BEGINNINGS):
                stream.close()
                part.unlink()
                raise _stopped(f"{response.url} gives a web page instead of {file.name}", part)
            at_beginning = False
            stream.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar file (compressed or not) into ``folder``.

    Raises:
        UserError: it is no tar file, or would write outside ``folder``.
    """
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); nothing of it is used") from None
