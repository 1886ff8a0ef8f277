"""One writer at a time: a second run into the same place says who is there, and touches nothing."""

import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import write_aside

LOCK, HOLDER = ".lock", ".writer"
"""Endings of the lock, and of the file that says who holds it."""


class Writer:
    """Holds a place until it is released or its process ends, however that ends.

    Args:
        path: what is written, a file or a folder; ``PATH.lock`` and ``PATH.writer`` go beside it.
        flag: by which the user named it, for the message.

    Raises:
        UserError: another process writes there, or the lock cannot be written.
    """

    def __init__(self, path: Path, flag: str):
        self.holder = path.with_name(path.name + HOLDER)
        self.lock = FileLock(path.with_name(path.name + LOCK))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.lock.acquire(blocking=False)
        except Timeout:
            raise UserError(
                f"{flag} {path}: {_told(self.holder)} writes there; wait until it has ended, or "
                f"give another {flag}"
            ) from None
        except OSError as error:
            raise UserError(f"{flag} {path}: cannot be written ({error.strerror})") from error
        who = {
            "pid": os.getpid(),
            "host": platform.node(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }
        write_aside(self.holder, json.dumps(who))

    def release(self) -> None:
        """Let others write; to release twice does nothing."""
        if self.lock.is_locked:
            self.holder.unlink(missing_ok=True)
            self.lock.release()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _told(holder: Path) -> str:
    try:
        who = json.loads(holder.read_text("utf-8"))
        return f"process {who['pid']} on {who['host']} (since {who['since']}: {who['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
