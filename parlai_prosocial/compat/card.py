"""Repairs of ``parlai generate_model_card``, so that it describes our models.

Called by :func:`parlai_prosocial.compat.patches.apply`. All faults are in ParlAI 1.7.2's own
script, with any libraries.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def mend(script: Any) -> None:
    """Mend ``parlai.scripts.generate_model_card``."""
    card = script.GenerateModelCard
    # The options say "Nov26_01-19", where 01 is the hour: it takes that for the year.
    script.model_details_struct[:] = [x for x in script.model_details_struct if x[0] != "starttime"]
    card._add_user_model_tasks = _add_models_and_tasks
    card.save_data_stats = _with_flags(card.save_data_stats, "data_stats", "obtain_stats")
    card.save_eval = _with_flags(card.save_eval, "eval_model", "eval_model")
    card._set_validation_metric = _with_perplexity(card._set_validation_metric)
    card.save_sample = _with_all_options(card.save_sample)
    script.format_io = _format_fields(script.format_io)


def _add_models_and_tasks(self: Any) -> None:
    """Its own refuses models that its list does not have, and takes them for tasks, too."""
    from parlai.scripts import generate_model_card as script

    given = self.get_args({"extra_models": {}, "extra_tasks": {}})
    for known, added in (
        (script.all_models, given["extra_models"]),
        (script.all_tasks, given["extra_tasks"]),
    ):
        for name, facts in added.items():
            known.setdefault(name, {}).update(facts)


def _with_flags(method: Callable, module: str, function: str) -> Callable:
    """It runs other scripts without the flags of the task and of the agent: a KeyError there."""

    @functools.wraps(method)
    def run(self: Any) -> Any:
        from parlai.scripts import generate_model_card as script

        with _completed(getattr(script, module), function, self):
            return method(self)

    return run


def _with_all_options(method: Callable) -> Callable:
    """It wants every option of training in the model's file, where a zoo model has few."""

    @functools.wraps(method)
    def run(self: Any) -> Any:
        own = self.model_opt
        self.model_opt = _complete({"task": self.train_tasks[0]}, self)
        try:
            return method(self)
        finally:
            self.model_opt = own

    return run


def _with_perplexity(method: Callable) -> Callable:
    """It asks at the terminal where the metric of training was not measured, until it gets one."""

    @functools.wraps(method)
    def run(self: Any) -> None:
        metrics = {name.split("/")[-1] for name in self.eval_results}
        if self.model_opt.get("validation_metric") not in metrics and "ppl" in metrics:
            self.model_opt["validation_metric"] = "ppl"
        method(self)

    return run


@contextmanager
def _completed(module: ModuleType, function: str, script: Any) -> Iterator[None]:
    original = getattr(module, function)
    setattr(module, function, lambda opt: original(_complete(opt, script)))
    try:
        yield
    finally:
        setattr(module, function, original)


def _complete(opt: Mapping[str, Any], script: Any) -> Any:
    """The options, with the flags of task and agent as in training, else as the script has them."""
    from parlai.core.opt import Opt
    from parlai.core.params import ParlaiParser

    flags = ParlaiParser(True, False).parse_args(["--task", opt["task"]])
    return Opt({**flags, **script.opt, **script.model_opt, **opt})


def _format_fields(original: Callable) -> Callable:
    """Its own joins lists of numbers as if they were text."""

    @functools.wraps(original)
    def format_io(sample: Mapping[str, Any], keys: Any) -> list[str]:
        plain = {
            key: [str(item) for item in value] if isinstance(value, list) else value
            for key, value in sample.items()
        }
        return original(plain, keys)

    return format_io
