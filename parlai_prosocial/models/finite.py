"""Weights that are no numbers are refused: what they compute looks like an answer."""

import torch
from torch import nn

from parlai_prosocial.errors import UserError


def refuse_non_finite(model: nn.Module, where: str) -> None:
    """Raise :class:`UserError` where a parameter or buffer holds NaN or an infinity.

    Args:
        model: as it was loaded.
        where: what the user named, for the message.
    """
    for name, tensor in model.named_parameters():
        if tensor.numel() and tensor.is_floating_point():
            least, most = torch.aminmax(tensor.detach())  # both are NaN where any is
            if not (least.isfinite() and most.isfinite()):
                raise UserError(
                    f"{where}: its weights are not finite ({name} holds NaN or infinity); fetch it "
                    "again, or take an earlier checkpoint"
                )
