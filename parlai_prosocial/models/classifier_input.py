"""From (context, last line) to token ids: a sentence pair, or a prompt with its reply."""

from typing import Any, NamedTuple

from parlai_prosocial.errors import UserError
from parlai_prosocial.models.prompt import Prompt


class Encoded(NamedTuple):
    """One example.

    Attributes:
        ids: token ids, special tokens included.
        types: 0 for the context and 1 for the last line where the tokenizer marks them so,
            else all 0; as long as ``ids``.
    """

    ids: list[int]
    types: list[int]


def split_last_line(text: str) -> tuple[str, str]:
    """Split ParlAI's newline-packed text into the context and the line to judge.

    >>> split_last_line("Hi! \\nHello.\\nGo away. \\n")
    ('Hi!\\nHello.', 'Go away.')
    >>> split_last_line("Go away.")
    ('', 'Go away.')
    """
    lines = [line.strip() for line in text.strip().split("\n")]
    return "\n".join(lines[:-1]), lines[-1]


class PairInput:
    """Encodes (context, last line) as the two sentences of an encoder's tokenizer.

    Args:
        tokenizer: a fast Hugging Face tokenizer; its own settings for padding and truncation are
            switched off.

    Raises:
        UserError: there is no fast tokenizer.
    """

    def __init__(self, tokenizer: Any):
        if not tokenizer.is_fast:
            raise UserError(
                f"{tokenizer.name_or_path}: needs a fast tokenizer; put a "
                "tokenizer.json beside its vocabulary"
            )
        # MiniLM's tokenizer.json fills every text up to 128 tokens and cuts it there.
        self.tokenizer = tokenizer.backend_tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.special_tokens = self.tokenizer.num_special_tokens_to_add(is_pair=True)

    def encode(self, context: str, reply: str, max_tokens: int) -> Encoded:
        """Encode a pair in at most ``max_tokens``, special tokens included.

        Where both are too long, each gets half. The context loses its beginning, the reply its
        end. A text without context is a pair too, so that the second sentence is always the
        judged one.
        """
        first = self.tokenizer.encode(context, add_special_tokens=False)
        second = self.tokenizer.encode(reply, add_special_tokens=False)
        room = max_tokens - self.special_tokens
        second.truncate(max(room // 2, room - len(first)))
        first.truncate(room - len(second), direction="left")
        pair = self.tokenizer.post_process(first, second)
        return Encoded(pair.ids, pair.type_ids)


class PromptInput:
    """Encodes the context as a causal model's prompt, and the last line as the reply to it."""

    def __init__(self, prompt: Prompt):
        self.prompt = prompt

    def encode(self, context: str, reply: str, max_tokens: int) -> Encoded:
        """Encode in at most ``max_tokens``; the end-of-turn token, which is pooled, stays.

        Where both are too long, each gets half. The context loses its oldest turns, the reply
        its end.
        """
        reply_ids = self.prompt.encode_response(reply)
        context_ids = self.prompt.encode_context(context)
        if len(context_ids) + len(reply_ids) > max_tokens:
            room = max(max_tokens // 2, max_tokens - len(context_ids))
            reply_ids = self.prompt.encode_response(reply, room)
            context_ids = self.prompt.encode_context(context, max_tokens - len(reply_ids))
        ids = context_ids + reply_ids
        return Encoded(ids, [0] * len(ids))
