"""The projections of the cosine score."""

import torch

from parlai_prosocial.models.contrast_head import ContrastHead


def test_unit_vectors_in_float32_also_under_autocast():
    head = ContrastHead(8, dim=5)
    with torch.autocast("cpu", torch.bfloat16):
        contexts, responses = head(torch.randn(3, 8).bfloat16(), torch.randn(4, 8).bfloat16())
    assert contexts.shape == (3, 5)
    assert responses.shape == (4, 5)
    for vectors in (contexts, responses):
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)))


def test_contexts_and_responses_have_projections_of_their_own():
    head = ContrastHead(8)
    states = torch.randn(2, 8)
    contexts, responses = head(states, states)
    assert not torch.allclose(contexts, responses)


def test_a_state_of_zeros_is_finite():
    contexts, responses = ContrastHead(8)(torch.zeros(1, 8), torch.zeros(1, 8))
    assert (contexts @ responses.T).isfinite().all()
