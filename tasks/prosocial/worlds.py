"""Worlds in which people, or two models, talk under one of our tasks: ParlAI's general ones.

ParlAI asks for a world of each teacher's own, ``InteractiveOwnWorld`` for ``-t prosocial:Own``, and
takes one for teachers and models where there is none: that ends at ``[DONE]`` in a traceback.
"""

from typing import Any

from parlai.tasks.interactive.worlds import InteractiveWorld
from parlai.tasks.self_chat.worlds import SelfChatWorld


def __getattr__(name: str) -> Any:
    if name.endswith("World"):
        for kind, world in (("Interactive", InteractiveWorld), ("SelfChat", SelfChatWorld)):
            if name.startswith(kind):
                return world
    raise AttributeError(name)
