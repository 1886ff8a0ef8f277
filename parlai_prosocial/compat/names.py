"""ParlAI's names of agents, tasks and model files: a mistyped one ends in one line.

ParlAI imports whatever a name spells, and shows the traceback of the failed import. The ``parlai``
command is mended before it reads a name (``startup/``); ``python -m parlai.scripts...`` from the
moment that something of ours is imported, so ``-t diasafety -m prosocail`` is told there, and
``-m prosocail`` beside ParlAI's own tasks is not: nothing of ours runs in that process. Needed in
all versions of ParlAI.
"""

import functools
import pkgutil
import sys
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from parlai_prosocial.compat.importing import replace_everywhere
from parlai_prosocial.errors import UsageError
from parlai_prosocial.util.closest import did_you_mean

PREFIX = "zoo:prosocial/"  # of `zoo`, which builds on this room

AGENTS = ("prosocial", "prosocial/classifier", "prosocial/transformer")
TASKS = ("diasafety", "mic", "prosocial", "self_dialogue")
"""Ours, which an editable installation does not list in ParlAI's folders."""


@functools.cache
def mend() -> None:
    """Give ParlAI loaders that name a mistake, once a process."""
    from parlai.core import agents, build_data, loader

    replaced = (
        (loader.load_agent_module, _with_agent_named),
        (loader.load_teacher_module, _with_task_named),
        (build_data.modelzoo_path, _of_either_form),
        (agents.create_agent, _with_file_named),
    )
    for original, replacement in replaced:
        replace_everywhere(original, replacement(original))
    for name, module in sys.modules.items():
        if name.startswith("parlai.tasks.") and name.endswith(".agents"):
            # ParlAI is loading a task of ours right now, by the function that was replaced.
            module.__getattr__ = functools.partial(_no_teacher, module)  # type: ignore


def _with_agent_named(load: Callable) -> Callable:
    @functools.wraps(load)
    def load_agent_module(agent_path: str) -> Any:
        try:
            return load(agent_path)
        except ModuleNotFoundError as error:
            asked = [
                *accumulate(agent_path.split("/"), "{}.{}".format),
                f"{agent_path}.{agent_path}",
            ]
            if error.name not in [f"parlai.agents.{name}" for name in asked]:
                raise  # the agent is there, and lacks something
            hint = did_you_mean(agent_path, [*AGENTS, *_listed("parlai.agents")])
        raise UsageError(f"--model {agent_path}: ParlAI has no such agent{hint}")

    return load_agent_module


def _with_task_named(load: Callable) -> Callable:
    @functools.wraps(load)
    def load_teacher_module(taskname: str) -> Any:
        try:
            return load(taskname)
        except ModuleNotFoundError as error:
            task = taskname.partition(":")[0]
            module = f"parlai.tasks.{task.lower()}"
            if error.name not in (module, f"{module}.agents"):
                raise
            hint = did_you_mean(task, [*TASKS, *_listed("parlai.tasks")])
        except AttributeError as error:
            if not isinstance(error.obj, ModuleType) or not str(error.name).endswith("Teacher"):
                raise
            _no_teacher(error.obj, str(error.name))
        raise UsageError(f"--task {taskname}: ParlAI has no such task{hint}")

    return load_teacher_module


def _no_teacher(module: ModuleType, name: str) -> NoReturn:
    """Refuse a teacher that a module of ``parlai.tasks`` lacks; a module's ``__getattr__``."""
    if not name.endswith("Teacher"):
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}", name=name)
    task = module.__name__.split(".")[-2]
    asked = f"{task}:{name.removesuffix('Teacher')}"
    variants = [f"{task}:{variant}" for variant in _variants(module)]
    hint = did_you_mean(asked, variants) or f"; there are {', '.join(variants)}"
    raise UsageError(f"--task {asked}: ParlAI has no such task{hint}")


def _of_either_form(find: Callable) -> Callable:
    """``zoo:prosocial/NAME`` is ``zoo:prosocial/NAME/model``, as in our own commands.

    Not in ``python -m parlai.scripts...`` where it is all that is named of ours: it is resolved
    before anything of ours is imported.
    """

    @functools.wraps(find)
    def modelzoo_path(datapath: str, path: str | None) -> str | None:
        is_short = path is not None and path.startswith(PREFIX) and path.count("/") == 1
        return find(datapath, f"{path}/model" if is_short else path)

    return modelzoo_path


def _with_file_named(create: Callable) -> Callable:
    @functools.wraps(create)
    def create_agent(opt: Any, requireModelExists: bool = False) -> Any:
        try:
            return create(opt, requireModelExists)
        except RuntimeError as error:
            if not str(error).startswith("WARNING: Model file does not exist"):
                raise
            file = Path(opt["model_file"])
        folder = file.parent
        beside = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        hint = did_you_mean(file.name, beside)
        raise UsageError(f"--model-file {file}: no such file{hint}")

    return create_agent


def _listed(package: str) -> Iterable[str]:
    return [module.name for module in pkgutil.iter_modules(sys.modules[package].__path__)]


def _variants(module: ModuleType) -> list[str]:
    """A task module's own teachers, as ``-t`` names them."""
    return sorted(
        name.removesuffix("Teacher")
        for name, kind in vars(module).items()
        if isinstance(kind, type)
        and name.endswith("Teacher")
        and kind.__module__ == module.__name__
        and not name.startswith(("_", "Default"))
    )
