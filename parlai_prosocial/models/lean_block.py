"""Norms and gated layers of a Llama-shaped block that keep less for the backward pass.

transformers' RMSNorm keeps its input in float32 and what it is scaled to, and under autocast each
projection that takes the result keeps a copy of its own in bfloat16. Here the input and a number
for each token are kept, and the result has the projections' dtype, so that they share one. Of
SiLU(gate) x up the two factors' inputs are kept, and SiLU is computed again (its time is small
beside that of the products around it). The forward pass gives the same numbers bit by bit.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

BLOCKS = (
    "LlamaDecoderLayer",
    "MistralDecoderLayer",
    "Qwen2DecoderLayer",
    "Qwen3DecoderLayer",
    "SmolLM3DecoderLayer",
)
"""Of transformers: whose two norms feed projections and nothing else, and scale by ``weight``."""


class ScaledToOne(torch.autograd.Function):
    """weight x / rms(x), computed in float32 at least (RMSNorm, Zhang and Sennrich 2019)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype
    ) -> torch.Tensor:
        """Args:
        x: (..., size).
        weight: (size,).
        epsilon: added to the mean square.
        dtype: of the result, (..., size).
        """
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)  # (..., 1)
        ctx.save_for_backward(x, weight, scale)
        return (weight * (exact * scale).to(x.dtype)).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        # Products of two dtypes are not vectorised, so everything is cast first.
        grad, normed = grad.to(scale.dtype), x.to(scale.dtype) * scale
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            grad_x = grad * weight.to(scale.dtype)
            along = (grad_x * normed).mean(-1, keepdim=True)  # that part changes the scale alone
            grad_x = grad_x.sub_(normed.mul_(along)).mul_(scale).to(x.dtype)
        return grad_x, grad_weight, None, None


class Gated(torch.autograd.Function):
    """SiLU(gate) x up (SwiGLU, Shazeer 2020), SiLU computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Two tensors of one shape and dtype -> one of the same."""
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class LeanNorm(nn.Module):
    """The forward pass of a norm of :data:`BLOCKS`."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., size) -> (..., size), under autocast of its dtype."""
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        return ScaledToOne.apply(x, self.weight, self.variance_epsilon, dtype)


class LeanGatedLayer(nn.Module):
    """The forward pass of a gated layer of :data:`BLOCKS` whose activation is SiLU."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., size) -> (..., size)."""
        return self.down_proj(Gated.apply(self.gate_proj(x), self.up_proj(x)))


def make_lean_blocks(lm: nn.Module) -> None:
    """Have the blocks of a language model compute as this module does, where it knows them."""
    classes: dict[type, type] = {}  # transformers' own to a subclass with another forward pass

    def make_lean(module: nn.Module, lean: type[nn.Module]) -> None:
        plain: type = type(module)
        if plain not in classes:
            classes[plain] = type(f"Lean{plain.__name__}", (lean, plain), {})
        module.__class__ = classes[plain]

    known: list[Any] = [m for m in lm.modules() if type(m).__name__ in BLOCKS]
    for block in known:
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            make_lean(norm, LeanNorm)
        if block.mlp.config.hidden_act == "silu":
            make_lean(block.mlp, LeanGatedLayer)
