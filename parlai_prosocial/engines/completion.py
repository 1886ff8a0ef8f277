"""What a server's answer says: a reply, or why there is none."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from parlai_prosocial.models.thoughts import without_thoughts

MALFORMED = "an answer that is no chat completion"
_PASSING = {408, 409, 425, 429}
"""Statuses below 500 that a later try can change."""
_ENDED = {"stop", "eos", "eos_token", "stop_sequence", "end_turn"}
"""Reasons of servers for an end that the model itself chose."""
_LONGEST_REASON = 200
_KEYS = re.compile(r"\b(?:sk|key|hf|gsk|xai|pk|Bearer)[-_ ][\w.*-]{6,}")


class Completion(NamedTuple):
    """An answer without thoughts, and whether the model ended it itself, not the length limit.

    ``first_token`` has the log p of what its first token could have been; None where that was not
    asked for or not given.
    """

    text: str
    ended: bool
    first_token: dict[str, float] | None = None


class Failure(NamedTuple):
    """Why there is no answer, and whether that is final, so that asking again changes nothing."""

    reason: str
    final: bool


def read_answer(status: int, content: bytes, key: str = "") -> Completion | Failure:
    """Read the answer to ``/v1/chat/completions``.

    Args:
        status: HTTP's.
        content: its body, at most :data:`~.bounded.MOST_BYTES`.
        key: never shown in a reason.
    """
    if status != 200:
        said = read_reason(content, key)
        final = status < 500 and status not in _PASSING
        return Failure(f"status {status}{said and f': {said}'}", final)
    payload = _parsed(content)
    if isinstance(payload, dict) and payload.get("error") and not payload.get("choices"):
        error = payload["error"]
        code = error.get("code") if isinstance(error, dict) else None
        final = isinstance(code, int) and code < 500 and code not in _PASSING
        return Failure(f"an error instead of an answer: {read_reason(content, key)}", final)
    try:
        choice = payload["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        said = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Failure(MALFORMED, final=False)
    text = _text(said)
    if text is None:
        text = _text(message.get("refusal"))
    if text is None:
        if said is not None:
            return Failure(MALFORMED, final=False)
        return Failure(_nothing_said(message, finish), final=True)
    reply = without_thoughts(text)
    if reply is None:
        return Failure(f"a thought without an end{_named(finish)}", final=True)
    # JSON can hold half a surrogate pair, which no file in UTF-8 can.
    text = reply.encode("utf-8", "replace").decode("utf-8")
    return Completion(text, finish in _ENDED, _first_token(choice.get("logprobs")))


def _first_token(logprobs: Any) -> dict[str, float] | None:
    """Log p of the most probable first tokens; None where the answer has none that can be read."""
    try:
        tops = logprobs["content"][0]["top_logprobs"]
        return {str(top["token"]): float(top["logprob"]) for top in tops} or None
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def read_reason(content: bytes, key: str = "") -> str:
    """A server's own words for an error, cut, on one line, without keys; "" for none."""
    payload = _parsed(content)
    said = _message(payload)
    if said is None and payload is None:
        said = re.sub(r"<[^>]*>", " ", content[: 1 << 14].decode("utf-8", "replace"))
    text = " ".join("".join(c if c.isprintable() else " " for c in said or "").split())
    if key:
        text = text.replace(key, "***")
    text = _KEYS.sub("***", text)
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


def _message(payload: Any) -> str | None:
    """The text in the errors of OpenAI, vLLM, FastAPI and llama.cpp."""
    if isinstance(payload, str):
        return payload
    if isinstance(payload, Sequence) and payload:
        return _message(payload[0])
    if isinstance(payload, dict):
        for name in ("error", "message", "detail", "msg"):
            if payload.get(name):
                return _message(payload[name])
    return None


def _nothing_said(message: Any, finish: Any) -> str:
    if message.get("tool_calls"):
        return f"a call of a tool instead of a reply{_named(finish)}"
    if finish == "length":
        return "no reply within --max-tokens, all went into its thoughts (finish_reason length)"
    return f"an answer without content{_named(finish)}"


def _named(finish: Any) -> str:
    return f" (finish_reason {finish})" if isinstance(finish, str) else ""


def _text(content: Any) -> str | None:
    """A content's text: a string, or the parts of it that are text; None where there is none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [
        part["text"]
        for part in content
        if isinstance(part, dict)
        and part.get("type") in ("text", "output_text")
        and isinstance(part.get("text"), str)
    ]
    return "".join(texts) if texts else None


def _parsed(content: bytes) -> Any:
    """What JSON holds; None where it is none, or nested too deep."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
