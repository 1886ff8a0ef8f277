"""``parlai train_model`` and ``multiprocessing_train`` that lose nothing.

ParlAI 1.7.2's training loop saves weights, optimiser and counters, in two files one after the
other, and none of the rest. So a run that was stopped begins its data anew; one that had ended
trains on and empties its ``.trainstats``; SIGTERM leaves nothing; two runs write into one file; and
with several processes ``--seed`` is not used. All of it in every version. What is mended:

- All that a run goes on from is one value in the agent's own state (``run`` in it), written with
  the weights: counters, reports, the data's position, all random states, of every process.
- A run that has ended says so. One that is started again with other settings shows them and stops,
  unless ``--change-settings true``.
- SIGTERM and SIGINT end the run after its step, with a checkpoint.
- One process writes to a model file; others are told which.
- With several processes, ``--seed`` seeds each by its rank.
"""

import functools
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from parlai.core.exceptions import StopTrainException
from parlai.utils import logging

from parlai_prosocial.compat import position as data_position
from parlai_prosocial.compat import processes
from parlai_prosocial.compat.finite import diverged, mend_steps, skipped_in_a_row
from parlai_prosocial.compat.measuring import check_measured, mend_measuring
from parlai_prosocial.compat.position import NoPosition
from parlai_prosocial.compat.run_state import STATE_ATTRIBUTE, mend_agents
from parlai_prosocial.compat.settings import check_settings, limits_of, settings_of, take_up
from parlai_prosocial.compat.trainstats import (
    finished_step,
    is_reached,
    newest,
    read_stats,
    set_torn_aside,
)
from parlai_prosocial.errors import UserError
from parlai_prosocial.util.files import read_json, write_aside
from parlai_prosocial.util.stopping import Signals, Stopped
from parlai_prosocial.util.writer import Writer

COUNTERS = (
    "parleys",
    "_train_steps",
    "_last_log_steps",
    "_total_epochs",
    "last_valid_epoch",
    "_last_valid_steps",
    "impatience",
    "train_reports",
    "valid_reports",
    "best_valid",
    "saved",
)
"""Attributes of ParlAI's loop that decide how it goes on."""


def mend_training(script: ModuleType) -> None:
    """Mend ``parlai.scripts.train_model``, when it is imported."""
    loop = script.TrainLoop
    for name, mended in (
        ("__init__", _init),
        ("save_model", _save_model),
        ("_save_train_stats", _save_train_stats),
        ("validate", _validate),
        ("_get_time", _get_time),
        ("train_steps", _train_steps),
        ("train", _train),
    ):
        setattr(loop, name, _around(getattr(loop, name), mended))
    script.TrainModel.run = _around(script.TrainModel.run, _run)
    mend_measuring(script)
    mend_agents()
    mend_steps()


def mend_many(script: ModuleType) -> None:
    """Mend ``parlai.scripts.multiprocessing_train``, when it is imported."""
    script.MultiProcessTrain.run = _around(script.MultiProcessTrain.run, _run)


def _around(original: Any, mended: Any) -> Any:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return mended(original, self, *args, **kwargs)

    return method


# ParlAI's methods, each with the original before its arguments


def _run(original: Any, self: Any) -> Any:
    """``parlai train_model`` and ``multiprocessing_train``."""

    def at_once(number: int) -> None:
        raise Stopped(number)

    try:
        with Signals(at_once):
            if (step := finished_step(self.opt)) is not None:
                print(f"{self.opt['model_file']}: finished at step {step}; nothing was changed")
                return None
            return original(self)
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        if not stopped.told:
            print("stopped; the same command goes on", flush=True)
        sys.exit(stopped.status)


def _init(original: Any, self: Any, opt: Any) -> None:
    path, self.writer = opt.get("model_file"), None
    if path and processes.is_primary():
        self.writer = Writer(Path(path), "-mf")
    try:
        _resume(original, self, opt)
    except BaseException:
        release(self)
        raise


