"""SIGTERM and Ctrl-C: long work ends at a point from which it can go on, and says so."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked the work to stop, and it has.

    A ``KeyboardInterrupt``, so that no ``except Exception`` takes it for a failure of its own.

    Attributes:
        number: of the signal.
        told: whether the user was told what goes on from where.
    """

    def __init__(self, number: int, told: bool = False):
        super().__init__(number)
        self.number, self.told = number, told

    @property
    def status(self) -> int:
        """The process's exit status, as shells give it: 130 after SIGINT, 143 after SIGTERM."""
        return 128 + self.number


class Signals:
    """Takes SIGINT and SIGTERM from entering to leaving; a second one ends the process at once.

    Does nothing outside the main thread, where Python has no signals.

    Args:
        at_once: called on the first signal; may raise. Where it returns, ``number`` tells the
            work to stop at its next good point.

    Attributes:
        number: the signal that came, 0 for none.
    """

    def __init__(self, at_once: Callable[[int], None] = lambda number: None):
        self.number = 0
        self.at_once = at_once
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        self.at_once(number)
