"""The error that a user can fix, shown as one line instead of a traceback."""

import errno
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


DISK_TAKES_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Full, its user's share of it full, files too large, read-only."""


class UserError(Exception):
    """A mistake in the user's input: data, flag, file or environment.

    The message names the file, line, field or flag, and the mend. Raised anywhere in this
    package; commands print it as one line and end with :func:`exit_status`.
    """


class UsageError(UserError):
    """A request that makes no sense, refused before anything was run."""


class EmptySplit(UserError):
    """Data without an example of the split that was asked for."""


def exit_status(error: UserError) -> int:
    """2 where the request itself is at fault, as for an unknown flag; else 1.

    It is where the error is a :class:`UsageError`, or its message begins with the flag that was
    typed: errors about data begin with their file.
    """
    return 2 if isinstance(error, UsageError) or str(error).startswith("--") else 1


def names_arguments(
    same: Iterable[str], **other: str
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a function that a command and Python call alike: errors name the caller's own word.

    Inside, messages name flags. This turns ``--max-tokens 0: ...`` into ``max_tokens 0: ...`` for
    who calls the function; a command calls :func:`with_flags` of it, whose errors stay as they are.

    Args:
        same: arguments whose flags have the same name.
        **other: argument -> its flag, without dashes, where that is another one.
    """
    names = {name.replace("_", "-"): name for name in same}
    names |= {flag: name for name, flag in other.items()}

    def argument(found: re.Match[str]) -> str:
        return names.get(found[1], found[0])

    def decorate(call: Callable[P, R]) -> Callable[P, R]:
        @wraps(call)
        def named(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return call(*args, **kwargs)
            except UserError as error:
                text = re.sub(r"(?<![\w-])--([a-z][a-z-]*[a-z])", argument, str(error))
                raise type(error)(text) from None

        return named

    return decorate


def with_flags(call: Callable[P, R]) -> Callable[P, R]:
    """A function of :func:`names_arguments` as a command calls it."""
    return inspect.unwrap(call)


def of_full_disk(error: BaseException) -> UserError | None:
    """The line for a disk that took no more; None where the error is another one."""
    if not isinstance(error, OSError) or error.errno not in DISK_TAKES_NO_MORE:
        return None
    place = error.filename or f"the disk of {os.getcwd()}, or of a file named above"
    return UserError(
        f"{place}: {os.strerror(error.errno)}; make room or name another place, and run the same "
        "command again"
    )


def show_user_errors_as_one_line() -> None:
    """Make an uncaught :class:`UserError`, or a full disk, end the process with one line.

    The stock ``parlai`` command has no place to catch our errors, so our agents and tasks call
    this when they are imported. Every other exception keeps its traceback.
    """
    previous = sys.excepthook
    if getattr(previous, "shows_user_errors", False):
        return

    def hook(kind, error, traceback):
        error = of_full_disk(error) or error
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(exit_status(error))  # which Python takes from a hook
        else:
            previous(kind, error, traceback)

    hook.shows_user_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook
