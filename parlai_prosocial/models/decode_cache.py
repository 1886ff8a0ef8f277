"""Keys and values of replies under way, a context's once for all of its replies.

Hugging Face's cache has the context in every row, and is copied as a whole for every token. Here
contexts and the replies' own tokens lie apart, in buffers that seldom grow: a token is written
where it belongs, a context is read once for all of its replies, and rows come and go. The model's
own forward pass runs on it, with attention of ours (:func:`decode_step`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, Cache

from parlai_prosocial.models.text_config import text_config, text_model

_ATTENTION = "prosocial_decoding"
_COLUMNS = 16
"""Columns by which buffers grow and shrink. They are read as a whole: parts would be copied."""
_UNKNOWN = ("softcap", "s_aux", "position_bias", "sinks")
"""What some models' attention has beside ours; a model that gives one is not decoded here."""


@dataclass
class Filled:
    """Contexts that were computed together.

    Attributes:
        name: of the cache among the model's arguments.
        cache: Hugging Face's.
        before: how many columns of it hold what all begin with; padding follows, then the rest.
        lengths: of the contexts, without padding.
        states: (contexts, hidden) the states that predict what follows.
    """

    name: str
    cache: Any
    before: int
    lengths: list[int]
    states: torch.Tensor


class DecodeCache(Cache):
    """Contexts and the rows (replies under way) that continue them.

    Contexts are ``0..contexts - 1`` and rows ``0..rows - 1``; :meth:`keep_rows` and
    :meth:`keep_contexts` close gaps. A context ends in its buffer's last column. All rows write
    a step's token into the same column of theirs, whatever their age, so that this is a slice.

    Args:
        rows, contexts: most of each at a time.
        exact_scores: multiply queries with keys in float32 also in bf16, which takes longer.
    """

    def __init__(self, rows: int, contexts: int, exact_scores: bool = False):
        super().__init__(layers=[])
        self.exact_scores = exact_scores
        self.most_rows, self.most_contexts = rows, contexts
        self.lengths: list[int] = []  # of each context
        self.contexts: list[int] = []  # of each row
        self.births: list[int] = []  # each row's first column
        self.end = 0  # the column that is written next
        self.before: list[torch.Tensor] = []
        """Contexts' keys and values: (layers, most_contexts, heads, columns, head size) each."""
        self.own: list[torch.Tensor] = []
        """Rows' keys and values: (layers, most_rows, heads, columns, head size) each."""

    def add_contexts(self, filled: Filled) -> None:
        """Take over contexts that were computed together."""
        kinds = [
            torch.stack([getattr(layer, kind) for layer in filled.cache.layers])
            for kind in ("keys", "values")
        ]  # (layers, contexts, heads, length, head size) each
        if not self.before:
            self.before = [_empty(new, self.most_contexts) for new in kinds]
            self.own = [_empty(new, self.most_rows) for new in kinds]
        first = len(self.lengths)
        self.lengths += filled.lengths
        longest, columns = max(self.lengths), self.before[0].size(3)
        if not longest <= columns < longest + _COLUMNS:
            kept = slice(max(0, columns - longest), columns)
            self.before = [_resized(b, kept, longest - columns, longest) for b in self.before]
        for buffer, new in zip(self.before, kinds, strict=True):
            for i, length in enumerate(filled.lengths):
                rest = length - filled.before
                context = buffer[:, first + i, :, buffer.size(3) - length :]
                context[:, :, : filled.before] = new[:, i, :, : filled.before]
                context[:, :, filled.before :] = new[:, i, :, new.size(3) - rest :]

    def add_rows(self, contexts: Sequence[int]) -> None:
        """Add a row without tokens for each of these contexts."""
        self.contexts += contexts
        self.births += [self.end] * len(contexts)

    def keep_rows(self, kept: Sequence[int]) -> list[int]:
        """Drop all other rows.

        Returns:
            For each row from now on which one it was.
        """
        order = _gapless(kept)
        for buffer in self.own:
            _move(buffer, order)
        self.contexts = [self.contexts[i] for i in order]
        self.births = [self.births[i] for i in order]
        return order

    def keep_contexts(self, kept: Sequence[int]) -> list[int]:
        """Drop all other contexts, which have no rows; returns as :meth:`keep_rows`."""
        order = _gapless(kept)
        for buffer in self.before:
            _move(buffer, order)
        self.lengths = [self.lengths[i] for i in order]
        now = {was: i for i, was in enumerate(order)}
        self.contexts = [now[i] for i in self.contexts]
        return order

    def begin_step(self) -> None:
        """Make room for one more token of each row, and lay out the step's attention."""
        if self.end == self.own[0].size(3):
            oldest = min(self.births)
            live = self.end - oldest
            kept = slice(oldest, self.end)
            self.own = [_resized(buffer, kept, 0, live + _COLUMNS) for buffer in self.own]
            self.births = [birth - oldest for birth in self.births]
            self.end = live
        self.end += 1
        self.layout = _layout(self)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[Any, Any]:
        """Write a layer's keys and values of a step, (rows, heads, 1, head size).

        Returns:
            What :func:`_attend` takes in place of keys and values.
        """
        rows = len(self.contexts)
        for buffer, new in zip(self.own, (key_states, value_states), strict=True):
            buffer[layer_idx, :rows, :, self.end - 1] = new[:, :, 0]
        contexts = len(self.lengths)
        layer = _Layer(
            self.layout,
            *(buffer[layer_idx, :contexts].flatten(0, 1) for buffer in self.before),
            *(buffer[layer_idx, :rows].flatten(0, 1) for buffer in self.own),
        )
        return layer, layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are given with the tokens


