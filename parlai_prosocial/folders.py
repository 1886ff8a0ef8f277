"""Folders that several processes may make: one makes them, the others wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from parlai_prosocial.errors import UserError

Say = Callable[[str], None]


@contextmanager
def locked(path: Path, say: Say) -> Iterator[None]:
    """Hold the lock at ``path``, which ends with its process; say so if another holds it."""
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        say(f"waiting for another process that is making {path.stem}")
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"cannot write {path.parent} ({error.strerror}): name another folder with --datapath "
            "or the environment variable PARLAI_DATAPATH"
        ) from error
    try:
        yield
    finally:
        lock.release()
