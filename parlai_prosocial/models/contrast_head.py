"""The learned judge: cosine of projected context and response states."""

import torch
import torch.nn.functional as F
from torch import nn


class ContrastHead(nn.Module):
    """Projects pooled states of contexts and of responses into one space.

    Args:
        hidden: width of the model's states.
        dim: width of the shared space.

    References: docs/design.md#scores (`cosine`); CoNT (An et al. 2022) for its use at
    inference. The two projections differ because a context and a response are different things.
    """

    def __init__(self, hidden: int, dim: int = 256):
        super().__init__()
        self.context = nn.Linear(hidden, dim, bias=False)
        self.response = nn.Linear(hidden, dim, bias=False)

    def forward(
        self, context_states: torch.Tensor | None, response_states: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(E, hidden), (C, hidden) -> unit vectors (E, dim), (C, dim) in float32."""
        assert context_states is not None and response_states is not None
        with torch.autocast(context_states.device.type, enabled=False):
            contexts = F.normalize(self.context(context_states.float()), dim=-1)
            responses = F.normalize(self.response(response_states.float()), dim=-1)
        return contexts, responses
