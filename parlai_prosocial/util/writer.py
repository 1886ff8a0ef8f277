"""One writer at a time: a second process says who is there, and touches nothing.

Locks are files of the operating system's (``filelock``), which end with their process however that
ends. Beside ``PATH.lock`` lies ``PATH.writer``, which says who holds it.
"""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import Say, writing


class Writer:
    """Holds a place until it is released or its process ends; refuses where another holds it.

    Args:
        path: what is written, a file or a folder; lock and holder go beside it.
        flag: by which the user named it, for the message.

    Raises:
        UserError: another process writes there, or the lock cannot be written.
    """

    def __init__(self, path: Path, flag: str):
        self.path = path.expanduser()
        self.lock = _lock(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(blocking=False)
        except Timeout:
            raise UserError(
                f"{flag} {path}: {_who(self.path)} writes there; wait until it has ended, or give "
                f"another {flag}"
            ) from None
        except OSError as error:
            raise UserError(f"{flag} {path}: cannot be written ({error.strerror})") from error
        _sign(self.path)

    def release(self) -> None:
        """Let others write; to release twice does nothing."""
        if self.lock.is_locked:
            _holder(self.path).unlink(missing_ok=True)
            self.lock.release()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


@contextmanager
def made_by_one(path: Path, say: Say) -> Iterator[None]:
    """Hold a place that several processes need made; wait, and say for whom, if another makes it.

    Raises:
        UserError: nothing can be written there.
    """
    lock = _lock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        say(f"waiting for {_who(path)}, which is making {path.name}")
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"cannot write {path.parent} ({error.strerror}): name another folder with --datapath "
            "or the environment variable PARLAI_DATAPATH"
        ) from error
    try:
        _sign(path)
        yield
    finally:
        _holder(path).unlink(missing_ok=True)
        lock.release()


def _lock(path: Path) -> FileLock:
    return FileLock(path.with_name(f"{path.name}.lock"))


def _holder(path: Path) -> Path:
    return path.with_name(f"{path.name}.writer")


def _sign(path: Path) -> None:
    who = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    # Not written aside: a half-written one is only less telling.
    with writing(path, _holder(path)):
        _holder(path).write_text(json.dumps(who), "utf-8")


def _who(path: Path) -> str:
    try:
        who = json.loads(_holder(path).read_text("utf-8"))
        return f"process {who['pid']} on {who['host']} (since {who['since']}: {who['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
