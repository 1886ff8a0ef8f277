"""Replies of many contexts, in rows that are refilled as replies end."""

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from parlai_prosocial.models.decode_cache import DecodeCache, Filled, decode_step, fill

MOST_ROWS = 96
"""Replies at a time. Products of matrices are faster the more rows they have."""
_LEAST_SHARED = 16
"""Tokens at the beginning of all contexts from which on it pays to compute them once."""
_REFILL = 0.25
"""Share of the rows that are refilled together: contexts are computed faster side by side."""


class Draw(Protocol):
    """Draws tokens."""

    def __call__(
        self, logits: torch.Tensor, rows: Sequence[tuple[int, int]], ages: Sequence[int]
    ) -> torch.Tensor:
        """(rows, vocabulary) and each row's context, sample and number of tokens -> (rows,)."""
        ...


class Refilled:
    """Samples ``n`` replies to each of some contexts, :data:`MOST_ROWS` at a time.

    As soon as a quarter of the rows has ended, the next replies take their place, and contexts
    that these answer are computed then; what all contexts begin with (a system prompt, examples) is
    computed once.

    Args:
        lm: a causal model that :func:`~parlai_prosocial.models.decode_cache.decodes_alike`.
        pad_id: a token to fill rows with.
        stop_ids: tokens at which a reply ends.
        contexts: token ids, in the order in which they are taken.
        n: replies to each.
        max_tokens: longest reply.
        exact_scores: with which it decodes alike; see
            :class:`~parlai_prosocial.models.decode_cache.DecodeCache`.
    """

    def __init__(
        self,
        lm: Any,
        pad_id: int,
        stop_ids: Sequence[int],
        contexts: Sequence[Sequence[int]],
        n: int,
        max_tokens: int,
        exact_scores: bool = False,
    ):
        self.lm, self.pad_id, self.stop_ids = lm, pad_id, set(stop_ids)
        self.contexts, self.max_tokens = contexts, max_tokens
        self.waiting = deque((i, k) for i in range(len(contexts)) for k in range(n))
        self.replies: list[list[list[int]]] = [[[] for _ in range(n)] for _ in contexts]
        self.rows: list[tuple[int, int]] = []  # under way: context, sample
        self.here: list[int] = []  # contexts in the cache
        self.states: dict[int, torch.Tensor] = {}  # each one's last (hidden,)
        self.most_rows = min(MOST_ROWS, len(self.waiting))
        self.cache = DecodeCache(
            self.most_rows,
            # A context stays until the last of its replies, so there are more than rows / n.
            min(len(contexts), self.most_rows, max(2, 2 * self.most_rows // n)),
            exact_scores,
        )
        self.start = self._start()

    def _start(self) -> Filled | None:
        common = common_start(self.contexts)
        if common < _LEAST_SHARED or len(self.contexts) == 1:
            return None
        return fill(self.lm, [self.contexts[0][:common]], self.pad_id)

    def run(self, draw: Draw) -> list[list[list[int]]]:
        """For each context the token ids of its replies, the one that ended it included."""
        output_layer = self.lm.get_output_embeddings()
        states: list[torch.Tensor] = []
        while self.rows or self.waiting:
            free = self.most_rows - len(self.rows)
            if self.waiting and (free >= _REFILL * self.most_rows or not self.rows):
                states += self._refill(free)
            logits = output_layer(torch.cat(states))  # (rows, vocabulary)
            ages = [len(self.replies[i][k]) for i, k in self.rows]
            tokens = draw(logits, self.rows, ages)
            kept = []
            for row, (token, (i, k)) in enumerate(zip(tokens.tolist(), self.rows, strict=True)):
                reply = self.replies[i][k]
                reply.append(token)
                if token not in self.stop_ids and len(reply) < self.max_tokens:
                    kept.append(row)
            if len(kept) < len(self.rows):
                order = self.cache.keep_rows(kept)
                self.rows = [self.rows[row] for row in order]
                tokens = tokens[order]
                self._forget_contexts()
            states = [self._step(tokens)] if self.rows else []
        return self.replies

    def _step(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = [len(self.contexts[i]) + len(self.replies[i][k]) - 1 for i, k in self.rows]
        return decode_step(self.lm, self.cache, self.cache_name, tokens, positions)

    def _refill(self, free: int) -> list[torch.Tensor]:
        """Begin up to ``free`` replies; their first states, (replies, hidden)."""
        rows: list[tuple[int, int]] = []
        here = list(self.here)
        while self.waiting and len(rows) < free:
            i = self.waiting[0][0]
            if i not in here:
                if len(here) == self.cache.most_contexts:
                    break
                here.append(i)
            rows.append(self.waiting.popleft())
        if new := here[len(self.here) :]:
            before = self.start.lengths[0] if self.start else 0
            given = [self.contexts[i][before:] for i in new]
            filled = fill(self.lm, given, self.pad_id, self.start)
            self.cache_name = filled.name
            self.cache.add_contexts(filled)
            self.states |= dict(zip(new, filled.states, strict=True))
            self.here = here
        if not rows:
            return []
        self.rows += rows
        self.cache.add_rows([self.here.index(i) for i, _ in rows])
        return [torch.stack([self.states[i] for i, _ in rows])]

    def _forget_contexts(self) -> None:
        wanted = {i for i, _ in self.rows}
        if self.waiting:
            wanted.add(self.waiting[0][0])
        kept = [slot for slot, i in enumerate(self.here) if i in wanted]
        if len(kept) < len(self.here):
            for i in set(self.here) - wanted:
                del self.states[i]
            self.here = [self.here[slot] for slot in self.cache.keep_contexts(kept)]


def common_start(contexts: Sequence[Sequence[int]]) -> int:
    """How many tokens all contexts begin with; each keeps one token of its own."""
    lists = list(map(list, contexts))
    first, last = min(lists), max(lists)  # in their order these differ the earliest
    most = min(map(len, contexts)) - 1
    same = (a == b for a, b in zip(first[:most], last[:most], strict=True))
    return sum(itertools.takewhile(bool, same))
