"""Starting: the command's help, the first step, and corpora opened once and again."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import corpus, peers
from benchmarks.bench.job import Bench, Makers, Row, Target
from benchmarks.bench.measure import Same, Side, Usage, run_command

BIG = 100_000
"""Rows of own data, 47 MB as JSON Lines."""
FIRST_STEP = """
import itertools, os, sys
from parlai.scripts.train_model import TrainLoop, TrainModel
loop = TrainLoop(TrainModel.setup_args().parse_args(sys.argv[1:]))
for _ in itertools.islice(loop.train_steps(), 1):
    pass
os._exit(0)
"""
OPEN = """
import json, resource, sys, time
from parlai.core.params import ParlaiParser
from parlai.core.teachers import create_task_agent_from_taskname
import torch
file, *arguments = sys.argv[1:]
opt = ParlaiParser(True, False).parse_args(arguments)
before = time.process_time(), time.perf_counter()
[teacher] = create_task_agent_from_taskname(opt)
teacher.act()
cpu, wall = time.process_time() - before[0], time.perf_counter() - before[1]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
json.dump({"cpu": cpu, "wall": wall, "peak": peak}, open(file, "w"))
"""


def parlai(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "parlai", *arguments]


@dataclass
class Help:
    """``parlai train_model --help`` with our model and with ParlAI's own."""

    name: str = "help"
    gpu: bool = False
    cpu: bool = True
    most_pairs: int | None = None

    @property
    def rows(self) -> list[Row]:
        what, peer = "parlai train_model -m prosocial --help", "-m transformer/generator --help"
        return [Row(self.name, what, peer, faster=False, target=Target(most=1.15), shown=True)]

    def same(self, bench: Bench) -> list[Same]:
        return []  # two different helps

    def sides(self, bench: Bench) -> Makers:
        def side(model: str) -> Side:
            return lambda _number: run_command(parlai("train_model", "-m", model, "--help"))

        return {
            "ours": lambda: side("prosocial"),
            "peer": lambda: side("transformer/generator"),
        }


@dataclass
class FirstStep:
    """From the command to the end of the first step, of the same random GPT-2."""

    name: str = "first-step"
    gpu: bool = False
    cpu: bool = True
    most_pairs: int | None = 3

    @property
    def rows(self) -> list[Row]:
        what = "parlai train_model -m prosocial to the end of step 1, GPT-2"
        return [Row(self.name, what, "-m hugging_face/gpt2", faster=False)]

    def same(self, bench: Bench) -> list[Same]:
        return []  # of train-parlai, whose step this is

    def sides(self, bench: Bench) -> Makers:
        base = peers.random_gpt2(bench.base, bench.folder)
        rows = corpus.rows(bench.datapath, 64)
        own = corpus.write(bench.folder / self.name / "rows.jsonl", rows)
        lines = bench.folder / self.name / "rows.txt"
        lines.write_text(
            "".join(
                f"text:{row['context'][-1]}\tlabels:{row['response']}\tepisode_done:True\n"
                for row in rows
            ),
            encoding="utf-8",
        )
        common = ["--batchsize", "8", "--datapath", str(bench.folder / "data")]
        common += ["--max-train-steps", "1", "--optimizer", "adamw", "--learningrate", "1e-5"]
        common += ["--lr-scheduler", "none"]  # ParlAI's default one fails with this torch

        def side(*arguments: str) -> Side:
            saved = bench.folder / self.name / "saved"
            command = [sys.executable, "-c", FIRST_STEP, *arguments, *common]

            def start(_number: int) -> Usage:
                shutil.rmtree(saved, ignore_errors=True)  # or it goes on with that
                return run_command([*command, "--model-file", str(saved / "model")])

            return start

        return {
            "ours": lambda: side(
                *("-m", "prosocial", "--backbone", str(base), "--lora-rank", "0"),
                *("-t", "prosocial:Own", "--prosocial-data", str(own)),
            ),
            "peer": lambda: side(
                *("-m", "hugging_face/gpt2", "--model-name", str(base)),
                *("-t", "fromfile:parlaiformat", "--fromfile-datapath", str(lines)),
                *("--fromfile-datatype-extension", "false"),
            ),
        }


@dataclass
class Opening:
    """100,000 rows of own data opened as a task; ParlAI reads its file each time."""

    name: str = "open"
    gpu: bool = False
    cpu: bool = True
    most_pairs: int | None = 3

    @property
    def rows(self) -> list[Row]:
        what, peer = f"own data of {BIG:,} rows, ", "the same rows by fromfile:parlaiformat"
        return [
            Row("open-first", what + "first opening", peer, "first", faster=False, measure="wall"),
            Row(
                "open-second",
                what + "second opening",
                peer,
                "second",
                faster=False,
                measure="wall",
                shown=True,
            ),
            Row(
                "open-memory",
                what + "peak memory of the second opening",
                peer,
                "second",
                faster=False,
                measure="peak",
            ),
        ]

    def same(self, bench: Bench) -> list[Same]:
        return []  # no sums in it

    def sides(self, bench: Bench) -> Makers:
        folder = bench.folder / self.name
        own, lines = folder / "rows.jsonl", folder / "rows.txt"
        if not lines.exists():
            _write_many(bench, own, lines)
        ours = ["-t", "prosocial:Own", "--prosocial-data", str(own)]
        theirs = ["-t", "fromfile:parlaiformat", "--fromfile-datapath", str(lines)]
        theirs += ["--fromfile-datatype-extension", "false"]

        def first(_number: int) -> Usage:
            shutil.rmtree(folder / "first", ignore_errors=True)
            return _open(folder, [*ours, "--datapath", str(folder / "first")])

        def again(arguments: list[str], datapath: Path) -> Side:
            return lambda _number: _open(folder, [*arguments, "--datapath", str(datapath)])

        return {
            "first": lambda: first,
            "second": lambda: again(ours, folder / "second"),
            "peer": lambda: again(theirs, folder / "peer"),
        }


def _write_many(bench: Bench, own: Path, lines: Path) -> None:
    """The bundled rows over and over, each with a number of its own."""
    rows = corpus.rows(bench.datapath, 1000, 1)
    own.parent.mkdir(parents=True, exist_ok=True)
    with open(own, "w", encoding="utf-8") as ours, open(lines, "w", encoding="utf-8") as theirs:
        for number in range(BIG):
            row = rows[number % len(rows)]
            first, *rest = row["context"]
            context = [f"{number}: {first}", *rest]
            ours.write(json.dumps(row | {"context": context}) + "\n")
            text = "\\n".join(context)
            theirs.write(f"text:{text}\tlabels:{row['response']}\tepisode_done:True\n")


def _open(folder: Path, arguments: list[str]) -> Usage:
    """Seconds of opening alone, without imports; the peak is the whole process's."""
    file = folder / "usage.json"
    run_command([sys.executable, "-c", OPEN, str(file), *arguments, "-dt", "train:ordered"])
    return Usage(**json.loads(file.read_text(encoding="utf-8")))
