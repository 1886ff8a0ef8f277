"""LoRA layers whose forward and backward pass stay in one dtype.

peft's layer takes its input to the adapter's float32, which autocast takes back to bfloat16: two
copies of every input on the way and two of every gradient back. Here one autograd function does the
frozen product and the adapter's, in the dtype that autocast computes in, and adds the second to
the first in place. The modules stay peft's (a subclass of its layer), so that saving, merging,
switching adapters and disabling them stay peft's too; whatever else peft's layer can do is passed
on to it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.autograd.function import once_differentiable


class LeanLinear(Linear):
    """peft's LoRA layer over an ``nn.Linear``, computed by :class:`LoraProduct` where it can be."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(..., in) -> (..., out), of the dtype that the layer below the adapter gives."""
        adapter = None if args or kwargs else self._plain_adapter()
        if adapter is None:
            return super().forward(x, *args, **kwargs)
        a, b = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        base = self.get_base_layer()
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        elif x.dtype == base.weight.dtype == a.dtype == b.dtype:
            dtype = x.dtype
        else:
            return super().forward(x)
        return LoraProduct.apply(x, base.weight, base.bias, a, b, self.scaling[adapter], dtype)

    def _plain_adapter(self) -> str | None:
        """The one adapter that acts, where nothing but two matrices acts in it; else None."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        [name] = self.active_adapters
        base = self.get_base_layer()
        is_plain = (
            name in self.lora_A
            and isinstance(self.lora_dropout[name], nn.Identity)
            and not self.lora_bias[name]
            and not self.use_dora[name]
            # DoRA and its like; peft before 0.16 has none but DoRA.
            and name not in getattr(self, "lora_variant", ())
            and not base.weight.requires_grad
            and (base.bias is None or not base.bias.requires_grad)
        )
        return name if is_plain else None


class LoraProduct(torch.autograd.Function):
    """x W^T + bias + scaling (x A^T) B^T, with gradients of x, A and B, all in one dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Args:
        x: (..., in).
        weight, bias: (out, in) and (out,) or None; frozen.
        a, b: (rank, in) and (out, rank).
        scaling: of the adapter's product.
        dtype: to compute in; also of the result, (..., out).
        """
        ctx.x_dtype, ctx.a_dtype, ctx.b_dtype = x.dtype, a.dtype, b.dtype
        ctx.shape, ctx.scaling = x.shape, scaling
        x, weight, a, b = x.to(dtype), weight.to(dtype), a.to(dtype), b.to(dtype)
        # No view of another tensor: OLMo clamps what comes out in place, which a view forbids.
        result = F.linear(x, weight, None if bias is None else bias.to(dtype))  # (..., out)
        x = x.flatten(0, -2)  # (tokens, in)
        down = F.linear(x, a)  # (tokens, rank)
        result.view(-1, len(weight)).addmm_(down, b.T, alpha=scaling)
        ctx.save_for_backward(x, weight, a, b, down)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b, down = ctx.saved_tensors
        grad = grad.to(x.dtype).flatten(0, -2)  # (tokens, out)
        grad_down = (grad @ b).mul_(ctx.scaling)  # (tokens, rank)
        grad_x = grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_down, a).view(ctx.shape).to(ctx.x_dtype)
        if ctx.needs_input_grad[3]:
            grad_a = (grad_down.T @ x).to(ctx.a_dtype)
        if ctx.needs_input_grad[4]:
            # In this order, since it takes two thirds of the other's time.
            grad_b = (down.T @ grad).mul_(ctx.scaling).T.to(ctx.b_dtype)
        return grad_x, None, None, grad_a, grad_b, None, None


def make_lean(model: nn.Module) -> None:
    """Have a peft model's LoRA layers over an ``nn.Linear`` compute as :class:`LeanLinear` does.

    Layers of another class (quantised, Conv1D, embeddings) are left as they are.
    """
    for module in model.modules():
        if type(module) is Linear and type(module.get_base_layer()) is nn.Linear:
            module.__class__ = LeanLinear
