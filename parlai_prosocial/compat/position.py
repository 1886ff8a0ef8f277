"""Where a training run stands in its data, so that another process can go on from there.

ParlAI saves a model and how many steps it took, not which examples it has seen: a run that was
stopped begins its data anew. :func:`position_of` writes down what decides the examples to come:
which episode and turn each teacher is at, what each copy of the agent remembers of its dialogue,
and which task comes next. All of it is plain numbers and texts. ParlAI 1.7.2, every version.

Worlds and teachers that keep more than that (streams, dynamic batches, mutators, teachers with
their own way of choosing examples) cannot be put anywhere; they raise :class:`NoPosition`, and
:func:`replay` draws their examples again without training on them.
"""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from parlai.core.message import Message
from parlai.core.teachers import DialogTeacher, FixedDialogTeacher
from parlai.core.torch_agent import TorchAgent
from parlai.core.worlds import BatchWorld, DialogPartnerWorld, MultiWorld, World

TEACHERS = ("parlai.core.teachers", "parlai.tasks.prosocial.base")
KNOWN_METHODS = ("act", "get", "get_orig_action", "next_episode_idx", "process_action")
"""Of teachers, which must be ParlAI's or ours: another one may keep a state that we don't know."""
HISTORY = ("history_strings", "history_raw_strings", "history_vecs", "temp_history")


class NoPosition(Exception):
    """A world or teacher that cannot be put where it was; the message says which and why."""


def position_of(world: World) -> dict[str, Any]:
    """Where a world of the training loop stands, between two of its steps.

    Raises:
        NoPosition: there is something in it that cannot be put anywhere.
    """
    return {
        "parleys": world.total_parleys,
        "slots": [_slot_position(slot) for slot in _slots(world)],
    }


def set_position(world: World, position: dict[str, Any]) -> None:
    """Put a new world of the same task and data where another one stood.

    Raises:
        NoPosition: it cannot be put there: other data, another batch size, other tasks.
    """
    slots = _slots(world)
    if len(slots) != len(position["slots"]):
        raise NoPosition(f"the batch had {len(position['slots'])} dialogues, now {len(slots)}")
    for slot, saved in zip(slots, position["slots"], strict=True):
        _set_slot_position(slot, saved)
    world.total_parleys = position["parleys"]


def replay(world: World, agent: TorchAgent, parleys: int) -> None:
    """Draw and encode the examples of the first ``parleys`` batches again, without training.

    The random states must be those that the run began with.
    """
    agent.train_step = lambda batch: None
    try:
        for _ in range(parleys):
            world.parley()
    finally:
        del agent.train_step
    world.reset_metrics()


def random_states() -> dict[str, Any]:
    """The global generators of Python, numpy and torch, as tensors and plain values."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    states: dict[str, Any] = {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *map(float, rest)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Set the global generators to what :func:`random_states` returned."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(
        (name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached)
    )
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def same_choices(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether Python's generator, which chooses the examples, is in one state in both."""
    return bool(torch.equal(first["python"][1], second["python"][1]))


# Worlds


def _slots(world: World) -> list[World]:
    """The copies of the world that a batch is drawn from."""
    slots = world.worlds if type(world) is BatchWorld else [world]
    for slot in slots:
        if type(slot) is not MultiWorld and not _is_pair(slot):
            raise NoPosition(f"{type(slot).__name__} keeps examples in a buffer")
    return list(slots)


def _is_pair(world: World) -> bool:
    return type(world) is DialogPartnerWorld


def _pairs(slot: World) -> Iterator[DialogPartnerWorld]:
    """A teacher and an agent for each task of a slot."""
    for world in slot.worlds if type(slot) is MultiWorld else [slot]:
        if not _is_pair(world):
            raise NoPosition(f"{type(world).__name__} is a world of its own")
        yield world


def _slot_position(slot: World) -> dict[str, Any]:
    position: dict[str, Any] = {"pairs": [_pair_position(pair) for pair in _pairs(slot)]}
    if type(slot) is MultiWorld:
        position["task"] = [slot.world_idx, slot.new_world, slot.parleys]
    return position