def _resume(original: Any, self: Any, opt: Any) -> None:
    path, given = opt.get("model_file"), opt.get("init_model")
    source = newest(opt) if path else None
    stats = read_stats(f"{source}.trainstats") or {}
    if before := stats.get("settings"):
        check_settings(path, before, opt)
        take_up(before, opt)
    torn = source is not None and set_torn_aside(f"{source}.trainstats", processes.is_primary())
    self.begun_settings, self.validating = settings_of(opt), False
    self.cut_short, self.ended_by, self.saving = False, None, False
    original(self, opt)
    # Else ParlAI would load the last checkpoint, not the result, when it has trained.
    opt["init_model"] = given
    self._total_epochs = self._preempted_epochs
    self.resumed_from, self.resumed_run = source, None
    if source is None:
        return
    agent = vars(self.agent)
    run = agent.get("resumed_run")
    if run is None and torn:
        raise UserError(
            f"{source}.trainstats: is torn, and {source} does not say how far it is; begin from it "
            "with --init-model and another -mf"
        )
    if run is None and not agent.get("resumed_optimizer", True):
        logging.warning(
            f"{source}: training.pt is missing: goes on without the optimiser's state, and its "
            "data begins anew"
        )
    elif run is None:
        logging.warning(f"{source}: does not say where it stands in its data, which begins anew")
    if run is None:
        return
    if not before:
        check_settings(path, run["settings"], opt)
    for name, value in run["counters"].items():
        setattr(self, name, value)
    self.train_time.total = run["train_time"]
    self.ended_by = run["ended_by"]
    if len(run["ranks"]) == processes.world_size():
        self.resumed_run = run["ranks"][processes.rank()]
    else:
        logging.warning(
            f"{source}: {len(run['ranks'])} processes trained it, now {processes.world_size()}: "
            "its data begins anew"
        )


def _save_model(original: Any, self: Any, suffix: str | None = None) -> None:
    """One value with all that the run goes on from goes into the agent's file."""
    if skipped_in_a_row(self.agent):  # the weights may be the cause
        if suffix is None:
            raise UserError(diverged(self.agent))
        return
    run = _state(self, is_result=suffix is None)
    setattr(self.agent, STATE_ATTRIBUTE, run)
    self.saving = True
    try:
        original(self, suffix)
    finally:
        self.saving = False
        delattr(self.agent, STATE_ATTRIBUTE)


def _state(self: Any, is_result: bool) -> dict[str, Any]:
    from parlai_prosocial.models.checkpoint import plain_state

    own: dict[str, Any] = {
        "started": self.started,
        "random": data_position.random_states(),
        "position": None,
    }
    try:
        if self.cut_short:
            raise NoPosition("its last step was cut short by the end of its schedule")
        own["position"] = data_position.position_of(self.world)
    except NoPosition as error:
        own["why"] = str(error)
    counters = {name: getattr(self, name) for name in COUNTERS}
    ends = is_result and not self.validating
    if self.validating:  # as they will be when the validation has been dealt with
        counters |= {
            "last_valid_epoch": self._total_epochs,
            "_last_valid_steps": self._train_steps,
            "saved": self.saved or is_result,
        }
    return plain_state(
        {
            "settings": self.begun_settings,
            "counters": counters,
            "train_time": self.train_time.time(),
            "ended_by": limits_of(self.begun_settings) if ends else None,
            "ranks": processes.gathered(own),
        }
    )


def _save_train_stats(original: Any, self: Any, suffix: str | None = None) -> None:
    """Written whole: ParlAI empties the file before it knows what to write.

    It is written with the weights and once more when training has ended, when the weights may be
    of an earlier step, the best: ``weights_step`` says which.
    """
    path = self.opt.get("model_file")
    if not path or not processes.is_primary():
        return
    file = Path(f"{path}{suffix or ''}.trainstats")
    aside = f".{os.getpid()}.part"
    # ParlAI writes it; its name is that of the model, with an ending that is ours.
    original(self, (suffix or "") + aside)
    written = Path(f"{path}{suffix or ''}{aside}.trainstats")
    stats = read_json(written) | {"settings": self.begun_settings}
    if self.saving:
        stats["weights_step"] = self._train_steps
    elif "weights_step" in (before := read_stats(str(file)) or {}):
        stats["weights_step"] = before["weights_step"]
    write_aside(file, json.dumps(stats, indent=4))
    written.unlink()


def _validate(original: Any, self: Any) -> bool:
    self.validating = True
    try:
        return original(self)
    finally:
        self.validating = False