@dataclass
class _Layout:
    """What all layers of a step share.

    Attributes:
        rows, groups: how many rows and how many keys' heads there are.
        cells: index of (rows, groups, ...) that gives (contexts, groups, width, ...), the rows of
            each context side by side; filled up with row 0.
        places: index of that which gives (rows, groups, ...) again.
        bias: (rows, 1, 1, columns) float32, 0 or -inf, contexts' columns before rows'.
        exact_scores: see :class:`DecodeCache`.
    """

    rows: int
    groups: int
    cells: tuple[torch.Tensor, torch.Tensor]
    places: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    bias: torch.Tensor
    exact_scores: bool


def _layout(cache: DecodeCache) -> _Layout:
    device = cache.own[0].device
    beside: list[list[int]] = [[] for _ in cache.lengths]
    places = []
    for row, context in enumerate(cache.contexts):
        places.append(len(beside[context]))
        beside[context].append(row)
    width = max(map(len, beside))
    cells = [rows + [0] * (width - len(rows)) for rows in beside]
    columns = cache.before[0].size(3)
    unseen = [columns - cache.lengths[context] for context in cache.contexts]
    numbers = torch.tensor([cache.contexts, places, unseen, cache.births], device=device)
    context, place, unseen, births = numbers[..., None]  # (rows, 1) each
    before = torch.arange(columns, device=device)
    own = torch.arange(cache.own[0].size(3), device=device)
    group = torch.arange(cache.own[0].size(2), device=device)
    hidden = torch.cat([before < unseen, (own < births) | (own >= cache.end)], 1)
    bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))
    return _Layout(
        rows=len(cache.contexts),
        groups=len(group),
        cells=(torch.tensor(cells, device=device)[:, None], group[:, None]),
        places=(context, group, place),
        bias=bias[:, None, None],
        exact_scores=cache.exact_scores,
    )


