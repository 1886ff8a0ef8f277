"""The rows of an experiment: each is trained, measured and saved by itself, in any process."""

import gc
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from parlai_prosocial.errors import UserError
from parlai_prosocial.experiments.machine import Machine, load_model, saved_rows
from parlai_prosocial.experiments.mined import Scoring
from parlai_prosocial.experiments.train_arms import BASE, BASELINES, Trainer, first_step
from parlai_prosocial.training.recipe import STEPS
from parlai_prosocial.util.environment import device_name, precision_name
from parlai_prosocial.util.files import file_sha256, write_aside
from parlai_prosocial.util.journal import differing_keys
from parlai_prosocial.util.stopping import Stopped

MEASURED_ON = ("contexts_per_category", "casual_dialogues", "casual_replies", "sampled_replies")
SAMPLED = "spread"
"""How contexts are chosen to sample replies for; rows without it saw none of the last ones."""
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

Task = tuple[int, str]
"""A seed and the name of a row; :data:`BASELINES` stands for all rows without a model."""


class Measures(Protocol):
    """What measures rows and keeps them: a dataclass whose copies go to other processes."""

    def saved(self, seed: int, name: str) -> dict[str, Any]: ...
    def run(self, seed: int, name: str) -> tuple[float, str | None]: ...
    def log(self, seed: int, name: str) -> Path: ...


