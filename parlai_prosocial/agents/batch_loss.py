"""The contrastive loss of a batch: how the scores of its replies enter the chosen loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch

from parlai_prosocial.agents import distributed
from parlai_prosocial.agents.batch_negatives import Example, in_batch_mask
from parlai_prosocial.data.example import W_MIN
from parlai_prosocial.losses.candidates import Candidates, has_negatives
from parlai_prosocial.losses.dpo import DPOLoss
from parlai_prosocial.losses.likelihood_margin import LikelihoodMarginLoss
from parlai_prosocial.losses.n_pair import NPairLoss
from parlai_prosocial.losses.ranked_margin import RankedMarginLoss
from parlai_prosocial.losses.simpo import SimPOLoss
from parlai_prosocial.models.contrast_head import ContrastHead
from parlai_prosocial.models.scores import CandidateScores


def padded_by_example(values: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """(sum of counts,) values of candidates -> (B, max(counts)), zeros where there is none.

    >>> padded_by_example(torch.tensor([1.0, 2.0, 3.0]), [1, 2]).tolist()
    [[1.0, 0.0], [2.0, 3.0]]
    """
    return torch.nn.utils.rnn.pad_sequence(list(values.split(list(counts))), batch_first=True)


ContrastiveLoss = NPairLoss | RankedMarginLoss | LikelihoodMarginLoss | DPOLoss | SimPOLoss


@dataclass
class ContrastOutput:
    """What a batch of B examples with up to K explicit negatives was contrasted on.

    Attributes:
        loss: (B,) float32; 0 where there is nothing to contrast.
        mean_log_probs: (B, 1 + K) float32; mean log p of the response, then of its
            negatives, end-of-turn tokens left out.
        mask: (B, K) bool; True at real negatives.
        has_negatives: (B,) bool; whether there was anything to contrast, in-batch included.
        firsts: (B,) int64; which candidate is each example's response.
    """

    loss: torch.Tensor
    mean_log_probs: torch.Tensor
    mask: torch.Tensor
    has_negatives: torch.Tensor
    firsts: torch.Tensor


def contrast_loss(
    loss: ContrastiveLoss,
    score: str,
    scores: CandidateScores,
    examples: Sequence[Example],
    joint: Sequence[Example] | None,
    head: ContrastHead | None,
    reference: torch.Tensor | None = None,
) -> ContrastOutput:
    """The contrastive loss of each example.

    Args:
        loss: any; it says whether it takes log p summed or its mean, over the reply's tokens
            without the end-of-turn token.
        score: "likelihood", "cosine" or "likelihood+cosine" (the sum of two terms).
        scores: of the packed examples; each one's first candidate is its response, the others
            its negatives.
        examples: B examples, as they were packed.
        joint: M examples of all processes, in the order of their ranks, whose responses are the
            in-batch negatives under cosine; None for those of this process alone.
        head: the projections, needed for a cosine.
        reference: (C,) mean log p of each candidate by the model that training starts from; the
            likelihood is then contrasted relative to it. None: as it is.
    """
    counts = [1 + len(example.negatives) for example in examples]
    device = scores.token_log_probs.device
    # The first column is the response's own, of weight 1.
    log_weights = padded_by_example(
        torch.tensor([w for e in examples for w in (0.0, *e.log_weights)], device=device), counts
    )[:, 1:]  # (B, K)
    sizes = torch.tensor(counts, device=device)  # (B,)
    firsts = sizes.cumsum(0) - sizes
    mask = torch.arange(1, max(counts), device=device) < sizes[:, None]  # (B, K)
    mean_log_probs = padded_by_example(scores.mean_log_probs(), counts)  # (B, 1 + K)

    total = mean_log_probs.new_zeros(len(examples))
    contrasted = has_negatives(mask)
    if "likelihood" in score:
        relative = scores.mean_log_probs()  # (C,)
        if reference is not None:
            relative = relative - reference
        if loss.summed:
            relative = relative * scores.reply_token_counts()
        likelihoods = padded_by_example(relative, counts)  # (B, 1 + K)
        total = total + loss(Candidates(likelihoods[:, 0], likelihoods[:, 1:], mask, log_weights))
    if head is not None and "cosine" in score:
        contexts, responses = head(scores.context_states, scores.response_states)
        own = (contexts[scores.candidate_examples] * responses).sum(-1)  # (C,)
        own = padded_by_example(own, counts)  # (B, 1 + K)
        fitting = responses[firsts]  # (B, dim)
        if joint is not None:
            fitting = distributed.gather_rows(fitting)  # (M, dim)
        in_batch = contexts @ fitting.T  # (B, M)
        others = in_batch_mask(examples, joint or examples).to(device)
        # All responses of the batch serve already, so those made explicit must not count again.
        hard = 1 + torch.tensor([example.hard for example in examples], device=device)
        is_hard = torch.arange(1, max(counts), device=device) < hard[:, None]  # (B, K)
        contrasted = contrasted | has_negatives(is_hard, others)
        total = total + loss(
            Candidates(
                own[:, 0],
                own[:, 1:],
                is_hard,
                log_weights,
                in_batch_scores=in_batch,
                in_batch_mask=others,
                in_batch_log_weight=log(W_MIN),
            )
        )
    return ContrastOutput(total, mean_log_probs, mask, contrasted, firsts)