def _get_time(original: Any, self: Any, world: Any) -> tuple[float, float, float, float]:
    """Called after every step: the place to stop, and all processes' clocks agree on a save."""
    train_time, log_time, validate_time, save_time = original(self, world)
    number = self.signals.number
    if processes.world_size() > 1:
        number, save_time = processes.agreed(number, save_time)
    if self.parleys % self.update_freq:
        save_time = 0.0  # gradients of half a step cannot be saved
    elif number:
        self.save_model(".checkpoint")
        raise _stopped(self, number)
    return train_time, log_time, validate_time, save_time


def _train_steps(original: Any, self: Any) -> Iterator[Any]:
    if ended := self.ended_by == limits_of(self.begun_settings):
        self.saved = True  # nothing will have changed
        self.resumed_run = None
    _begin(self)
    seconds = self.train_time.time()
    if ended or is_reached(self.opt, self._train_steps, self._total_epochs, seconds):
        # ParlAI takes a step before it looks at its limits.
        self.world.parley = _no_step
    else:
        self.world.parley = functools.partial(_last_step_counts, self, self.world.parley)
    with Signals() as self.signals:
        yield from original(self)
    if self.signals.number:
        raise _stopped(self, self.signals.number)


def _last_step_counts(self: Any, parley: Any) -> None:
    """A schedule of learning rates ends training by an exception, after the weights were updated.

    ParlAI then does not count that step, and what comes after it in a step is not done: the
    world is between two places.
    """
    try:
        parley()
    except StopTrainException:
        self.cut_short = True
        self.parleys += 1
        self._train_steps = self.parleys // self.update_freq
        raise


def _stopped(self: Any, number: int) -> Stopped:
    if processes.is_primary():
        print(f"stopped at step {self._train_steps}; the same command goes on", flush=True)
    return Stopped(number, told=True)


def _no_step() -> None:
    raise StopTrainException("a limit that was reached before")


def _train(original: Any, self: Any) -> Any:
    def at_once(number: int) -> None:  # before and after the steps, when all is on disk
        raise _stopped(self, number)

    try:
        with Signals(at_once):
            check_measured(self.opt)
            return original(self)
    finally:
        release(self)


def release(self: Any) -> None:
    """Let others write to the model file of a training loop that has ended."""
    if self.writer is not None:
        self.writer.release()


def _begin(self: Any) -> None:
    """Take up the data and the random states, or set them for a run that begins."""
    from parlai.scripts.train_model import set_seed

    seed = self.opt.get("seed")
    if processes.world_size() > 1 and seed is not None:
        # ParlAI seeds torch with 42 in each process, and Python's generator, which draws the
        # examples, not at all.
        set_seed(seed + processes.rank())
    run, self.resumed_run = self.resumed_run, None
    if run is None:
        self.started = data_position.random_states()
        return
    self.started = run["started"]
    if not _take_position(self, run) and self.opt.get("num_workers", 0) > 0:
        logging.warning("--num-workers: the order of examples cannot be repeated; it begins anew")
    data_position.set_random_states(run["random"])


def _take_position(self: Any, run: dict[str, Any]) -> bool:
    """Put the data where it was, else draw it again; False where neither can be done."""
    reason = run.get("why", "")
    if run["position"] is not None:
        try:
            data_position.set_position(self.world, run["position"])
        except NoPosition as error:
            if not self.opt.get("change_settings"):
                raise UserError(
                    f"{self.resumed_from}: cannot go on: {error}; give what it had, or "
                    "--change-settings true to begin the data anew"
                ) from None
            logging.warning(f"{self.resumed_from}: its data begins anew: {error}")
            return True
        self._preempted_epochs = 0.0  # the world counts them itself
        return True
    if self.opt.get("num_workers", 0) > 0:
        return False
    logging.warning(
        f"drawing {self.parleys} batches again without training on them, to get where "
        f"{self.resumed_from} stopped: {reason}"
    )
    data_position.set_random_states(run["started"])
    data_position.replay(self.world, self.agent, self.parleys)
    self._preempted_epochs = 0.0
    if not data_position.same_choices(data_position.random_states(), run["random"]):
        logging.warning("the data could not be drawn again as it was; it goes on nearly there")
    return True
