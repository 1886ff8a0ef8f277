"""Calls to an OpenAI-compatible ``/v1/chat/completions`` address.

vLLM, SGLang, ``transformers serve`` and llama.cpp's server all speak it. Only what they all have is
used: one answer a call, no streaming. ``transformers serve`` samples only a model whose
``generation_config.json`` says ``do_sample``, and from its ``top_k``, 50 without one; any other
answers greedily, whatever it is asked. It has one random generator for all calls, so seeds hold for
one call at a time only, and it answers 500, not 404, for a model that it cannot load.
"""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from parlai_prosocial.errors import UserError

KEY_VARIABLE = "OPENAI_API_KEY"
_PASSING = {408, 409, 425, 429}
"""Statuses below 500 that a later try can change."""
_MISTAKES = {401: f"set {KEY_VARIABLE}", 403: f"set {KEY_VARIABLE}", 404: "check address and name"}

Message = dict[str, str]
"""``role`` (system, user or assistant) and ``content``."""


class Completion(NamedTuple):
    """An answer, and whether the model ended it itself and not the length limit."""

    text: str
    ended: bool


def is_address(name: str) -> bool:
    """Whether a model is named by an address instead of a file, folder or hub name."""
    return name.startswith(("http://", "https://"))


class ChatClient:
    """Asks one model at one address.

    A call that fails in passing (no connection, time-out, status 429 or 5xx, an answer that is no
    completion) is tried again after 1, 2, 4... waits. What still fails is None, never an empty
    text.

    Args:
        address: ``http://host:port/v1#MODEL``; the part after ``#`` is the model's name there.
            The key, if the server wants one, is read from the environment variable
            ``OPENAI_API_KEY``; it is sent and never shown.
        concurrency: most calls at a time.
        attempts: tries of one call.
        wait: seconds before the second try; a server's Retry-After is honoured instead, up to a
            minute.
        timeout: seconds without an answer after which a try has failed.

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
        self.last_failure = ""
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
    ) -> list[Completion | None]:
        """Answer each conversation once.

        Args:
            conversations: N lists of messages.
            seeds: N; a server that honours them answers alike again.
            max_tokens, temperature, top_p: as the API means them; temperature 0 is greedy.

        Returns:
            N, in order; None where every try failed.

        Raises:
            UserError: the server refuses the key, does not know the model or only streams, or no
                call at all was answered.
        """
        settings = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "stream": False,
        }
        bodies = [
            {**settings, "messages": list(messages), "seed": seed}
            for messages, seed in zip(conversations, seeds, strict=True)
        ]
        with self._session() as session, _workers(self.concurrency) as workers:
            answers = list(workers.map(lambda body: self._ask(session, body), bodies))
        if bodies and not any(answers):
            raise UserError(
                f"{self.url}: none of {len(bodies)} calls was answered ({self.last_failure}); "
                f"check the server and its model {self.model}, then run the same command to resume"
            )
        return answers

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        with requests.Session() as session:
            adapter = HTTPAdapter(pool_maxsize=self.concurrency)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            session.auth = self._authorize  # also keeps requests from looking into ~/.netrc
            yield session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _ask(self, session: requests.Session, body: dict) -> Completion | None:
        for attempt in range(self.attempts):
            wait = self.wait * 2**attempt
            try:
                # A redirect could carry the key elsewhere.
                answer = session.post(
                    self.url, json=body, timeout=self.timeout, allow_redirects=False
                )
            except requests.RequestException as error:
                self.last_failure = type(error).__name__
            else:
                if answer.status_code in _MISTAKES:
                    raise UserError(
                        f"{self.url}: status {answer.status_code} for model {self.model}; "
                        f"{_MISTAKES[answer.status_code]}"
                    )
                if answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise UserError(
                        f"{self.url}: streams its answers although asked not to, as "
                        "`transformers serve` does before transformers 5; use a newer server"
                    )
                if answer.status_code == 200:
                    completion = _completion(answer)
                    if completion is not None:
                        return completion
                    self.last_failure = "an answer that is no chat completion"
                else:
                    self.last_failure = f"status {answer.status_code}"
                    if answer.status_code < 500 and answer.status_code not in _PASSING:
                        return None
                    asked = answer.headers.get("Retry-After", "")
                    wait = min(float(asked), 60.0) if asked.isdigit() else wait
            if attempt + 1 < self.attempts:
                time.sleep(wait)
        return None


@contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor]:
    workers = ThreadPoolExecutor(count)
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)


def _completion(answer: requests.Response) -> Completion | None:
    try:
        choice = answer.json()["choices"][0]
        text = choice["message"]["content"]
        ended = choice.get("finish_reason") == "stop"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    if not isinstance(text, str):
        return None
    # JSON can hold half a surrogate pair, which no file in UTF-8 can.
    return Completion(text.encode("utf-8", "replace").decode("utf-8"), ended)
