"""The error that a user can fix, shown as one line instead of a traceback."""

import sys


class UserError(Exception):
    """A mistake in the user's input: data, flag, file or environment.

    The message names the file, line, field or flag, and the mend. Raised anywhere in this
    package; commands print it as one line and exit with status 1.
    """


def show_user_errors_as_one_line() -> None:
    """Make an uncaught :class:`UserError` end the process with its message alone, status 1.

    The stock ``parlai`` command has no place to catch our errors, so our agents and tasks call
    this when they are imported. Every other exception keeps its traceback.
    """
    previous = sys.excepthook
    if getattr(previous, "shows_user_errors", False):
        return

    def hook(kind, error, traceback):
        if issubclass(kind, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    hook.shows_user_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook
