"""A process of its own that answers: JSON lines over its pipes, never pickles."""

import json
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

from parlai_prosocial.errors import UserError

_SECONDS_TO_END = 5


class Child:
    """Starts a program that reads a JSON object a line and answers each with one.

    It ends with this object or this process: its input does.

    Args:
        command: the program and its arguments.
        name: for errors.
        mend: what to do where it fails, for errors.
    """

    def __init__(self, command: Sequence[str], name: str, mend: str):
        self.name, self.mend = name, mend
        # A file and not a pipe: what nobody reads would fill one, and stop it.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115, closed by _end
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said
        )
        self._finalizer = weakref.finalize(self, _end, self._process, self._said)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send an object, and wait for the one that answers it.

        Raises:
            UserError: the program has ended, says what is no JSON object, or answers with an
                ``error``, which is told.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # told below, with the reason
            self._process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._failed(self._how_it_ended())
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._failed("answered with what is no JSON object")
        if "error" in answer:
            raise self._failed(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End the program; to close twice does nothing."""
        self._finalizer()

    def _failed(self, why: str) -> UserError:
        return UserError(f"{self.name}: {why}; {self.mend}")

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:  # it closed its output and goes on
            self._process.kill()
            status = self._process.wait()
        how = f"with status {status}" if status >= 0 else f"of {_signal_name(-status)}"
        said = self._last_words()
        return f"its process ended {how}{said and f' ({said})'}"

    def _last_words(self) -> str:
        """The last line that it wrote to its standard error."""
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").splitlines()
        words = [" ".join(line.split()) for line in lines if line.strip()]
        return "".join(c for c in words[-1][-200:] if c.isprintable()) if words else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # unsent bytes of a process that has died
            if pipe is not None:
                pipe.close()
    try:
        process.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    said.close()
