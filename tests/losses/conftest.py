import pytest
import torch


@pytest.fixture
def batch():
    """Six examples with 0 to 4 of 5 negatives, in float64, with in-batch scores."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    counts = torch.tensor([0, 1, 2, 3, 4, 4])
    in_batch = normal(6, 6)
    return {
        "positive_scores": in_batch.diagonal().clone(),
        "negative_scores": normal(6, 5),
        "negative_mask": torch.arange(5)[None] < counts[:, None],
        "negative_log_weights": normal(6, 5),
        "in_batch_scores": in_batch,
        "in_batch_mask": (normal(6, 6) < 0.5) & ~torch.eye(6, dtype=torch.bool),
    }