def _set_slot_position(slot: World, position: dict[str, Any]) -> None:
    pairs = list(_pairs(slot))
    if len(pairs) != len(position["pairs"]):
        raise NoPosition(f"there were {len(position['pairs'])} tasks, now {len(pairs)}")
    for pair, saved in zip(pairs, position["pairs"], strict=True):
        _set_pair_position(pair, saved)
    if type(slot) is MultiWorld:
        slot.world_idx, slot.new_world, slot.parleys = position["task"]


def _pair_position(pair: DialogPartnerWorld) -> dict[str, Any]:
    teacher, agent = pair.agents
    _check_teacher(teacher)
    if not isinstance(agent, TorchAgent):
        raise NoPosition(f"{type(agent).__name__} is no agent whose memory is known")
    position: dict[str, Any] = {
        "episode_done": pair.episode_done(),
        "size": [teacher.num_episodes(), teacher.num_examples()],
        "index": teacher.index.value,
        "episode": teacher.episode_idx,
        "done": teacher._episode_done,
        "epoch_done": teacher.epochDone,
        "history": {name: vars(agent.history)[name] for name in HISTORY},
    }
    if not teacher._episode_done:
        position |= {"entry": teacher.entry_idx, "digest": _digest(teacher.episode_buffer)}
    version, numbers, gauss = agent.random.getstate()
    if (version, numbers, gauss) != _FRESH:  # most agents never draw from it
        position["agent_random"] = [version, torch.tensor(numbers), gauss]
    return position


_FRESH = random.Random(42).getstate()
"""What ParlAI's agents seed their own generator with."""


def _set_pair_position(pair: DialogPartnerWorld, position: dict[str, Any]) -> None:
    teacher, agent = pair.agents
    _check_teacher(teacher)
    size = [teacher.num_episodes(), teacher.num_examples()]
    if size != position["size"]:
        raise NoPosition(
            f"{teacher.getID()} had {position['size'][1]} examples, now {size[1]}: other data"
        )
    teacher.index.value = position["index"]
    teacher.episode_idx = position["episode"]
    teacher._episode_done = position["done"]
    teacher.epochDone = position["epoch_done"]
    if not position["done"]:
        teacher.entry_idx = position["entry"]
        teacher.episode_buffer = _episode(teacher)
        if _digest(teacher.episode_buffer) != position["digest"]:
            raise NoPosition(f"{teacher.getID()} has other texts than before")
    if position["episode_done"] or not position["done"]:
        # All that is asked of the last message: whether its episode was over.
        pair.acts[0] = Message({"episode_done": position["episode_done"]})
    for name, value in position["history"].items():
        setattr(agent.history, name, value)
    if "agent_random" in position:
        version, numbers, gauss = position["agent_random"]
        agent.random.setstate((version, tuple(numbers.tolist()), gauss))


# Teachers


def _check_teacher(teacher: Any) -> None:
    name = teacher.getID() if isinstance(teacher, FixedDialogTeacher) else type(teacher).__name__
    if not isinstance(teacher, FixedDialogTeacher):
        raise NoPosition(f"{name} is no teacher of fixed dialogues")
    if isinstance(teacher, DialogTeacher) and teacher.stream:
        raise NoPosition(f"{name} is a stream")
    if teacher.mutators:
        raise NoPosition(f"{name} has mutators")
    kind = type(teacher)
    plain = kind.next_example in (FixedDialogTeacher.next_example, DialogTeacher.next_example)
    if not plain or any(getattr(kind, m).__module__ not in TEACHERS for m in KNOWN_METHODS):
        raise NoPosition(f"{name} chooses its examples in a way of its own")


def _episode(teacher: FixedDialogTeacher) -> list[Message]:
    """All turns of the episode that a teacher is in."""
    turns: list[Message] = []
    while not turns or not turns[-1].get("episode_done"):
        turns.append(Message(teacher.get(teacher.episode_idx, len(turns))))
    return turns


def _digest(turns: list[Message]) -> str:
    texts = [(turn.get("text"), turn.get("labels")) for turn in turns]
    return hashlib.sha256(repr(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
