"""What ``parlai train_model`` measures on where own data has no rows for it.

ParlAI 1.7.2 measures on every task of a mixture, valid and test, and first looks for their examples
when it has trained. Own data may hold rows of ``train`` alone, as mined files do: a mixture is then
measured on its other tasks, and where none is left that is said before the first step.
"""

from typing import Any

from parlai.core.opt import Opt
from parlai.utils import logging

from parlai_prosocial.errors import EmptySplit

PARTS = ("valid", "test")
"""What ParlAI's training measures on when it has ended."""


def mend_measuring(script: Any) -> None:
    """Mend ``parlai.scripts.train_model``: worlds to measure in, and the names of their tasks."""
    load_eval_worlds, run_eval = script.load_eval_worlds, script.TrainLoop._run_eval

    def load(agent: Any, opt: Any, datatype: str) -> list[Any]:
        return load_eval_worlds(agent, _with_tasks(opt, measured_tasks(opt, datatype)), datatype)

    def run(self: Any, worlds: list[Any], opt: Any, *args: Any, **kwargs: Any) -> Any:
        # ParlAI counts the worlds along all tasks.
        opt = _with_tasks(opt, [world.opt["task"] for world in worlds])
        return run_eval(self, worlds, opt, *args, **kwargs)

    script.load_eval_worlds = load
    script.TrainLoop._run_eval = run


def check_measured(opt: Any) -> None:
    """Say before the training what would end it after its last step.

    Raises:
        UserError: no task has an example of valid, or of test.
    """
    for part in PARTS:
        measured_tasks(opt, part)


def measured_tasks(opt: Any, datatype: str) -> list[str]:
    """The tasks that training measures on: all, but of a mixture those with examples.

    Raises:
        UserError: own data has no example of ``datatype``, and no other task is there.
    """
    from parlai.core.teachers import create_task_agent_from_taskname

    tasks = (opt.get("evaltask") or opt["task"]).split(",")
    if not opt.get("prosocial_data"):
        return tasks  # only own data may lack a part
    found, empty = [], None
    for task in tasks:
        try:
            [teacher] = create_task_agent_from_taskname(
                Opt({**opt, "task": task, "datatype": datatype})
            )
            teacher.num_examples()  # a stream's are looked for here
        except EmptySplit as error:
            empty = error
        else:
            found.append(task)
    if empty is None:
        return tasks
    if not found:
        raise EmptySplit(
            f"{empty}. parlai train_model measures on valid and test: give rows of both by a "
            "column split, or another task to measure on, as --evaltask self_dialogue"
        )
    logging.warning(f"{empty}: {datatype} is measured on {', '.join(found)} alone")
    return found


def _with_tasks(opt: Any, tasks: list[str]) -> Any:
    opt = opt.copy()
    opt["evaltask"] = ",".join(tasks)
    return opt
