"""The turns of any ParlAI task, each with its whole history, and the longest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parlai_prosocial.compat import patches as compat
from parlai_prosocial.compat.flags import parse_setting
from parlai_prosocial.data.example import ROT_PREFIX
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.errors import UserError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Turn:
    """One message of a task.

    Attributes:
        context: its lines from the episode's begin on, the user's turn last; persona and
            knowledge lines included, rules of thumb left out.
        labels: the replies that fit, at least one.
        rots, safety_label, contrast_group, source: as in the message; empty or None without.
    """

    context: tuple[str, ...]
    labels: tuple[str, ...]
    rots: tuple[str, ...]
    safety_label: str | None
    contrast_group: str
    source: str

    @property
    def text(self) -> str:
        """The context as ParlAI packs it."""
        return "\n".join(self.context)

    @property
    def key(self) -> str:
        """Equal for turns of the same context."""
        return normalise_text(" ".join(self.context))


def task_turns(task: str, split: str, datapath: str, settings: Sequence[str] = ()) -> list[Turn]:
    """All turns of a task that have a reply, in ParlAI's own order, through its own loaders.

    Args:
        task: what ``-t`` takes; several with commas between.
        split: ``train``, ``valid`` or ``test``.
        datapath: ParlAI's data path.
        settings: ``key=value`` of the task's own flags.

    Raises:
        UserError: no such task, a setting without ``=``, or no turn.
    """
    from parlai.core.opt import Opt
    from parlai.core.params import ParlaiParser
    from parlai.core.teachers import create_task_agent_from_taskname

    compat.apply()
    arguments = ["--task", task, "--datatype", ordered(split), "--datapath", datapath]
    for setting in settings:
        key, value = parse_setting(setting)
        arguments += ["--" + key, value]
    try:
        opt = ParlaiParser(True, False).parse_args(arguments)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--task {task}: ParlAI finds no such task ({error})") from None
    turns = []
    for name in task.split(","):
        # A teacher may write into its options.
        for teacher in create_task_agent_from_taskname(Opt({**opt, "task": name})):
            turns += turns_of(teacher, name)
    if not turns:
        raise UserError(f"--task {task}: no turn of {split} has a text and a reply")
    return turns


def ordered(split: str) -> str:
    """ParlAI's name of a split that is read once and in order."""
    return "train:evalmode" if split == "train" else split


def turns_of(teacher: Any, name: str) -> list[Turn]:
    """All turns of a ParlAI teacher that have a reply, in its order; ``name`` is its task's."""
    turns = []
    history: list[str] = []
    while not teacher.epoch_done():
        act = teacher.act()
        lines = [line.strip() for line in (act.get("text") or "").split("\n")]
        rots = [x.removeprefix(ROT_PREFIX) for x in lines if x.startswith(ROT_PREFIX)]
        history += [line for line in lines if line and not line.startswith(ROT_PREFIX)]
        labels = [x for x in act.get("labels", act.get("eval_labels", ())) if x.strip()]
        if history and labels:
            turns.append(
                Turn(
                    context=tuple(history),
                    labels=tuple(labels),
                    rots=tuple(act.get("rots") or rots),
                    safety_label=act.get("safety_label"),
                    contrast_group=act.get("contrast_group", ""),
                    source=act.get("source", name),
                )
            )
        history += [" ".join(labels[0].split())] if labels else []
        if act.get("episode_done"):
            history = []
    return turns


def spread(count: int, limit: int | None) -> list[int]:
    """``limit`` indices below ``count``, evenly apart; all of them if there are no more.

    >>> spread(10, 4), spread(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def chunked(texts: Sequence[str], size: int) -> list[list[int]]:
    """Indices of texts in chunks of like length, the longest first.

    The chunks depend on the texts alone, so a run that goes on has the same ones. Longest first:
    memory runs out at once or never, and the time left is not underestimated.

    >>> chunked(["a", "ccc", "bb"], 2)
    [[1, 2], [0]]
    """
    order = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i))
    return [order[start : start + size] for start in range(0, len(order), size)]
