"""Sums and means over candidates, by hand."""

import torch

from parlai_prosocial.models.scores import CandidateScores, mean_pool, token_log_probs


def test_mean_log_probs_by_hand():
    scores = CandidateScores(
        token_log_probs=torch.tensor([-1.0, -3.0, -4.0]),
        token_correct=torch.tensor([True, False, True]),
        token_candidates=torch.tensor([0, 0, 1]),
        candidate_examples=torch.tensor([0, 0]),
        context_states=torch.zeros(1, 2),
        response_states=torch.zeros(2, 2),
    )
    assert scores.mean_log_probs().tolist() == [-2.0, -4.0]
    assert scores.token_counts().tolist() == [2.0, 1.0]
    assert scores.sum_per_candidate(scores.token_correct.float()).tolist() == [1.0, 1.0]


def test_token_log_probs_are_float32_for_bf16_logits():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]], dtype=torch.bfloat16)
    log_probs, correct = token_log_probs(logits, torch.tensor([1, 1]))
    assert log_probs.dtype == torch.float32
    expected = torch.tensor([[0.0, 1.0], [2.0, 0.0]]).log_softmax(-1)[:, 1]
    torch.testing.assert_close(log_probs, expected)
    assert correct.tolist() == [True, False]


def test_mean_pool_gives_zeros_where_there_is_nothing():
    states = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.bfloat16)
    pooled = mean_pool(states, torch.tensor([0, 0, 2]), 3)
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[2.0, 3.0], [0.0, 0.0], [5.0, 6.0]]
