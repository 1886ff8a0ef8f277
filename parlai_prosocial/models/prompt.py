"""From dialogue turns to token ids: chat template where the tokenizer has one, else plain turns."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from parlai_prosocial.data.example import SYSTEM_LINE_PREFIXES
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.chat_template import is_plain
from parlai_prosocial.models.roles import with_roles
from parlai_prosocial.models.thoughts import reply_text
from parlai_prosocial.models.turn_format import TurnFormat, closed, render, turn_format

DEFAULT_SYSTEM_PROMPT = "You are a kind, honest conversation partner."

# Characters a token up to which the whole dialogue is tried at once.
_SURELY_SHORT = 16


def split_context(text: str) -> tuple[list[str], list[str]]:
    """Split newline-packed dialogue into what was said and what is known.

    ParlAI packs a dialogue into one string without roles: the last line is the user's, and the
    speakers alternate backwards from it. Persona, knowledge and rule-of-thumb lines are nobody's
    turn; they belong to the system turn. A blank line is a turn in which nothing was said, since
    without it the speakers before it would swap; only those before the first turn are none. The
    text of a message, where blank lines are for the eye, goes through
    :func:`~parlai_prosocial.data.example.message_lines` first.

    Returns:
        ``(turns, system_lines)``, in their order.

    >>> split_context("your persona: I sail.\\n\\nHi!\\n\\nWhat do you do?")
    (['Hi!', '', 'What do you do?'], ['your persona: I sail.'])
    """
    turns: list[str] = []
    system_lines = []
    for line in text.split("\n"):
        line = line.strip()
        if line.lower().startswith(SYSTEM_LINE_PREFIXES):
            system_lines.append(line)
        elif line or turns:
            turns.append(line)
    return turns, system_lines


@dataclass
class Prompt:
    """Encodes contexts and responses for one tokenizer.

    With a chat template, a context is the template applied to a system turn (the fixed prompt,
    then the system lines) and the alternating turns, opened for the assistant. Without one it is
    plain text: the system lines, then ``user: ...`` and ``assistant: ...`` one line a turn, and,
    for a causal model, a last ``assistant:`` to be continued.

    Args:
        tokenizer: a Hugging Face tokenizer with an end-of-sequence token.
        system_prompt: the system turn's text (chat templates only). One prompt is used for base
            and tuned models alike and stored in every checkpoint, because SmolLM2's template
            puts a default system message wherever none is given.
        is_encoder_decoder: whether contexts go to an encoder.
        more_stops: tokens that end a reply besides the template's and the tokenizer's own.

    Attributes:
        end_of_turn_id: the token that ends a reply where we write one. It counts in the loss and
            in mean log p.
        stop_ids: all tokens at which a reply that a model writes has ended, that one first.

    Raises:
        UserError: the tokenizer has no end-of-sequence token.
    """

    tokenizer: Any
    system_prompt: str
    is_encoder_decoder: bool
    more_stops: Collection[int] = ()

    def __post_init__(self):
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"{self.tokenizer.name_or_path}: its tokenizer has no end-of-sequence token, so a "
                "reply could not end; set eos_token in its tokenizer_config.json"
            )
        self.has_template = not is_plain(self.tokenizer.chat_template)
        eos = self.tokenizer.eos_token_id
        self.end_of_turn_id: int = self._ends_turns() if self.has_template else eos
        self.stop_ids = list(dict.fromkeys([self.end_of_turn_id, eos, *self.more_stops]))

    @cached_property
    def turn_format(self) -> TurnFormat:
        """How the template takes a conversation; raises UserError where it does not take one.

        It is found out with the first context, since a guard's template need not take any.
        """
        return turn_format(self.tokenizer)

    def _ends_turns(self) -> int:
        """The special token that the template puts after an assistant's turn, else end of sequence.

        The two differ where a chat model was made from a base model: Gemma's turns end with
        ``<end_of_turn>``, Llama 3's with ``<|eot_id|>``.
        """
        reply = "reply"
        text = closed(self.tokenizer, with_roles(["Hi", reply], last="assistant"))
        after = self.tokenizer(text.rpartition(reply)[2], add_special_tokens=False)["input_ids"]
        added = self.tokenizer.added_tokens_decoder
        special = (i for i in after if i in added and added[i].special)
        return next(special, self.tokenizer.eos_token_id)

    def ends_with_stop(self, ids: Sequence[int]) -> bool:
        """Whether a generated reply ended by itself and not by its length."""
        return bool(ids) and ids[-1] in self.stop_ids

    def without_stop(self, ids: Sequence[int]) -> Sequence[int]:
        """A generated reply without the token that ended it, which need not be a special one."""
        return ids[:-1] if self.ends_with_stop(ids) else ids

    def encode_context(self, text: str, max_tokens: int | None = None) -> list[int]:
        """Token ids of a newline-packed context, ready to be followed by a response.

        Over ``max_tokens``, whole turns are dropped from the oldest on; if the last turn alone is
        too long, it loses its beginning. The system turn stays.
        """
        turns: Sequence[str]
        turns, system_lines = split_context(text)
        if max_tokens and len(text) > _SURELY_SHORT * max_tokens:
            turns = self._last_turns(turns, system_lines, max_tokens)
        ids = self._encode_turns(turns, system_lines)
        while max_tokens and len(ids) > max_tokens and len(turns) > 1:
            turns = turns[1:]
            ids = self._encode_turns(turns, system_lines)
        if max_tokens and len(ids) > max_tokens and turns:
            last_turn = self.tokenizer(turns[-1], add_special_tokens=False)["input_ids"]
            kept = len(last_turn)
            # A cut turn can take more tokens than its part had, so it is cut until it fits.
            while len(ids) > max_tokens and kept > 1:
                kept = max(1, kept - (len(ids) - max_tokens))
                shortened = self.tokenizer.decode(last_turn[-kept:]).replace("\n", " ").strip()
                ids = self._encode_turns([shortened], system_lines)
        # Only a system turn that is too long by itself is cut here.
        return ids[-max_tokens:] if max_tokens else ids

    def _last_turns(
        self, turns: Sequence[str], system_lines: Sequence[str], max_tokens: int
    ) -> Sequence[str]:
        """The last turns that may fit, and at most one more: found by doubling and halving.

        So a long dialogue is not encoded anew for every turn that it loses.
        """
        fits, too_many = 1, 2
        while too_many < len(turns) and self._fit(turns[-too_many:], system_lines, max_tokens):
            fits, too_many = too_many, 2 * too_many
        too_many = min(too_many, len(turns))
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self._fit(turns[-middle:], system_lines, max_tokens):
                fits = middle
            else:
                too_many = middle
        return turns[-too_many:]

    def _fit(self, turns: Sequence[str], system_lines: Sequence[str], max_tokens: int) -> bool:
        return len(self._encode_turns(turns, system_lines)) <= max_tokens

    def _encode_turns(self, turns: Sequence[str], system_lines: Sequence[str]) -> list[int]:
        messages = with_roles(turns)
        if not self.has_template:
            lines = [*system_lines, *(f"{m['role']}: {m['content']}" for m in messages)]
            if self.is_encoder_decoder:
                return self.tokenizer("\n".join(lines))["input_ids"]
            return self.tokenizer("\n".join([*lines, "assistant:"]))["input_ids"]
        system = "\n".join([self.system_prompt, *system_lines])
        text = render(self.tokenizer, self.turn_format.messages(system, messages))
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_response(self, text: str, max_tokens: int | None = None) -> list[int]:
        """Token ids of a reply, its end-of-turn token included (also after truncation)."""
        text = text.strip()
        if self.is_encoder_decoder:
            ids = self.tokenizer(text_target=text)["input_ids"]
        else:
            opening = "" if self.has_template else " "
            ids = self.tokenizer(opening + text, add_special_tokens=False)["input_ids"]
        if not ids or ids[-1] != self.end_of_turn_id:
            ids = [*ids, self.end_of_turn_id]
        if max_tokens and len(ids) > max_tokens:
            ids = [*ids[: max_tokens - 1], self.end_of_turn_id]
        return ids

    def reply(self, context: Sequence[int], ids: Sequence[int]) -> str | None:
        """The text of a generated reply, without thoughts, special tokens and what ended it.

        Args:
            context: token ids that it answers, from :meth:`encode_context`.
            ids: its token ids.

        Returns:
            None where a thought has no end, so that there is no reply.
        """
        return reply_text(self.tokenizer, context, self.without_stop(ids))
