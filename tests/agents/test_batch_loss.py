"""The contrastive loss of a batch, by hand."""

from math import exp, log

import pytest
import torch
import torch.nn.functional as F

from parlai_prosocial.agents.batch_loss import contrast_loss, padded_by_example
from parlai_prosocial.agents.batch_negatives import (
    Example,
    add_in_batch_negatives,
    in_batch_mask,
)
from parlai_prosocial.data.example import W_MIN
from parlai_prosocial.losses.likelihood_margin import LikelihoodMarginLoss
from parlai_prosocial.losses.n_pair import NPairLoss
from parlai_prosocial.models.contrast_head import ContrastHead
from parlai_prosocial.models.scores import CandidateScores


def example(text, group="", rots=(), negatives=(), log_weights=()):
    ids = list(text.encode())
    return Example([1, 2], ids, text, group, frozenset(rots), list(negatives), list(log_weights))


def test_padded_by_example():
    values = torch.arange(1.0, 7.0)
    assert padded_by_example(values, [3, 1, 2]).tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]


EXAMPLES = [
    example("rest", negatives=[[7], [8]], log_weights=[0.5, -0.2]),
    example("walk"),
    example("swim", negatives=[[9]], log_weights=[0.0]),
]
CANDIDATE_EXAMPLES = torch.tensor([0, 0, 0, 1, 2, 2])
LOG_PROBS = torch.tensor([-1.0, -3.0, -0.5, -2.0, -1.5, -1.5])


def scores(width=4):
    torch.manual_seed(0)
    return CandidateScores(
        token_log_probs=LOG_PROBS,
        token_correct=torch.zeros(6, dtype=torch.bool),
        token_candidates=torch.arange(6),
        token_in_reply=torch.ones(6, dtype=torch.bool),
        candidate_examples=CANDIDATE_EXAMPLES,
        context_states=torch.randn(3, width),
        response_states=torch.randn(6, width),
    )


def likelihood_by_hand(tau):
    first = torch.tensor([0.0, (-3 + 1) / tau + 0.5, (-0.5 + 1) / tau - 0.2]).logsumexp(0)
    return torch.stack([first, torch.tensor(0.0), torch.tensor([0.0, 0.0]).logsumexp(0)])


def test_likelihood_by_hand():
    output = contrast_loss(NPairLoss(0.5), "likelihood", scores(), EXAMPLES, None, None)
    mean_log_probs, mask = output.mean_log_probs, output.mask
    torch.testing.assert_close(output.loss, likelihood_by_hand(0.5))
    assert output.has_negatives.tolist() == [True, False, True]
    assert mean_log_probs[:, 0].tolist() == [-1.0, -2.0, -1.5]
    assert mask.tolist() == [[True, True], [False, False], [True, False]]


def test_likelihood_margin_takes_sums_over_tokens():
    # Two tokens for each candidate: the sum is twice the mean.
    doubled = scores()._replace(
        token_log_probs=LOG_PROBS.repeat_interleave(2),
        token_correct=torch.zeros(12, dtype=torch.bool),
        token_candidates=torch.arange(6).repeat_interleave(2),
        token_in_reply=torch.ones(12, dtype=torch.bool),
    )
    output = contrast_loss(LikelihoodMarginLoss(1.0), "likelihood", doubled, EXAMPLES, None, None)
    # log p of the first example: -2 against -6 (weight e^0.5) and -1 (weight e^-0.2).
    first = 2.0 * exp(-0.2) / 2
    torch.testing.assert_close(output.loss, torch.tensor([first, 0.0, 1.0]))
    assert output.mean_log_probs[0].tolist() == [-1.0, -3.0, -0.5]


def test_a_reply_of_the_batch_counts_once():
    own = example("walk", negatives=[list(b"rest")], log_weights=[0.0])
    joint = [own, example("rest"), example("sing"), example("sing"), example("swim")]
    # "rest" is among its own negatives, and two say "sing".
    assert in_batch_mask([own], joint).tolist() == [[False, False, True, False, True]]
    [extended] = add_in_batch_negatives([own], joint, 9, "0")
    assert sorted(map(bytes, extended.negatives)) == [b"rest", b"sing", b"swim"]
    assert (extended.hard, extended.in_batch) == (1, 2)
    assert in_batch_mask([extended], joint).tolist() == in_batch_mask([own], joint).tolist()


def test_explicit_in_batch_negatives_leave_the_cosine_as_it_is():
    torch.manual_seed(1)
    head = ContrastHead(4, 3)
    # Each example takes another's response as a likelihood negative too.
    examples = [example("rest"), example("walk"), example("swim")]
    extended = add_in_batch_negatives(examples, examples, 1, "0")
    states = scores()
    firsts = [0, 2, 4]
    both = states._replace(candidate_examples=torch.tensor([0, 0, 1, 1, 2, 2]))
    alone = states._replace(
        token_log_probs=LOG_PROBS[firsts],
        token_candidates=torch.arange(3),
        token_in_reply=torch.ones(3, dtype=torch.bool),
        candidate_examples=torch.arange(3),
        response_states=states.response_states[firsts],
    )
    loss = NPairLoss(0.5)
    cosine = contrast_loss(loss, "cosine", alone, examples, None, head).loss
    likelihood = contrast_loss(loss, "likelihood", both, extended, None, None).loss
    found = contrast_loss(loss, "likelihood+cosine", both, extended, None, head).loss
    torch.testing.assert_close(found, cosine + likelihood)


@pytest.mark.parametrize("score", ["cosine", "likelihood+cosine"])
def test_cosine_by_hand(score):
    torch.manual_seed(1)
    head = ContrastHead(4, 3)
    given = scores()
    contexts = F.normalize(given.context_states @ head.context.weight.T, dim=-1)
    responses = F.normalize(given.response_states @ head.response.weight.T, dim=-1)
    candidates, firsts = [[0, 1, 2], [3], [4, 5]], [0, 3, 4]
    expected = []
    for i, own in enumerate(candidates):
        cosines = contexts[i] @ responses.T
        terms = [torch.tensor(0.0)]
        for j, weight in zip(own[1:], EXAMPLES[i].log_weights, strict=True):
            terms.append((cosines[j] - cosines[own[0]]) / 0.5 + weight)
        for j in firsts:
            if j != own[0]:
                terms.append((cosines[j] - cosines[own[0]]) / 0.5 + log(W_MIN))
        expected.append(torch.stack(terms).logsumexp(0))
    expected = torch.stack(expected)
    if score == "likelihood+cosine":
        expected = expected + likelihood_by_hand(0.5)
    output = contrast_loss(NPairLoss(0.5), score, given, EXAMPLES, None, head)
    torch.testing.assert_close(output.loss, expected)
    assert output.has_negatives.all()


def test_no_negative_at_all():
    examples = [example("walk")]
    given = scores()._replace(
        token_log_probs=LOG_PROBS[:1],
        token_candidates=torch.tensor([0]),
        token_in_reply=torch.tensor([True]),
        candidate_examples=torch.tensor([0]),
    )
    output = contrast_loss(NPairLoss(), "likelihood", given, examples, None, None)
    assert output.loss.tolist() == [0.0]
    assert output.mean_log_probs.shape == (1, 1)
    assert output.mask.shape == (1, 0)
    assert output.has_negatives.tolist() == [False]
