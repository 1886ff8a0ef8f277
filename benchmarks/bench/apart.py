"""Pieces of training in processes of their own: for their memory, and where two do not fit."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.bench.job import Bench, Makers, Row, Target
from benchmarks.bench.measure import Killed, Same, Side, Usage, peak_memory, run_command
from benchmarks.bench.training import Likelihood

SAME = "same"
"""In the place of a side: the check that the sides compute the same."""


@dataclass
class Apart:
    """A training job of which one side at a time is in memory, in a process for each piece of work.

    A process does the piece that does not count and then its own, so that it is as warm as a side
    that stays; the order of the sides is that of all jobs. The losses are compared in a process
    too, and what they take is given back before the first piece.
    """

    of: Likelihood
    gpu: bool = True
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def rows(self) -> list[Row]:
        return self.of.rows

    def same(self, bench: Bench) -> list[Same]:
        return [Same(**number) for number in in_a_process(bench, f"{self.of.name}:{SAME}")]

    def sides(self, bench: Bench) -> Makers:
        return {
            side: lambda side=side: pieces_apart(bench, f"{self.of.name}:{side}", warm=True)
            for side in self.of.sides(bench)
        }


@dataclass
class Memory:
    """Peak memory of a process that takes one step, against the Trainer's."""

    of: Likelihood
    target: float | None = None
    shown: bool = False
    gpu: bool = True
    cpu: bool = True
    most_pairs: int | None = 1

    @property
    def name(self) -> str:
        return self.of.name.replace("train", "memory")

    @property
    def rows(self) -> list[Row]:
        return [
            Row(
                self.name,
                self.of.what.replace("training", "peak memory"),
                "HF Trainer, length grouping",
                measure="peak",
                faster=False,
                target=Target(most=self.target) if self.target else None,
                shown=self.shown,
            )
        ]

    def same(self, bench: Bench) -> list[Same]:
        return []  # of the job whose steps these are

    def sides(self, bench: Bench) -> Makers:
        return {
            side: lambda side=side: pieces_apart(bench, f"{self.of.name}:{side}", warm=False)
            for side in self.of.sides(bench)
        }


def pieces_apart(bench: Bench, side: str, warm: bool) -> Side:
    """A side, ``JOB:SIDE``, whose every piece has a process; after one is killed there is none.

    Args:
        bench: what the run was asked for.
        side: of which job.
        warm: each process does piece 0 first, so that there is nothing to do for that one alone.
    """
    killed: list[Usage] = []

    def piece(number: int) -> Usage:
        if warm and not number:
            return Usage(0, 0)
        if not killed:
            numbers = f"0,{number}" if warm else "0"
            try:
                return Usage(**in_a_process(bench, f"{side}:{numbers}"))
            except Killed:
                killed.append(Usage(0, 0, killed=True))
        return killed[0]

    return piece


def in_a_process(bench: Bench, piece: str) -> Any:
    """What :func:`do_piece` gives, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench", "--piece", piece]
    command += ["--base", str(bench.base), "--classifier", bench.classifier]
    command += ["--datapath", bench.datapath, "--work", str(bench.folder)]
    command += ["--pairs", str(bench.pairs)]
    file = bench.folder / "piece.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    run_command([*command, "--out", str(file)])
    return json.loads(file.read_text(encoding="utf-8"))


def do_piece(job: Likelihood, side: str, numbers: str, bench: Bench) -> Any:
    """A side's pieces, of which the last counts, or the numbers that the sides must agree on.

    Args:
        job: whose side it is.
        side: its name, or :data:`SAME`.
        numbers: of the pieces, comma-separated.
        bench: what the run was asked for.

    Returns:
        As JSON has it: the last piece's :class:`Usage`, its peak the process's, or all
        :class:`Same`.
    """
    if side == SAME:
        return [asdict(number) for number in job.same(bench)]
    pieces = tuple(map(int, numbers.split(",")))
    work = replace(job, pieces=pieces).sides(bench)[side]()
    usage = [work(number) for number in range(len(pieces))][-1]
    return asdict(replace(usage, peak=peak_memory()))
