"""A model at an OpenAI-compatible ``/v1/chat/completions`` address.

vLLM, SGLang, ``transformers serve`` and llama.cpp's server all speak it. Only what they all have is
used: one answer a call, no streaming. ``transformers serve`` samples only a model whose
``generation_config.json`` says ``do_sample``, and from its ``top_k``, 50 without one; any other
answers greedily, whatever it is asked. It has one random generator for all calls, so seeds hold for
one call at a time only, and it answers 500, not 404, for a model that it cannot load.
"""

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import requests

from parlai_prosocial.engines.bounded import BoundedAdapter, TooMuch, read_body
from parlai_prosocial.engines.completion import (
    MALFORMED,
    Completion,
    Failure,
    read_answer,
    read_reason,
)
from parlai_prosocial.engines.reply_scores import SampledReply
from parlai_prosocial.engines.seeds import own_seed
from parlai_prosocial.errors import UserError
from parlai_prosocial.models.prompt import DEFAULT_SYSTEM_PROMPT, split_context
from parlai_prosocial.models.roles import Message, with_roles
from parlai_prosocial.models.turn_format import TurnFormat
from parlai_prosocial.util.missing import Missing

logger = logging.getLogger(__name__)

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more by Retry-After is asked again after these."""
_MISTAKES = {401: f"set {KEY_VARIABLE}", 403: f"set {KEY_VARIABLE}", 404: "check address and name"}
_STRICT = TurnFormat(system_turn=False, user_begins=True, user_needed=True)
_ROLES_REFUSED = re.compile(r"system|\broles?\b|alternat", re.IGNORECASE)
"""In the reason of a server whose chat template does not take the turns as they are."""


class ChatClient:
    """Asks one model at one address.

    A call that fails in passing (no connection, time-out, status 429 or 5xx, an answer that is no
    completion) is tried again after 1, 2, 4... waits. What the server means is final and not asked
    again: any other status, and an answer that ends before there is a reply. What still fails is
    missing, never an empty text, and counted by its reason.

    Args:
        address: ``http://host:port/v1#MODEL``; the part after ``#`` is the model's name there.
            The key, if the server wants one, is read from the environment variable
            ``OPENAI_API_KEY``; it is sent and never shown.
        concurrency: most calls at a time.
        attempts: tries of one call.
        wait: seconds before the second try; a server's Retry-After is honoured instead, up to
            :data:`LONGEST_WAIT`.
        timeout: seconds after which a try without its whole answer has failed.

    Attributes:
        missing: why calls had no answer, and how many for each reason.

    Raises:
        UserError: an address without a model's name, or with a password in it; a key that cannot
            be sent.
    """

    def __init__(
        self,
        address: str,
        concurrency: int = 8,
        attempts: int = 5,
        wait: float = 1.0,
        timeout: float = 120.0,
    ):
        base, _, self.model = address.partition("#")
        if urlsplit(base).username is not None:
            raise UserError(f"an address must not hold a password; give the key by {KEY_VARIABLE}")
        if not self.model:
            raise UserError(f"{address}: name the model there, as in {base}#MODEL")
        self.url = base.rstrip("/") + "/chat/completions"
        self.concurrency = concurrency
        self.attempts = attempts
        self.wait = wait
        self.timeout = timeout
        self.missing = Missing()
        self._answered = False
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        # requests would quote a bad header in its error, and the key with it.
        if not (self._key.isascii() and self._key.isprintable()) or " " in self._key:
            raise UserError(f"{KEY_VARIABLE} holds characters that no key has; set it again")

    def complete(
        self,
        conversations: Sequence[Sequence[Message]],
        seeds: Sequence[int],
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        otherwise: Callable[[Sequence[Message], Failure], list[Message] | None] | None = None,
        top_logprobs: int = 0,
    ) -> list[Completion | None]:
        """Answer each conversation once.

        Args:
            conversations: N lists of messages.
            seeds: N; a server that honours them answers alike again.
            max_tokens, temperature, top_p: as the API means them; temperature 0 is greedy.
            otherwise: the messages to ask instead where a call failed for good, None for none.
            top_logprobs: how many first tokens to ask the log p of.

        Returns:
            N, in order; None where there is no answer, for a reason that ``missing`` counts.

        Raises:
            UserError: the server refuses the key, does not know the model or only streams; or no
                call at all was answered, so far or because it fails in passing.
        """
        settings = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "stream": False,
        }
        if top_logprobs:
            settings |= {"logprobs": True, "top_logprobs": top_logprobs}

        def answer(messages: Sequence[Message], seed: int) -> Completion | Failure:
            found = self._ask(session, settings | {"messages": list(messages), "seed": seed})
            if otherwise is None or not isinstance(found, Failure) or not found.final:
                return found
            changed = otherwise(messages, found)
            if changed is None:
                return found
            return self._ask(session, settings | {"messages": changed, "seed": seed})

        with self._session() as session, _workers(self.concurrency) as workers:
            answers = list(workers.map(answer, conversations, seeds))
        self._count(answers)
        return [None if isinstance(found, Failure) else found for found in answers]

    def _count(self, answers: Sequence[Completion | Failure]) -> None:
        """Count what is missing, and raise :class:`UserError` where nothing else is there."""
        failures = [found for found in answers if isinstance(found, Failure)]
        self.missing.note(f"{self.url}#{self.model}", (failure.reason for failure in failures))
        self._answered |= len(failures) < len(answers)
        in_passing = not all(failure.final for failure in failures)
        if len(failures) < len(answers) or not answers or (self._answered and not in_passing):
            return
        advice = f"check the server and its model {self.model}, then run the same command to resume"
        if not in_passing:
            advice = f"{self.model} there gives no reply to what it is asked"
        reasons = Counter(failure.reason for failure in failures)
        raise UserError(
            f"{self.url}: none of {len(answers)} calls was answered ({listed(reasons)}); {advice}"
        )

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        with requests.Session() as session:
            adapter = BoundedAdapter(pool_maxsize=self.concurrency)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            session.auth = self._authorize  # also keeps requests from looking into ~/.netrc
            yield session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _ask(self, session: requests.Session, body: dict[str, Any]) -> Completion | Failure:
        failure = Failure(MALFORMED, final=False)
        for attempt in range(self.attempts):
            found, wait = self._try(session, body)
            if isinstance(found, Completion) or found.final:
                return found
            failure = found
            if attempt + 1 < self.attempts:
                time.sleep(self.wait * 2**attempt if wait is None else wait)
        return failure

    def _try(
        self, session: requests.Session, body: dict[str, Any]
    ) -> tuple[Completion | Failure, float | None]:
        """What one call gives, and the seconds that the server asks to wait, if it says so."""
        started = time.monotonic()
        try:
            # A redirect could carry the key elsewhere.
            answer = session.post(
                self.url, json=body, timeout=self.timeout, allow_redirects=False, stream=True
            )
            with answer:
                if answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise UserError(
                        f"{self.url}: streams its answers although asked not to, as "
                        "`transformers serve` does before transformers 5; use a newer server"
                    )
                content = read_body(answer, started + self.timeout)
        except TooMuch as error:
            return Failure(str(error), final=False), None
        except requests.RequestException as error:
            return Failure(type(error).__name__, final=False), None
        status = answer.status_code
        if status in _MISTAKES:
            said = read_reason(content, self._key)
            raise UserError(
                f"{self.url}: status {status} for model {self.model}{said and f' ({said})'}; "
                f"{_MISTAKES[status]}"
            )
        asked = answer.headers.get("Retry-After", "")
        wait = min(float(asked), LONGEST_WAIT) if asked.isascii() and asked.isdigit() else None
        return read_answer(status, content, self._key), wait


class OpenAIEngine:
    """A model at an OpenAI-compatible address, one call a reply.

    Args:
        client: the address.
        system_prompt: the system turn.
    """

    def __init__(self, client: ChatClient, system_prompt: str = DEFAULT_SYSTEM_PROMPT):
        self.client = client
        self.name = f"{client.url}#{client.model}"
        self.system_prompt = system_prompt
        self.missing = client.missing
        self._warned: set[str] = set()
        self._warning = Lock()  # calls run side by side

    def sample(
        self,
        contexts: Sequence[str],
        n: int,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> list[list[SampledReply | None]]:
        conversations = [chat_messages(c, self.system_prompt) for c in contexts for _ in range(n)]
        seeds = [own_seed(seed, c, k) % 2**31 for c in contexts for k in range(n)]
        answers = self.client.complete(
            conversations, seeds, max_tokens, temperature, top_p, otherwise=self._folded
        )
        replies = [a and SampledReply(a.text.strip(), a.ended) for a in answers]
        grouped = [replies[i : i + n] for i in range(0, len(replies), n)]
        if temperature > 0 and n > 1 and all(len(set(group)) == 1 for group in grouped):
            self._warn(
                f"all {n} replies to a context are the same, so it does not sample; "
                '`transformers serve` does where generation_config.json says "do_sample": true'
            )
        return grouped

    def _folded(self, messages: Sequence[Message], failure: Failure) -> list[Message] | None:
        """The same without a system turn, the user first, where the server wants it so."""
        if not _ROLES_REFUSED.search(failure.reason):
            return None
        self._warn(
            f"does not take the turns as they are ({failure.reason}), so what it refuses is asked "
            "with the system prompt in the first user turn"
        )
        system, *turns = messages
        return _STRICT.messages(system["content"], turns)

    def _warn(self, text: str) -> None:
        """Say it once."""
        with self._warning:
            if text not in self._warned:
                logger.warning("%s: %s", self.name, text)
            self._warned.add(text)


def chat_messages(context: str, system_prompt: str) -> list[Message]:
    """A newline-packed context as an API's messages, in the roles that ``Prompt`` gives."""
    turns, system_lines = split_context(context)
    system = {"role": "system", "content": "\n".join([system_prompt, *system_lines])}
    return [system, *with_roles(turns)]


def listed(reasons: Counter[str]) -> str:
    """Reasons, the most frequent first, with their numbers where there are several.

    >>> listed(Counter({"status 500": 2})), listed(Counter({"status 500": 2, "Timeout": 1}))
    ('status 500', '2 x status 500; 1 x Timeout')
    """
    if len(reasons) == 1:
        return next(iter(reasons))
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))


@contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor]:
    workers = ThreadPoolExecutor(count)
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)
