"""Rows of other formats as rows of ours, told apart by their columns.

============  ====================================================================================
name          columns
============  ====================================================================================
own           ``context`` and ``response`` (:mod:`.own`)
preference    TRL's ``prompt``, ``chosen`` and ``rejected``, as texts or as messages; or without
              ``prompt``, where it stands at the beginning of both
HH-RLHF       ``chosen`` and ``rejected`` as transcripts with ``Human:`` and ``Assistant:``
messages      ``messages``, each with ``role`` and ``content``; a row for every assistant's turn but
              those of ``weight`` 0
ShareGPT      ``conversations``, each with ``from`` and ``value``; a row for every assistant's turn
completion    TRL's ``prompt`` and ``completion``
============  ====================================================================================

Columns of ours beside them (``negative_weights``, ``split`` and so on) count. Of a system message
the lines that we write there are taken up, rules of thumb and personas; the others are left out.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from parlai_prosocial.data.example import ROT_PREFIX, SYSTEM_LINE_PREFIXES
from parlai_prosocial.data.field_checks import BadRow
from parlai_prosocial.data.normalise import one_line

SHAPES = {
    "own": "own data (context, response)",
    "preference": "preference data as TRL has it (prompt, chosen, rejected)",
    "HH-RLHF": "transcripts as HH-RLHF has them (chosen, rejected)",
    "messages": "conversations (messages)",
    "ShareGPT": "conversations as ShareGPT has them (conversations)",
    "completion": "prompts and completions as TRL has them (prompt, completion)",
}
TARGETS = ("preference", "messages", "own")
"""What ``prosocial data convert`` writes."""

_ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
}
_SPEAKER = re.compile(r"(?:^|\n\n)\s*(Human|Assistant):")


class Said(NamedTuple):
    """A turn of ``user``, ``assistant`` or ``system``.

    Its text is on one line, but for a system turn's. ``trained`` is False for an assistant's turn
    that is context only: weight 0, as OpenAI's format for fine-tuning has it.
    """

    role: str
    text: str
    trained: bool = True


def shape_of(raw: Mapping) -> str:
    """The name of a row's format, of :data:`SHAPES`; ``own`` for a row of none of them."""
    if raw.get("context") is not None and raw.get("response") is not None:
        return "own"
    if "chosen" in raw and "rejected" in raw:
        chosen = raw["chosen"]
        return "HH-RLHF" if isinstance(chosen, str) and _SPEAKER.match(chosen) else "preference"
    if "messages" in raw:
        return "messages"
    if "conversations" in raw:
        return "ShareGPT"
    return "completion" if "prompt" in raw and "completion" in raw else "own"


def as_own(raw: Mapping) -> list[dict[str, Any]]:
    """Rows of our format for a row of any format above; raises :class:`.fields.BadRow`."""
    shape = shape_of(raw)
    if shape == "own":
        return [dict(raw)]
    if shape in ("preference", "HH-RLHF"):
        return [_preference(raw)]
    if shape == "completion":
        said = [*_conversation(raw, "prompt"), *_conversation(raw, "completion", "assistant")]
        return [{**raw, **_row(said, len(said) - 1, "completion")}]
    column = "messages" if shape == "messages" else "conversations"
    said = _conversation(raw, column)
    replies = [i for i, turn in enumerate(said) if turn.role == "assistant" and turn.trained]
    # An assistant's greeting answers nothing.
    replies = [index for index in replies if any(one.role == "user" for one in said[:index])]
    if not replies:
        raise BadRow(column, "holds no assistant's turn after a user's; leave the row out")
    return [{**raw, **_row(said, index, column)} for index in replies]


def _preference(raw: Mapping) -> dict[str, Any]:
    prompt = _conversation(raw, "prompt") if raw.get("prompt") is not None else []
    both = []
    for column in ("chosen", "rejected"):
        said = _conversation(raw, column, "assistant")
        whole = any(turn.role == "user" for turn in said)
        both.append(said if whole else _alternating([*prompt, *said]))
    chosen, rejected = both
    pairs = zip(chosen, rejected, strict=False)
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    if shared in (len(chosen), len(rejected)):
        raise BadRow("rejected", "says the same as chosen; leave the row out")
    if {chosen[shared].role, rejected[shared].role} != {"assistant"}:
        raise BadRow("rejected", "answers another conversation than chosen; leave the row out")
    return {
        **raw,
        **_row(chosen, shared, "chosen"),
        "negatives": [rejected[shared].text],
    }


def _row(said: Sequence[Said], reply: int, column: str) -> dict[str, Any]:
    """The columns that come from a conversation, with the turn at ``reply`` as the response."""
    turns = [turn for turn in said[:reply] if turn.role != "system"]
    if said[reply].role != "assistant" or not turns or turns[-1].role != "user":
        raise BadRow(column, "is no assistant's reply to a user's turn; leave the row out")
    lines = [
        line.strip()
        for turn in said[:reply]
        if turn.role == "system"
        for line in turn.text.split("\n")
        if line.strip().lower().startswith(SYSTEM_LINE_PREFIXES)
    ]
    rots = [line.removeprefix(ROT_PREFIX) for line in lines if line.startswith(ROT_PREFIX)]
    known = [line for line in lines if not line.startswith(ROT_PREFIX)]
    row: dict[str, Any] = {
        "context": [*known, *(turn.text for turn in turns)],
        "response": said[reply].text,
    }
    return row | ({"rots": rots} if rots else {})


def _conversation(raw: Mapping, column: str, alone: str = "user") -> list[Said]:
    """The turns of a column; ``alone`` says whose a text without speakers is."""
    value = raw[column]
    if isinstance(value, str) and re.match(r"\s*\[\s*\{", value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRow(column, "is no JSON list of messages; save it as JSON Lines") from None
    if isinstance(value, str):
        if not _SPEAKER.match(value):
            return [Said(alone, one_line(value))]
        _, *parts = _SPEAKER.split(value)
        roles = [_ROLES[name.lower()] for name in parts[::2]]
        return _alternating(map(Said, roles, map(one_line, parts[1::2])))
    if not isinstance(value, list) or not value:
        raise BadRow(column, "is neither a text nor a list of messages")
    return _alternating(_said(message, column) for message in value)


def _said(message: object, column: str) -> Said:
    if not isinstance(message, Mapping):
        raise BadRow(column, "holds an item that is no message with role and content")
    role = message.get("role", message.get("from"))
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise BadRow(column, f"holds a turn of {str(role)[:40]!r}; take user, assistant and system")
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "\n".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise BadRow(column, "holds a message without a text; leave the row out")
    kind = _ROLES[role.lower()]
    if kind != "system":
        content = one_line(content)
    return Said(kind, content, trained=message.get("weight") != 0)


def _alternating(said: Any) -> list[Said]:
    """The turns without empty ones; what one speaker says in two goes is one turn."""
    turns: list[Said] = []
    for turn in said:
        if not turn.text:
            continue
        if turns and turns[-1].role == turn.role:
            gap = "\n" if turn.role == "system" else " "
            turns[-1] = turn._replace(text=f"{turns[-1].text}{gap}{turn.text}")
        else:
            turns.append(turn)
    return turns
