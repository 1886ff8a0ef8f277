"""Attention of a training step on a CPU: torch's fused kernel, or two products and a softmax.

The fused kernel does not keep the (rows, heads, length, length) probabilities. In bfloat16, at the
lengths of dialogues, that costs it two to three times as long as plain products take; torch's own
plain kernel gives gradients further from float32's. So there is one here, and which of the two a
run uses is found by a trial at the shape of its first batch.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

FUSED, PLAIN = "fused", "plain"
CLEARLY = 0.8
"""Plain attention is taken where it needs at most this share of the fused kernel's time."""


class PlainProduct(torch.autograd.Function):
    """softmax(scale q k^T + bias) v, whose probabilities are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Args:
        q, k, v: (rows, heads, length, head size) of one dtype, which is computed in.
        bias: (rows, heads or 1, length, length) of that dtype; gets no gradient.
        scale: of the scores.

        Returns:
            (rows, heads, length, head size).
        """
        q = q * scale
        scores = q @ k.mT
        probs = scores.add_(bias).softmax(-1)
        ctx.save_for_backward(q, k, v, probs)
        ctx.scale = scale
        return probs @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, probs = ctx.saved_tensors
        grad_v = probs.mT @ grad
        grad_scores = torch._softmax_backward_data(grad @ v.mT, probs, -1, probs.dtype)
        grad_q = (grad_scores @ k).mul_(ctx.scale)
        return grad_q, grad_scores.mT @ q, grad_v, None, None


class PlainAttention(TorchFunctionMode):
    """Inside, ``scaled_dot_product_attention`` under a boolean mask is :class:`PlainProduct`.

    Calls with dropout, without a mask, or with fewer keys' heads than queries' stay torch's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mask: torch.Tensor | None = None
        self.bias = torch.empty(0)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention or not self._is_plain(args, kwargs):
            return func(*args, **kwargs)
        mask, scale = kwargs["attn_mask"], kwargs.get("scale")
        dtype = args[0].dtype
        if torch.is_autocast_enabled("cpu"):  # which would cast what it is given
            dtype = torch.get_autocast_dtype("cpu")
        q, k, v = (x.to(dtype) for x in args)
        if mask is not self.mask or self.bias.dtype != dtype:  # all layers have the same one
            self.mask = mask
            # Not -inf: a token that sees nothing would get NaN.
            hidden = torch.finfo(dtype).min
            self.bias = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, hidden)
        return PlainProduct.apply(
            q, k, v, self.bias, q.size(-1) ** -0.5 if scale is None else scale
        )

    @staticmethod
    def _is_plain(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        mask = kwargs.get("attn_mask")
        return (
            len(args) == 3
            and args[0].shape[:2] == args[1].shape[:2]
            and mask is not None
            and mask.dtype == torch.bool
            and not kwargs.get("dropout_p")
            and not kwargs.get("is_causal")
        )


def attention(kernel: str) -> AbstractContextManager:
    """The context of a training step's forward pass, for ``FUSED`` or ``PLAIN``."""
    return PlainAttention() if kernel == PLAIN else nullcontext()


def faster_attention(config: Any, rows: int, length: int, dtype: torch.dtype) -> tuple[str, str]:
    """The kernel for a run on the CPU, and the measurement that it rests on, to be logged.

    A fraction of a step's time. In float32 plain products gained nothing at any length, so nothing
    is timed there.

    Args:
        config: of a Hugging Face text model.
        rows, length: shape of a batch of token ids.
        dtype: that attention computes in.
    """
    if dtype == torch.float32:
        return FUSED, "as it is faster in fp32"
    seconds = _seconds_of_a_layer(config, rows, length, dtype)
    kernel = PLAIN if seconds[PLAIN] < CLEARLY * seconds[FUSED] else FUSED
    times = " and ".join(f"{name} {1000 * taken:.1f} ms" for name, taken in seconds.items())
    return kernel, f"at {rows} x {length} tokens a layer takes {times}"


def _seconds_of_a_layer(
    config: Any, rows: int, length: int, dtype: torch.dtype
) -> dict[str, float]:
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    q, k, v = (
        torch.ones(rows, heads, length, size, dtype=dtype, requires_grad=True) for _ in range(3)
    )
    mask = torch.ones(length, length, dtype=torch.bool).tril().expand(rows, 1, length, length)
    seconds = {}
    for kernel in (FUSED, PLAIN):
        times = []
        for _ in range(4):  # the first builds the kernel
            start = time.perf_counter()
            with torch.enable_grad(), attention(kernel):  # a caller may be under no_grad
                result = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            torch.autograd.grad(result, (q, k, v), torch.ones_like(result))
            times.append(time.perf_counter() - start)
        seconds[kernel] = min(times[1:])
    return seconds
