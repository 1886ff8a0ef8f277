"""Log probabilities of given tokens, without the logits of a whole batch in memory.

The output layer's products for a few tokens at a time become their log p and, at once, the gradient
of the states below: log p of one token depends on its own state alone, so that the gradient that
comes later only scales it (as in Liger Kernel's fused cross entropy, Hsu et al. 2024).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

LOGITS_AT_ONCE = 2**23
"""100 MB of them, with their float32 copy and its gradient."""


def computes_target_log_probs(layer: nn.Module, states: torch.Tensor) -> bool:
    """Whether :func:`target_log_probs` takes this output layer: a plain one, of one dtype."""
    if type(layer) is not nn.Linear:
        return False
    return states.dtype == layer.weight.dtype or torch.is_autocast_enabled(states.device.type)


def target_log_probs(
    layer: nn.Linear, states: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`~.scores.token_log_probs` of ``layer(states)``.

    Args:
        layer: (vocabulary, hidden), trained or frozen.
        states: (T, hidden).
        targets: (T,) int64.

    Returns:
        (T,) log p in float32, (T,) bool: whether the target was the most probable token.
    """
    device = states.device.type
    dtype = states.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return TargetLogProbs.apply(states, layer.weight, layer.bias, targets, dtype)


class TargetLogProbs(torch.autograd.Function):
    """What :func:`target_log_probs` computes, with gradients of states, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.dtypes = [None if x is None else x.dtype for x in (states, weight, bias)]
        states, weight = states.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        found = torch.empty(len(targets), device=states.device)
        correct = torch.empty_like(targets, dtype=torch.bool)
        slopes = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for part in _parts(len(targets), len(weight)):
            logits = F.linear(states[part], weight, bias)
            chosen = targets[part, None]
            correct[part] = _are_first(logits, chosen)
            log_probs = logits.log_softmax(-1, dtype=torch.float32)
            found[part] = log_probs.gather(1, chosen)[:, 0]
            if slopes is not None:
                torch.mm(_slopes(log_probs, chosen).to(dtype), weight, out=slopes[part])
        trains_layer = any(ctx.needs_input_grad[1:3])
        ctx.save_for_backward(
            slopes, *((states, weight, bias, targets) if trains_layer else (None,) * 4)
        )
        ctx.mark_non_differentiable(correct)
        return found, correct

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: torch.Tensor, _: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        slopes, states, weight, bias, targets = ctx.saved_tensors
        of_states, of_weight, of_bias = ctx.dtypes
        grad_states = None if slopes is None else (slopes * grad[:, None]).to(of_states)
        grad_weight = torch.zeros_like(weight, dtype=of_weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=of_bias) if ctx.needs_input_grad[2] else None
        for part in _parts(len(grad), len(weight)) if states is not None else ():
            log_probs = F.linear(states[part], weight, bias).log_softmax(-1, dtype=torch.float32)
            grad_logits = _slopes(log_probs, targets[part, None]).mul_(grad[part, None])
            if grad_weight is not None:
                grad_weight += grad_logits.to(states.dtype).T @ states[part]
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0).to(grad_bias.dtype)
        return grad_states, grad_weight, grad_bias, None, None


def _parts(count: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, LOGITS_AT_ONCE // vocabulary)
    return (slice(start, start + size) for start in range(0, count, size))


def _are_first(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(T,) bool: what ``logits.argmax(-1) == chosen[:, 0]`` gives, several times faster on a CPU.

    Only where the chosen one has the largest logit can it be, and only there is argmax asked.
    """
    are_first = logits.gather(1, chosen)[:, 0] == logits.amax(-1)
    rows = are_first.nonzero()[:, 0]
    are_first[rows] = logits[rows].argmax(-1) == chosen[rows, 0]
    return are_first


def _slopes(log_probs: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(T, vocabulary) gradient of the chosen tokens' log p in the logits; overwrites the former."""
    return log_probs.exp_().neg_().scatter_add_(1, chosen, log_probs.new_ones(chosen.shape))