@dataclass
class _Layer:
    """A layer's keys and values in a step: (contexts or rows * groups, columns, head size) each."""

    layout: _Layout
    context_keys: torch.Tensor
    context_values: torch.Tensor
    own_keys: torch.Tensor
    own_values: torch.Tensor

    def attend(self, query: torch.Tensor, scaling: float) -> torch.Tensor:
        """(rows, heads, 1, head size) -> (rows, 1, heads, head size).

        The softmax runs over a context's and a row's own columns together, in float32.
        """
        step = self.layout

        def of_contexts(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
            """(rows, groups, heads of a group, a) by (contexts * groups, a, b)."""
            beside = x[step.cells]  # (contexts, groups, width, heads of a group, a)
            product = torch.bmm(beside.flatten(2, 3).flatten(0, 1), matrix)
            return product.view(*beside.shape[:-1], matrix.size(-1))[step.places]

        query = query.to(self.own_keys.dtype)
        query = query.reshape(step.rows, step.groups, -1, query.size(-1))
        multiplied = (query, self.context_keys, self.own_keys)
        asked, context_keys, own_keys = (x.float() if step.exact_scores else x for x in multiplied)
        with torch.autocast(query.device.type, enabled=False):  # all have their dtype
            own = torch.bmm(asked.flatten(0, 1), own_keys.mT).view(*query.shape[:-1], -1)
            scores = torch.cat([of_contexts(asked, context_keys.mT), own], -1)
        probs = torch.add(step.bias, scores, alpha=scaling).softmax(-1).to(query.dtype)
        columns = self.context_keys.size(1)
        result = torch.bmm(probs[..., columns:].flatten(0, 1), self.own_values)
        result = result.view(*query.shape[:-1], -1)
        result += of_contexts(probs[..., :columns], self.context_values)
        return result.view(step.rows, 1, -1, result.size(-1))


def _attend(
    module: Any,
    query: torch.Tensor,
    key: _Layer,
    value: _Layer,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as Hugging Face's models call it."""
    if not isinstance(key, _Layer) or any(settings.get(name) is not None for name in _UNKNOWN):
        raise TypeError("attention of another kind")
    return key.attend(query, query.size(-1) ** -0.5 if scaling is None else scaling), None


AttentionInterface.register(_ATTENTION, _attend)


@contextmanager
def _attending(config: Any) -> Iterator[None]:
    usual = config._attn_implementation
    config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = usual


def fill(
    lm: Any, contexts: Sequence[Sequence[int]], pad_id: int, start: Filled | None = None
) -> Filled:
    """Compute contexts in one pass.

    Args:
        lm: a causal model.
        contexts: token ids, not empty.
        pad_id: what they are padded with.
        start: one context that all continue.
    """
    device = lm.get_input_embeddings().weight.device
    longest = max(map(len, contexts))
    pads = [longest - len(context) for context in contexts]
    ids = torch.tensor(
        [[pad_id] * pad + list(context) for pad, context in zip(pads, contexts, strict=True)],
        device=device,
    )  # (contexts, longest)
    seen = torch.arange(longest, device=device) >= torch.tensor(pads, device=device)[:, None]
    before = start.lengths[0] if start else 0
    mask = torch.cat([seen.new_ones(len(contexts), before), seen], 1).long()
    cache = {}
    if start:
        cache = {start.name: deepcopy(start.cache)}
        cache[start.name].batch_repeat_interleave(len(contexts))
    output = text_model(lm)(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, before:],
        use_cache=True,
        **cache,
    )
    # It was renamed in transformers 5.24.
    name = "cache" if hasattr(output, "cache") else "past_key_values"
    lengths = [before + len(context) for context in contexts]
    return Filled(name, getattr(output, name), before, lengths, output.last_hidden_state[:, -1])


def decode_step(
    lm: Any, cache: DecodeCache, name: str, tokens: torch.Tensor, positions: Sequence[int]
) -> torch.Tensor:
    """Compute one more token of each row.

    Args:
        lm: a causal model that :func:`decodes_alike`.
        cache: with the rows before these tokens.
        name: of the cache among the model's arguments.
        tokens: (rows,) int64.
        positions: of the tokens, each row's.

    Returns:
        (rows, hidden): the states that predict what follows.
    """
    cache.begin_step()
    with _attending(text_config(lm)):
        output = text_model(lm)(
            input_ids=tokens[:, None],
            position_ids=torch.tensor(positions, device=tokens.device)[:, None],
            use_cache=True,
            **{name: cache},
        )
    return output.last_hidden_state[:, -1]


@torch.no_grad()
def decodes_alike(lm: Any, pad_id: int, exact_scores: bool = False) -> bool:
    """Whether :func:`decode_step` computes what the model itself does: tried, not looked up.

    Attention differs between architectures in ways that would give wrong numbers without an error.
    """
    vocabulary = lm.get_input_embeddings().weight.size(0)
    ids = [(17 + 29 * i) % vocabulary for i in range(14)]
    contexts, replies = [ids[:5], ids[5:8]], [ids[8:10], ids[10:12], ids[12:14]]
    continued = [0, 1, 0]
    try:
        filled = fill(lm, contexts, pad_id)
        cache = DecodeCache(rows=3, contexts=2, exact_scores=exact_scores)
        cache.add_contexts(filled)
        cache.add_rows(continued)
        for step in range(2):
            tokens = torch.tensor([r[step] for r in replies], device=filled.states.device)
            positions = [len(contexts[i]) + step for i in continued]
            states = decode_step(lm, cache, filled.name, tokens, positions)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError):
        return False
    whole = fill(lm, [contexts[i] + r for i, r in zip(continued, replies, strict=True)], pad_id)
    difference = (states.float() - whole.states.float()).norm() / whole.states.float().norm()
    exact = states.dtype == torch.float32 and not torch.is_autocast_enabled(states.device.type)
    # In bfloat16 scores are rounded here and not in fused kernels: 3 % with Qwen2.5-Coder-0.5B, 8 %
    # with the 1.5B, whose keys are large. Exact: 1.8 % and 1.5 %; its own passes differ by 1 %.
    return bool(difference < (1e-4 if exact else 0.05))


def _empty(new: torch.Tensor, count: int) -> torch.Tensor:
    """A buffer of ``count`` like these, without columns, in the dtype that is computed in."""
    layers, _, heads, _, size = new.shape
    device = new.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else new.dtype
    return new.new_empty((layers, count, heads, 0, size), dtype=dtype)


def _resized(buffer: torch.Tensor, kept: slice, to: int, columns: int) -> torch.Tensor:
    """A buffer with so many columns, those kept from ``to`` on (0 where that is less).

    The others are 0, not just any numbers, since what is masked is multiplied too.
    """
    to, count = max(0, to), kept.stop - kept.start
    resized = buffer.new_zeros((*buffer.shape[:3], columns, buffer.size(4)))
    resized[:, :, :, to : to + count] = buffer[:, :, :, kept]
    return resized


def _gapless(kept: Sequence[int]) -> list[int]:
    """Which of those kept goes to each place from 0 on, so that as few as possible move."""
    stay = {i for i in kept if i < len(kept)}
    others = iter(i for i in kept if i >= len(kept))
    return [i if i in stay else next(others) for i in range(len(kept))]


def _move(buffer: torch.Tensor, order: Sequence[int]) -> None:
    """Move entries of the second dimension to where ``order`` has them."""
    to = [i for i, was in enumerate(order) if i != was]
    if to:
        buffer[:, to] = buffer[:, [order[i] for i in to]]
