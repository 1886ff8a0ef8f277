"""How a chat template takes a conversation, found out by trying it once.

Templates differ in what they refuse (a system turn, an assistant who begins, a conversation without
a user) and in what they leave out without a word (the system turn; contents that are no lists of
parts). A model that was never shown its rule of thumb looks like one that does not heed it, so what
we hand to a template must come out of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.roles import with_roles

# Words that no template writes by itself.
_SYSTEM = "qsystem"
_TRIED = [["qfirst"], ["qfirst", "qsecond"], ["qfirst", "qsecond", "qthird"]]
REFUSALS = (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError)
"""What templates end in where they read content of another kind than they get."""


@dataclass(frozen=True)
class TurnFormat:
    """The shape in which a template takes all that is said.

    Attributes:
        system_turn: a system turn is taken; otherwise its text stands at the beginning of the
            user's first turn.
        user_begins: the first turn must be the user's; an empty one is put before an assistant's.
        user_needed: a system turn alone is refused; an empty user's turn follows it.
        content_parts: a content is a list of parts, ``[{"type": "text", "text": ...}]``.
    """

    system_turn: bool = True
    user_begins: bool = False
    user_needed: bool = False
    content_parts: bool = False

    def messages(self, system: str, turns: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
        """The conversation to apply the template to.

        Args:
            system: the text of the system turn.
            turns: of user and assistant in turn; the last one, if any, is the user's.
        """
        said = list(turns)
        missing = said[0]["role"] != "user" and self.user_begins if said else self.user_needed
        if missing:
            said = [{"role": "user", "content": ""}, *said]
        if self.system_turn:
            said = [{"role": "system", "content": system}, *said]
        else:
            first = f"{system}\n\n{said[0]['content']}".strip()
            said = [{"role": "user", "content": first}, *said[1:]]
        if not self.content_parts:
            return said
        return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in said]


def render(tokenizer: Any, messages: Sequence[dict[str, Any]]) -> str:
    """The template's text of a conversation, opened for the assistant."""
    return tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)


def closed(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    """The template's text of a conversation whose last turn is a whole reply.

    Empty where the template takes no conversation, as a guard's may not.
    """
    for parts in (False, True):
        shape = TurnFormat(content_parts=parts)
        shown = shape.messages("", messages)[1:]
        try:
            return tokenizer.apply_chat_template(shown, tokenize=False)
        except REFUSALS:
            continue
    return ""


def turn_format(tokenizer: Any) -> TurnFormat:
    """The first shape in which the tokenizer's template gives back all that it is handed.

    Raises:
        UserError: there is none.
    """
    reasons: list[str] = []
    for shape in _shapes():
        try:
            _try(tokenizer, shape)
        except REFUSALS as error:
            reasons.append((str(error).splitlines() or [type(error).__name__])[0])
        else:
            return shape
    raise UserError(
        f"{tokenizer.name_or_path}: its chat template takes no conversation of user and assistant "
        f"whole ({reasons[0]}); mend chat_template in its tokenizer_config.json, or take another "
        "model"
    )


def _shapes() -> Iterator[TurnFormat]:
    for parts in (False, True):
        for needed in (False, True):
            yield TurnFormat(user_needed=needed, content_parts=parts)
        yield TurnFormat(user_begins=True, user_needed=True, content_parts=parts)
        yield TurnFormat(system_turn=False, user_begins=True, user_needed=True, content_parts=parts)


def _try(tokenizer: Any, shape: TurnFormat) -> None:
    for turns in [[], *_TRIED]:
        text = render(tokenizer, shape.messages(_SYSTEM, with_roles(turns)))
        if _SYSTEM not in text:
            raise ValueError("it leaves out the system turn")
        position = 0
        for turn in turns:
            position = text.find(turn, position)
            if position < 0:
                raise ValueError("it leaves out a turn")
