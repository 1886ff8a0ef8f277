"""What a model thinks before it replies is not its reply.

Models that reason write their thoughts first, between marks of their own. Some templates open the
thought in the prompt, so that an answer holds the closing mark alone.
"""

import re
from collections.abc import Sequence
from typing import Any

_NAMES = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning)"
_OPEN = re.compile(
    rf"<{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>(?:analysis|commentary)\b",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
_HALF_A_MARK = re.compile(r"[<\[◁][^<>\[\]◁▷\s]{0,24}\Z")


def without_thoughts(text: str) -> str | None:
    """An answer's reply alone; None where a thought has no end, so that there is no reply.

    Qwen3, DeepSeek R1 and most others write ``<think>``, Magistral ``[THINK]``, Kimi ``◁think▷``,
    gpt-oss channels. What stands before a closing mark that nothing opened is a thought too.

    >>> without_thoughts("<think>They lied.</think>Please stop."), without_thoughts("Stop.")
    ('Please stop.', 'Stop.')
    >>> without_thoughts("They lied.</think>Please stop.")
    'Please stop.'
    >>> without_thoughts("<think>They lied. I should") is None
    True
    """
    said, unfinished = _parted(text)
    return None if unfinished else said


def _parted(text: str) -> tuple[str, bool]:
    """What is said outside of thoughts, and whether the last thought has no end."""
    while opened := _OPEN.search(text):
        closed = _CLOSE.search(text, opened.end())
        if closed is None:
            text = text[: opened.start()]
            break
        text = text[: opened.start()] + text[closed.end() :]
    *_, last = [None, *_CLOSE.finditer(text)]
    return (text[last.end() :] if last else text), opened is not None


def opens_thought(prompt: str) -> bool:
    """Whether a prompt ends inside a thought, as the templates of some models do.

    >>> opens_thought("assistant: <think>\\n"), opens_thought("<think></think>assistant: ")
    (True, False)
    """
    *_, last = [None, *_OPEN.finditer(prompt)]
    return last is not None and not prompt[last.end() :].strip()


def reply_text(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str | None:
    """The text of a generated reply without thoughts and special tokens, stripped.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompt: token ids of what the model answers; its end is enough.
        ids: token ids of the answer.

    Returns:
        None where the answer is a thought without an end.
    """
    # Marks may be special tokens, which a plain text would lack.
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    opened = opens_thought(tokenizer.decode(prompt[-16:], skip_special_tokens=False))
    if not (opened or _OPEN.search(whole) or _CLOSE.search(whole)):
        return tokenizer.decode(ids, skip_special_tokens=True).strip()
    if opened and not _CLOSE.search(whole):
        return None
    reply = without_thoughts(whole)
    return None if reply is None else _without_special(tokenizer, reply).strip()


def reply_so_far(tokenizer: Any, prompt: Sequence[int], written: str) -> str:
    """What is to be seen of a reply while it is written: no thought, and no half of a mark.

    Args:
        tokenizer, prompt: as for :func:`reply_text`.
        written: the text until now, special tokens included.
    """
    opened = opens_thought(tokenizer.decode(prompt[-16:], skip_special_tokens=False))
    if opened and not _CLOSE.search(written):
        return ""
    said, unfinished = _parted(written)
    if not unfinished:
        said = _HALF_A_MARK.sub("", said)
    return _without_special(tokenizer, said)


def _without_special(tokenizer: Any, text: str) -> str:
    # A token may be special without having a role of its own, as <|eot_id|> is in Llama 3.
    added = (str(t) for t in tokenizer.added_tokens_decoder.values() if t.special)
    for token in {*tokenizer.all_special_tokens, *added}:
        text = text.replace(token, "")
    return text
