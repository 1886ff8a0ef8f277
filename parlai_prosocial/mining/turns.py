"""The turns of any ParlAI task, each with its whole history, and the longest first."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from parlai_prosocial.compat import patches as compat
from parlai_prosocial.compat.flags import check_flags, ordered, parse_setting
from parlai_prosocial.data.example import CASUAL, ROT_PREFIX, SYSTEM_LINE_PREFIXES, message_lines
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.errors import UserError
from parlai_prosocial.util.batches import spread


@dataclass(frozen=True)
class Turn:
    """One message of a task.

    Attributes:
        context: its lines from the episode's begin on, the user's turn last; persona and
            knowledge lines included, rules of thumb left out.
        labels: the replies that fit, at least one.
        rots, safety_label, contrast_group, source, negatives, negative_weights: as in the message;
            empty or None without.
    """

    context: tuple[str, ...]
    labels: tuple[str, ...]
    rots: tuple[str, ...]
    safety_label: str | None
    contrast_group: str
    source: str
    # Not in turns_sha256, which says whether a journal was made from the same turns.
    negatives: tuple[str, ...] = field(default=(), repr=False)
    negative_weights: tuple[float, ...] = field(default=(), repr=False)

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
        opt = check_flags(ParlaiParser(True, False), arguments)
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


def _beginning(lines: list[str]) -> list[str]:
    """Without the empty turns before the first that says something; a persona says nothing."""
    says = [bool(x) and not x.lower().startswith(SYSTEM_LINE_PREFIXES) for x in lines]
    return [x for i, x in enumerate(lines) if x or any(says[:i])]


def turns_of(teacher: Any, name: str) -> list[Turn]:
    """All turns of a ParlAI teacher that have a reply, in its order; ``name`` is its task's."""
    turns = []
    history: list[str] = []
    while not teacher.epoch_done():
        act = teacher.act()
        lines = message_lines(act.get("text") or "")
        rots = [x.removeprefix(ROT_PREFIX) for x in lines if x.startswith(ROT_PREFIX)]
        said = [line for line in lines if not line.startswith(ROT_PREFIX)]
        history += said if history else _beginning(said)
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
                    negatives=tuple(act.get("negatives", ())),
                    negative_weights=tuple(act.get("negative_weights", ())),
                )
            )
        history += [" ".join(labels[0].split())] if labels else []
        if act.get("episode_done"):
            history = []
    return turns


def turns_sha256(turns: Sequence[Turn]) -> str:
    """Of all that the turns hold."""
    return hashlib.sha256(repr(list(turns)).encode("utf-8")).hexdigest()


class Contexts:
    """The distinct contexts of some turns, in order.

    Args:
        turns: of a task.
        limit: most contexts, evenly spread over the task; None for all.
        casual: contexts without a safety label are casual.

    Attributes:
        turns: for each context the turns that have it.
        casual: whether each is casual, by its first turn.
        texts: each as ParlAI packs it.
    """

    def __init__(self, turns: Sequence[Turn], limit: int | None = None, casual: bool = False):
        groups: dict[str, list[Turn]] = {}
        for turn in turns:
            groups.setdefault(turn.key, []).append(turn)
        every = list(groups.values())
        self.turns = [every[i] for i in spread(len(every), limit)]
        labels = [group[0].safety_label for group in self.turns]
        self.casual = [x == CASUAL or (x is None and casual) for x in labels]
        self.texts = [group[0].text for group in self.turns]

    def sha256(self) -> str:
        """Of all that the output depends on."""
        digest = hashlib.sha256(repr((self.turns, self.casual)).encode("utf-8"))
        return digest.hexdigest()
