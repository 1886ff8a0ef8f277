"""Sums and means over candidates, by hand."""

import torch

from parlai_prosocial.models.scores import CandidateScores, mean_pool, reply_tokens, token_log_probs


def test_mean_log_probs_by_hand():
    scores = CandidateScores(
        token_log_probs=torch.tensor([-1.0, -3.0, -4.0]),
        token_correct=torch.tensor([True, False, True]),
        token_candidates=torch.tensor([0, 0, 1]),
        token_in_reply=torch.tensor([True, True, True]),
        candidate_examples=torch.tensor([0, 0]),
        context_states=torch.zeros(1, 2),
        response_states=torch.zeros(2, 2),
    )
    assert scores.mean_log_probs().tolist() == [-2.0, -4.0]
    assert scores.log_probs().tolist() == [-4.0, -4.0]
    assert scores.token_counts().tolist() == [2.0, 1.0]
    assert scores.sum_per_candidate(scores.token_correct.float()).tolist() == [1.0, 1.0]


def test_the_score_leaves_the_end_of_turn_out_and_the_likelihood_keeps_it():
    targets, owners = torch.tensor([4, 9, 2, 5, 2, 2, 7, 8]), torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    # An end-of-turn within a reply stays, and so do a reply of nothing else and one without.
    targets[1] = 2
    in_reply = reply_tokens(targets, owners, [2, 3])
    assert in_reply.int().tolist() == [1, 1, 0, 1, 0, 1, 1, 1]
    scores = CandidateScores(
        token_log_probs=torch.tensor([-1.0, -3.0, -50.0, -2.0, -50.0, -6.0, -4.0, -2.0]),
        token_correct=torch.ones(8, dtype=torch.bool),
        token_candidates=owners,
        token_in_reply=in_reply,
        candidate_examples=torch.zeros(4, dtype=torch.long),
    )
    assert scores.mean_log_probs().tolist() == [-2.0, -2.0, -6.0, -3.0]
    assert scores.reply_log_probs().tolist() == [-4.0, -2.0, -6.0, -6.0]
    assert scores.log_probs().tolist() == [-54.0, -52.0, -6.0, -6.0]
    assert scores.token_counts().tolist() == [3.0, 2.0, 1.0, 2.0]
    assert not len(reply_tokens(targets[:0], owners[:0], [2]))


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
