"""One forward pass for a context and all of its candidate responses (causal models).

``[context | y+ | y-_1 | y-_2 ...]`` stands in one row; a block mask lets every response see the
context and itself only, and positions restart after the context for each response. So the context
is computed once instead of K + 1 times (docs/design.md#one-pass-for-all-replies). Several examples
share a row where that is less work: less padding, but attention over longer rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

ATTENTION_AS_MUCH = 1500
"""Tokens in a row at which attention costs as much as all else, roughly: 800 were measured with
SmolLM2-135M on a CPU in bf16, and it grows with a model's width."""


@dataclass
class PackedBatch:
    """E examples with C candidates in all, whose responses have T tokens in all.

    Attributes:
        input_ids: (rows, length) int64.
        position_ids: (rows, length) int64; the position within context + own response.
        example_ids: (rows, length) int64; the example of each token, -1 on padding.
        candidate_ids: (rows, length) int64; the candidate of each token, -1 on context.
        query_positions: (T,) int64; index into the flattened rows of the state that predicts a
            response token. The first token of every response is predicted by the last context
            token, which they all share.
        target_ids: (T,) int64; the predicted tokens, end-of-turn included.
        target_candidates: (T,) int64; the candidate that each target belongs to.
        token_candidates: (S,) int64; the candidate of each response token that is an input.
        token_positions: (S,) int64; its index into the flattened rows.
        context_ends: (E,) int64; flat index of each example's last context token.
        candidate_examples: (C,) int64; the example of each candidate.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    example_ids: torch.Tensor
    candidate_ids: torch.Tensor
    query_positions: torch.Tensor
    target_ids: torch.Tensor
    target_candidates: torch.Tensor
    token_candidates: torch.Tensor
    token_positions: torch.Tensor
    context_ends: torch.Tensor
    candidate_examples: torch.Tensor

    def to(self, device: torch.device) -> "PackedBatch":
        return PackedBatch(
            **{name: x.to(device, non_blocking=True) for name, x in self.__dict__.items()}
        )

    def attention_mask(self) -> torch.Tensor:
        """(rows, 1, length, length) bool, True where a token (dim 2) may see another (dim 3)."""
        example, candidate = self.example_ids, self.candidate_ids  # (rows, length)
        length = example.size(1)
        same_example = example[:, :, None] == example[:, None, :]  # (rows, length, length)
        same_candidate = candidate[:, :, None] == candidate[:, None, :]
        is_context = (candidate == -1)[:, None, :]
        causal = torch.ones(length, length, dtype=torch.bool, device=example.device).tril()
        # Padding has example -1, so it sees earlier padding and itself: no row is fully masked.
        return (same_example & (same_candidate | is_context) & causal)[:, None]

    @property
    def padding_share(self) -> float:
        return (self.example_ids == -1).float().mean().item()


def pack(
    contexts: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[Sequence[int]]],
    pad_id: int,
) -> PackedBatch:
    """Pack examples into rows, several to a row where they fit.

    Args:
        contexts: token ids of E contexts, none of them empty.
        candidates: for each context its responses' token ids, each ending with end-of-turn.
        pad_id: any token id; masks come from lengths, never from ids.

    The last token of a response is only ever a target, so it takes no place in a row.
    """
    lengths = [
        len(context) + sum(len(y) - 1 for y in responses)
        for context, responses in zip(contexts, candidates, strict=True)
    ]
    rows = _least_work(lengths)
    length = _row_length(rows, lengths)

    shape = (len(rows), length)
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    position_ids = torch.zeros(shape, dtype=torch.long)
    example_ids = torch.full(shape, -1, dtype=torch.long)
    candidate_ids = torch.full(shape, -1, dtype=torch.long)

    first_candidate = [0]
    for responses in candidates:
        first_candidate.append(first_candidate[-1] + len(responses))
    queries: list[list[int]] = [[] for _ in range(first_candidate[-1])]
    tokens: list[range] = [range(0)] * first_candidate[-1]
    context_ends = [0] * len(contexts)

    for r, row in enumerate(rows):
        start = 0
        for i in row:
            context = contexts[i]
            end = start + len(context)
            input_ids[r, start:end] = torch.tensor(context)
            position_ids[r, start:end] = torch.arange(len(context))
            example_ids[r, start : start + lengths[i]] = i
            context_ends[i] = r * length + end - 1
            for j, response in enumerate(candidates[i], start=first_candidate[i]):
                start, end = end, end + len(response) - 1
                if end > start:
                    input_ids[r, start:end] = torch.tensor(response[:-1])
                    position_ids[r, start:end] = len(context) + torch.arange(end - start)
                    candidate_ids[r, start:end] = j
                tokens[j] = range(r * length + start, r * length + end)
                queries[j] = [context_ends[i], *tokens[j]]
            start = end

    flat_responses = [y for responses in candidates for y in responses]
    return PackedBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        example_ids=example_ids,
        candidate_ids=candidate_ids,
        query_positions=torch.tensor([q for qs in queries for q in qs], dtype=torch.long),
        target_ids=torch.tensor([t for y in flat_responses for t in y], dtype=torch.long),
        target_candidates=repeat_index([len(y) for y in flat_responses]),
        token_candidates=repeat_index([len(t) for t in tokens]),
        token_positions=torch.tensor([p for t in tokens for p in t], dtype=torch.long),
        context_ends=torch.tensor(context_ends, dtype=torch.long),
        candidate_examples=repeat_index([len(responses) for responses in candidates]),
    )


def pack_separately(
    contexts: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[Sequence[int]]],
    pad_id: int,
) -> PackedBatch:
    """The same batch with the context repeated for every candidate, each in a row of its own.

    For models whose attention cannot take a block mask: rows are plain right-padded sequences.
    Arguments as in :func:`pack`.
    """
    responses = [y for ys in candidates for y in ys]
    owners = repeat_index([len(ys) for ys in candidates])  # (C,)
    repeated = [contexts[i] for i in owners.tolist()]
    rows = [[*context, *y[:-1]] for context, y in zip(repeated, responses, strict=True)]
    shape = (len(rows), max(len(row) for row in rows))
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    example_ids = torch.full(shape, -1, dtype=torch.long)
    candidate_ids = torch.full(shape, -1, dtype=torch.long)
    queries, tokens = [], []
    for j, (row, context) in enumerate(zip(rows, repeated, strict=True)):
        input_ids[j, : len(row)] = torch.tensor(row)
        example_ids[j, : len(row)] = owners[j]
        candidate_ids[j, len(context) : len(row)] = j
        queries.append(range(j * shape[1] + len(context) - 1, j * shape[1] + len(row)))
        tokens.append(queries[-1][1:])
    first_rows = [0, *torch.tensor([len(ys) for ys in candidates]).cumsum(0).tolist()[:-1]]
    return PackedBatch(
        input_ids=input_ids,
        position_ids=torch.arange(shape[1]).expand(shape),
        example_ids=example_ids,
        candidate_ids=candidate_ids,
        query_positions=torch.tensor([q for qs in queries for q in qs], dtype=torch.long),
        target_ids=torch.tensor([t for y in responses for t in y], dtype=torch.long),
        target_candidates=repeat_index([len(y) for y in responses]),
        token_candidates=repeat_index([len(ts) for ts in tokens]),
        token_positions=torch.tensor([p for ts in tokens for p in ts], dtype=torch.long),
        context_ends=torch.tensor(
            [row * shape[1] + len(contexts[i]) - 1 for i, row in enumerate(first_rows)]
        ),
        candidate_examples=owners,
    )


def repeat_index(counts: Sequence[int]) -> torch.Tensor:
    """(sum of counts,) int64: index i, ``counts[i]`` times.

    >>> repeat_index([2, 0, 1]).tolist()
    [0, 0, 2]
    """
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.long))


def _least_work(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of the longest example's length, or up to twice that where that is less work."""
    longest = max(lengths)
    choices = [_first_fit(lengths, longest + longest * i // 8) for i in range(9)]

    def work(rows: list[list[int]]) -> float:
        length = _row_length(rows, lengths)
        return len(rows) * length * (1 + length / ATTENTION_AS_MUCH)

    return min(choices, key=work)


def _row_length(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return max(sum(lengths[i] for i in row) for row in rows)


def _first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of at most ``capacity`` tokens, filled longest first."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for r, free in enumerate(room):
            if lengths[i] <= free:
                rows[r].append(i)
                room[r] -= lengths[i]
                break
        else:
            rows.append([i])
            room.append(capacity - lengths[i])
    return rows
