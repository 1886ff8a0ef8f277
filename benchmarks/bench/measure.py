"""Clocks, the order of the sides, and the check that they compute the same."""

import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from parlai_prosocial.errors import UserError

TOLERANCE = 1e-3
"""Between the sides' losses in float32, in nats a token."""
TOLERANCE_BF16 = 3e-2
"""The same where products are in bfloat16, which has 8 bits: a rounding, not another model."""
MEMORY_ENDS = f"killed where {psutil.virtual_memory().total / 1e9:.0f} GB of memory end"


@dataclass
class Usage:
    """What a piece of work took.

    Attributes:
        cpu: CPU seconds of this process and of those that it started.
        wall: seconds by the clock.
        peak: bytes of memory held at the worst moment; None where nobody looked.
        killed: memory ended before the work did, so that the others say nothing.
    """

    cpu: float
    wall: float
    peak: float | None = None
    killed: bool = False


Side = Callable[[int], Usage]
"""Does its n-th piece of work; all sides of a job do the same n-th piece."""


def cpu_seconds() -> float:
    """Of this process, of its children that live and of those that have ended."""
    process = psutil.Process()
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


class Clock:
    """A stop watch of CPU and wall time, which waits for the GPU where there is one."""

    def start(self) -> None:
        _synchronise()
        self.cpu, self.wall = cpu_seconds(), time.perf_counter()

    def stop(self) -> Usage:
        _synchronise()
        return Usage(cpu_seconds() - self.cpu, time.perf_counter() - self.wall)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[int], Any]) -> Side:
    """A side whose piece of work is one call."""

    def side(number: int) -> Usage:
        clock = Clock()
        clock.start()
        work(number)
        return clock.stop()

    return side


class Killed(UserError):
    """A process that Linux ended because memory ended."""


def memory_kills() -> int:
    """How many processes Linux has ended because memory, or a container's share of it, ended."""
    counts = Path("/proc/vmstat")
    lines = counts.read_text("ascii").splitlines() if counts.exists() else []
    return int(dict(line.split() for line in lines).get("oom_kill", 0))


def run_command(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """What a command of its own process takes, its start included.

    Raises:
        Killed: memory ended.
        UserError: it failed; with the last line that it wrote.
    """
    kills, started = memory_kills(), time.perf_counter()
    process = subprocess.Popen(
        list(command),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | (environment or {}),
    )
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode:
        named = " ".join(command).splitlines()[0]
        if process.returncode == -signal.SIGKILL and memory_kills() > kills:
            raise Killed(f"{named}: {MEMORY_ENDS}")
        killed = f"killed by signal {-process.returncode}"
        raise UserError(f"{named}: {killed if process.returncode < 0 else last_line(said)}")
    return Usage(used.ru_utime + used.ru_stime, wall, used.ru_maxrss * 1024)


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def die_first() -> None:
    """Where memory ends, Linux ends this process and not what runs beside it."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000", encoding="utf-8")


def peak_memory() -> float:
    """Bytes that this process held at the worst moment: of the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Refused(Exception):
    """The sides do not compute the same, so how long they take says nothing."""


@dataclass(frozen=True)
class Same:
    """A number that the sides must agree on before they are timed.

    Attributes:
        what: names the number and the sides.
        ours: by us.
        peer: by the other side.
        tolerance: how far apart they may be.
    """

    what: str
    ours: float
    peer: float
    tolerance: float = TOLERANCE


def check_same(numbers: Sequence[Same]) -> None:
    """Raise :class:`Refused` where two numbers differ, or are none."""
    for number in numbers:
        if not abs(number.ours - number.peer) <= number.tolerance:
            raise Refused(
                f"{number.what}: {number.ours:.5f} and {number.peer:.5f} differ by "
                f"{abs(number.ours - number.peer):.1e}, over {number.tolerance:.0e}"
            )


def interleaved(
    sides: Mapping[str, Side], pairs: int, say: Callable[[str], None], warm: bool = True
) -> dict[str, list[Usage]]:
    """Each side's usage, piece by piece: A B, then B A, and so on.

    With ``warm`` a first round, which does not count, warms caches up. A machine that slows down
    does so for all sides, and who comes second finds warmer caches as often as who comes first.
    """
    taken: dict[str, list[Usage]] = {name: [] for name in sides}
    for number in range(0 if warm else 1, pairs + 1):
        names = list(sides) if number % 2 else list(reversed(sides))
        for name in names:
            usage = sides[name](number)
            say(f"{name}, {number} of {pairs}: {usage.cpu:.2f} CPU s, {usage.wall:.2f} s")
            if number:
                taken[name].append(usage)
    return taken


def ratios(ours: Sequence[float], peer: Sequence[float], faster: bool) -> dict[str, float]:
    """Median and range, pair by pair: how many times faster we are, or what share we take.

    >>> ratios([1.0, 2.0], [3.0, 4.0], faster=True)
    {'median': 2.5, 'low': 2.0, 'high': 3.0}
    >>> ratios([1.0], [4.0], faster=False)["median"]
    0.25
    """
    found = [b / a if faster else a / b for a, b in zip(ours, peer, strict=True)]
    return {"median": statistics.median(found), "low": min(found), "high": max(found)}


def as_columns(usages: Sequence[Usage]) -> dict[str, list[Any]]:
    """Usages as JSON has them: a list for each clock."""
    rows = [asdict(usage) for usage in usages]
    return {name: [row[name] for row in rows] for name in ("cpu", "wall", "peak")}


@contextmanager
def quiet():
    """Without the lines that trainers print beside our own."""
    import datasets
    from parlai.utils.logging import set_log_level
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    datasets.disable_progress_bars()
    set_log_level(40)
    set_verbosity_error()
    disable_progress_bar()
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = out
