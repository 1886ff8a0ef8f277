"""``--mutators flatten`` packs an episode into one text, in which a line is a turn."""

import random
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from parlai_prosocial.data.example import SILENCE, split_rots


def mend(mutators: ModuleType) -> None:
    """An empty turn is a line that says so, and a reply of several lines is one.

    ParlAI's own leaves a blank line, which a reader of texts takes for white space, and as many
    lines as the reply has: either way the speakers before it swap.
    """

    def many_episode_mutation(self: Any, episode: Sequence[Any]) -> Iterator[list[Any]]:
        history: list[str] = []
        for message in episode:
            text = message.pop("text")
            history.append(text if text.strip() else SILENCE)
            message["text"] = "\n".join(history) if len(history) > 1 else text
            yield [message]
            _, reply = split_rots(random.choice(message["labels"]))
            history.append(reply or SILENCE)

    mutators.FlattenMutator.many_episode_mutation = many_episode_mutation  # type: ignore[attr-defined]
