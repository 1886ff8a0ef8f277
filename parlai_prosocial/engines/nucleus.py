"""Drawing from the nucleus (Holtzman et al. 2020), each row by a random number of its own."""

import sys

import torch

_LOOKS = (128, 2048, sys.maxsize)
"""How many of a row's most probable tokens are looked at until they hold ``top_p``.

Sorting all 49,152 takes longer than all else of a step, so only rows that need it are sorted.
"""

_TOGETHER = 8
"""Rows at a time on a CPU, so that what is made of them stays in its cache (3 times as fast)."""


def nucleus_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """Draw each row's token from its nucleus by the row's own random number.

    Args:
        logits: (rows, vocabulary).
        uniforms: (rows,) in [0, 1); the draw is the inverse of the nucleus' distribution function.
        temperature: 0 takes the most probable token.
        top_p: the nucleus is the smallest set of most probable tokens with at least this mass.

    Returns:
        (rows,) int64.

    >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> [int(nucleus_tokens(logits, torch.tensor([u]), 1.0, 0.8)) for u in (0.0, 0.62, 0.63, 0.99)]
    [0, 0, 1, 1]
    """
    if temperature == 0:
        return logits.argmax(-1)
    together = _TOGETHER if logits.device.type == "cpu" else max(1, len(logits))
    parts = zip(logits.split(together), uniforms.split(together), strict=True)
    return torch.cat([_tokens(*part, temperature, top_p) for part in parts])


def _tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float
) -> torch.Tensor:
    """The same of a few rows, where the temperature is not 0."""
    logits = logits.float()
    probs = (logits if temperature == 1 else logits / temperature).softmax(-1)
    tokens = torch.empty_like(uniforms, dtype=torch.long)
    rows = torch.arange(len(probs), device=probs.device)
    for count in _LOOKS:
        if count < probs.size(-1):
            top, ids = probs.topk(count, -1)
        else:
            top, ids = probs.sort(-1, descending=True)
        enough = (top.sum(-1) >= top_p) | (count >= probs.size(-1))
        tokens[rows[enough]] = _drawn(top[enough], ids[enough], uniforms[rows[enough]], top_p)
        rows, probs = rows[~enough], probs[~enough]
        if not len(rows):
            break
    return tokens


def _drawn(
    top: torch.Tensor, ids: torch.Tensor, uniforms: torch.Tensor, top_p: float
) -> torch.Tensor:
    """(rows,) tokens from (rows, count) probabilities in falling order, with their ids."""
    before = top.cumsum(-1) - top
    nucleus = (top * (before < top_p)).cumsum(-1)
    drawn = uniforms.to(nucleus.dtype)[:, None] * nucleus[:, -1:]
    # The last tokens of the row have no mass: rounding must not lead there.
    position = torch.searchsorted(nucleus, drawn, right=True).clamp(max=top.size(-1) - 1)
    position = torch.minimum(position, (before < top_p).sum(-1, keepdim=True) - 1)
    return ids.gather(1, position).squeeze(1)
