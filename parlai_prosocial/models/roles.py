"""Who says which turn: ParlAI packs a dialogue without roles, and the last turn is the user's."""

from collections.abc import Sequence

Message = dict[str, str]
"""``role`` (system, user or assistant) and ``content``, as chat templates and servers take it."""

ROLES = ("user", "assistant")


def with_roles(turns: Sequence[str], last: str = "user") -> list[Message]:
    """Turns as messages, the speakers alternating backwards from the last one's.

    Args:
        turns: what was said, oldest first.
        last: ``user``, or ``assistant`` where the last turn is a reply.

    >>> [message["role"] for message in with_roles(["Hi!", "Hello.", "Bye."])]
    ['user', 'assistant', 'user']
    >>> with_roles(["Hi!"], last="assistant")
    [{'role': 'assistant', 'content': 'Hi!'}]
    """
    offset = ROLES.index(last) + len(turns) - 1
    return [{"role": ROLES[(offset - i) % 2], "content": turn} for i, turn in enumerate(turns)]


def from_the_user(turns: Sequence[str]) -> list[str]:
    """The turns without the first where that is not the user's; the last one is the user's.

    >>> from_the_user(["Hello.", "Hi!"]), from_the_user(["Hi!"])
    (['Hi!'], ['Hi!'])
    """
    return list(turns[len(turns) % 2 == 0 :])