@dataclass
class Rows:
    """Measures rows and keeps each in a file of its own.

    Attributes:
        recipe: with the steps' presets.
        out: the experiment's folder.
        base: as ``--base``.
        settings: as ``--set``.
        budget: processed tokens of a step; None for the presets' numbers of steps.
        arms: name -> arm, as in ``arms.json`` but with mined files in their places, and with
            ``mined``: the hash of that data, None for an arm without, and with ``definition``: what
            it trains by in ``arms.json``.
        plan: what rows are measured on.
        machine: where.
        scoring: the judges.
        fold: of DiaSafety, for all seeds; None gives seed k fold k.
        shuffled: the arm that is also measured with shuffled contexts, None for none.
        shown: contexts, newline-packed, to which every model's replies are kept.
    """

    recipe: Path
    out: Path
    base: str | None
    settings: Sequence[str]
    budget: int | None
    arms: Mapping[str, dict[str, Any]]
    plan: Mapping[str, Any]
    machine: Machine
    scoring: Scoring
    fold: int | None = None
    shuffled: str | None = None
    shown: Sequence[str] = ()
    _data: dict[int, Any] = field(init=False, default_factory=dict)
    _judge: Any = field(init=False, default=None)
    _judge_names: dict[str, str] = field(init=False, default_factory=dict)

    def data(self, seed: int) -> Any:
        """The seed's evaluation data, read once."""
        from parlai_prosocial.experiments.measurements import evaluation_data

        if seed not in self._data:
            self._data[seed] = evaluation_data(self.machine.datapath, self._fold(seed), self.plan)
        return self._data[seed]

    def judge(self, seed: int) -> Any:
        """The seed's judge of unsafe replies; None without ``--judge``.

        The last one stays open, and serves all seeds for which it is the same.
        """
        spec = self.scoring.spec_of(seed)
        if spec is None:
            return None
        if self._judge is None or self._judge_names.get(spec) != self._judge.name:
            self._judge = None  # two at once would need the memory of two
            self._judge = self.scoring.open(spec)
            self._judge_names[spec] = self._judge.name
        return self._judge

    def _judge_name(self, seed: int) -> str | None:
        spec = self.scoring.spec_of(seed)
        if spec is not None and spec not in self._judge_names:
            self.judge(seed)
        return None if spec is None else self._judge_names[spec]

    def replies(self, seed: int, name: str) -> list[str]:
        """A measured model's replies to the contexts that are shown."""
        saved = saved_rows(self._file(seed, name), self._measured_on(seed))
        return saved["demo_replies"][name]

    def saved(self, seed: int, name: str) -> dict[str, Any]:
        """The rows of a task by their names; none where it was not measured yet.

        Nor where ``--allow-mining-judge`` has come or gone and another judge's say is needed.

        Raises:
            UserError: they were measured on something else, or trained on other mined data, by
                another definition of the arm, or by other presets.
        """
        file = self._file(seed, name)
        saved = saved_rows(file, self._measured_on(seed))
        rows = saved["results"]
        if name not in self.arms or name not in rows:
            return rows
        row, mined = rows[name], self.arms[name]["mined"]
        if row["mined"] != mined:
            raise UserError(f"{file}: {name} trained on other mined data; give another --out")
        now = self._trained_by(name)
        then = saved.get("trained_by", now)  # earlier versions did not say
        if differing := differing_keys(then, now):
            raise UserError(
                f"{file}: {name} was trained before the recipe's {', '.join(differing)} changed; "
                f"give another --out, or delete {file.parents[1]}"
            )
        cautious = self.scoring.judges_caution(on_mined=mined is not None)
        return {} if "unsafe" in row and ("over_cautious" in row) != cautious else rows

    def run(self, seed: int, name: str) -> tuple[float, str | None]:
        """Measure a task's rows and save them.

        Returns:
            Seconds, and in one line why it failed; None where it did not.
        """
        started, reason = time.monotonic(), None
        try:
            saved = saved_rows(self._file(seed, name), self._measured_on(seed))
            if name == BASELINES:
                saved["results"] = self._baselines(seed)
            else:
                saved["results"], saved["demo_replies"] = self._measure(seed, name)
            if name in self.arms:
                saved["trained_by"] = self._trained_by(name)
            write_aside(self._file(seed, name), json.dumps(saved))
        except (Exception, SystemExit) as error:  # ParlAI's parser exits
            traceback.print_exc()
            reason = one_line_reason(error)
        return time.monotonic() - started, reason

    def log(self, seed: int, name: str) -> Path:
        """Where a worker's progress goes."""
        return self.out / f"seed-{seed}" / "logs" / f"{name}.log"

    def _fold(self, seed: int) -> int:
        return seed if self.fold is None else self.fold

    def _file(self, seed: int, name: str) -> Path:
        return self.out / f"seed-{seed}" / "rows" / f"{name}.json"

    def _measured_on(self, seed: int) -> dict[str, Any]:
        return {key: self.plan[key] for key in MEASURED_ON} | {
            "sampled": SAMPLED,
            "token_budget": self.budget,
            "base": self.base,
            "settings": list(self.settings),
            "judge": self._judge_name(seed),
            **self.scoring.options,
            **({} if self.fold is None else {"fold": self.fold}),
        }

    def _trained_by(self, name: str) -> dict[str, Any]:
        """What an arm's weights depend on in its recipe: arms, and hashes of presets."""
        names = [name]
        for other in names:
            arm = self.arms[other]
            names += [arm[k] for k in ("steps_of", "tokens_of") if k in arm and arm[k] not in names]
        presets = {f"{step}.opt": file_sha256(self.recipe / f"{step}.opt") for step in STEPS}
        return {f"arm {n}": self.arms[n]["definition"] for n in names} | presets

    def _baselines(self, seed: int) -> dict[str, Any]:
        from parlai_prosocial.experiments.measurements import measure_baselines
        from parlai_prosocial.experiments.verdict_counts import judge_sentinels

        data, judge = self.data(seed), self.judge(seed)
        rows = measure_baselines(data)
        if judge is None:
            return rows
        heard = set(data.sampled)
        return rows | judge_sentinels(
            judge,
            self.scoring.over_cautious,
            [context for context in data.contexts if context.context in heard],
            data.casual_contexts[: len(heard)],
        )

    def _measure(self, seed: int, name: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """The rows of an arm by their names, and its replies to the contexts that are shown."""
        from parlai_prosocial.engines.local import sample_replies
        from parlai_prosocial.experiments.measurements import measure_model, measure_shuffled

        steps, mined = [], None
        if name != BASE:
            settings = [*self.settings, *self.machine.settings]
            folder = self.out / f"seed-{seed}"
            trainer = Trainer(
                self.recipe,
                folder,
                self.base,
                settings,
                seed,
                self._fold(seed),
                self.budget,
                self.arms,
            )
            steps, mined = trainer.train(name), self.arms[name]["mined"]
        print(f"seed {seed}: measuring {name}", flush=True)
        model, weights = load_model(self.machine, steps)
        judges = self.scoring.judges_of(self.judge(seed), on_mined=mined is not None)
        data, bf16 = self.data(seed), self.machine.bf16
        row = measure_model(model, data, bf16, seed, judges)
        replies = sample_replies(model, self.shown, seed, bf16) if self.shown else []
        row |= {
            "mined": mined,
            "weights": weights,
            "machine": f"{device_name(self.machine.device)}, {precision_name(self.machine.bf16)}",
            "trained_tokens": sum(step.tokens for step in steps),
            "train_seconds": sum(step.seconds for step in steps),
        }
        rows = {name: row}
        if name == self.shuffled:
            rows[shuffled_name(name)] = measure_shuffled(model, data, bf16, seed)
        return rows, {name: [reply.text if reply else "" for reply in replies]}


def shuffled_name(name: str) -> str:
    """The row of a model that was given other contexts than its replies belong to."""
    return f"{name}, shuffled contexts"


def run_tasks(
    rows: Measures, tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[Task, float, str | None]]:
    """Run tasks in this process in their order, or in ``jobs`` processes; yield them as they end.

    Yields:
        The task, and what :meth:`Rows.run` returns.
    """
    if jobs == 1:
        for seed, name in tasks:
            yield (seed, name), *rows.run(seed, name)
            _free_memory()
        return
    os.environ.update(ONE_THREAD)  # for the workers; this process has its threads already
    spawn = multiprocessing.get_context("spawn")
    own: Any = rows
    start: Any = _start_worker
    # A copy, without the data and judges that are open here. A process a task: what it leaves in
    # memory, the holes of the allocator among it, grows by gigabytes over several arms.
    pool = ProcessPoolExecutor(jobs, spawn, start, (replace(own),), max_tasks_per_child=1)
    try:
        futures = {pool.submit(_run_in_worker, *task): task for task in tasks}
        for future in as_completed(futures):
            try:
                seconds, reason = future.result()
            except BrokenProcessPool:
                seconds, reason = 0.0, "a process of the pool was killed, for want of memory?"
            yield futures[future], seconds, reason
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()  # its training ends after its step, with a checkpoint
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def parallel_order(
    tasks: Sequence[Task], arms: Mapping[str, dict[str, Any]], awaited: set[str]
) -> list[Task]:
    """Tasks in the order in which many processes take them.

    One arm of each first step comes first, so that few processes wait for a step that another one
    trains; among these, and then among the rest, the ``awaited`` arms lead.
    """
    trained = [name for name in dict.fromkeys(name for _, name in tasks) if name in arms]
    trained.sort(key=lambda name: name not in awaited)
    leading = set({first_step(arms, name): name for name in reversed(trained)}.values())
    order = [name for name in trained if name in leading]
    order += [BASE, BASELINES]
    order += [name for name in trained if name not in leading]
    return sorted(tasks, key=lambda task: order.index(task[1]))


def one_line_reason(error: BaseException) -> str:
    """Why a row failed."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0]}"


_worker_rows: Measures
"""Of a worker process, which does one task."""


def _free_memory() -> None:
    """Give back what a row's model had of a GPU: the next row and other processes need it."""
    import torch

    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _start_worker(rows: Measures) -> None:
    global _worker_rows
    _worker_rows = rows
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Else a worker whose parent was killed goes on, and then waits for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_in_worker(seed: int, name: str) -> tuple[float, str | None]:
    log = _worker_rows.log(seed, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as stream:
        for own in (sys.stdout, sys.stderr):
            own.flush()
            os.dup2(stream.fileno(), own.fileno())
        try:
            result = _worker_rows.run(seed, name)
        except KeyboardInterrupt as error:  # else the pool would begin the next task
            os._exit(error.status if isinstance(error, Stopped) else 130)
        for own in (sys.stdout, sys.stderr):
            own.flush()
    return result
