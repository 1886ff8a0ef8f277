"""Which responses a batch scores for each example, and how they enter the contrastive loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log
from random import Random

import torch

from parlai_prosocial.agents import distributed
from parlai_prosocial.data.example import W_MIN
from parlai_prosocial.losses.candidates import Candidates, has_negatives
from parlai_prosocial.losses.likelihood_margin import LikelihoodMarginLoss
from parlai_prosocial.losses.n_pair import NPairLoss
from parlai_prosocial.losses.ranked_margin import RankedMarginLoss
from parlai_prosocial.models.contrast_head import ContrastHead
from parlai_prosocial.models.scores import CandidateScores


@dataclass
class Example:
    """One training example in token ids.

    Attributes:
        context: ids of the context.
        response: ids of the fitting response.
        text: the response's normalised text, to know false negatives by.
        group: the message's ``contrast_group``; "" belongs to no group.
        rots: its normalised rules of thumb.
        negatives: ids of its hard negatives, then of in-batch ones.
        log_weights: log social weight of each hard negative.
        reference: mean log p of the response by the model that training starts from; None where it
            is to be computed.
        negative_references: the same of each negative.
        casual: whether the turn is labelled ``__casual__``.
        task: the teacher's name, for messages.
        in_batch: how many of the negatives are responses of other examples in the batch.
        equal: negatives that were left out, since they are the response, or each other, in the
            tokens that truncation leaves.
    """

    context: list[int]
    response: list[int]
    text: str
    group: str
    rots: frozenset[str]
    negatives: list[list[int]]
    log_weights: list[float]
    reference: float | None = None
    negative_references: list[float | None] = field(default_factory=list)
    casual: bool = False
    task: str = ""
    in_batch: int = 0
    equal: int = 0

    def __post_init__(self) -> None:
        if not self.negative_references:
            self.negative_references = [None] * len(self.negatives)

    def rng(self, purpose: str) -> Random:
        """A generator of this example's own, whatever batch or process it is in."""
        return Random(f"{purpose} {self.context} {self.response}")

    @property
    def hard(self) -> int:
        """Number of hard negatives, which come before the in-batch ones."""
        return len(self.negatives) - self.in_batch

    @property
    def tokens(self) -> int:
        return len(self.context) + len(self.response) + sum(map(len, self.negatives))

    def is_false_negative(self, other: "Example") -> bool:
        """Whether the other's response may fit here too: same text, group or rule of thumb."""
        same_group = self.group != "" and self.group == other.group
        return self.text == other.text or same_group or not self.rots.isdisjoint(other.rots)


def without_equal(example: Example) -> Example:
    """Leave out negatives that are the response's tokens, or those of an earlier negative.

    Truncation can make them so. Such a pair would cost log 2 for ever and teach nothing.
    """
    seen = {tuple(example.response)}
    kept = []
    for i, negative in enumerate(example.negatives):
        if tuple(negative) not in seen:
            seen.add(tuple(negative))
            kept.append(i)
    return replace(_choose(example, kept), equal=len(example.negatives) - len(kept))


def sample_negatives(example: Example, count: int, seed: str) -> Example:
    """Keep at most ``count`` negatives, drawn by a seed and the example alone."""
    if len(example.negatives) <= count:
        return example
    drawn = example.rng(f"negatives {seed}").sample(range(len(example.negatives)), count)
    return _choose(example, sorted(drawn))


def _choose(example: Example, kept: Sequence[int]) -> Example:
    return replace(
        example,
        negatives=[example.negatives[i] for i in kept],
        log_weights=[example.log_weights[i] for i in kept],
        negative_references=[example.negative_references[i] for i in kept],
    )


def in_batch_negatives(example: Example, joint: Sequence[Example]) -> list[int]:
    """Which of a joint batch's responses are negatives of an example, each reply once.

    Its own response is none, nor is a false negative, nor a reply that is among the example's own
    negatives.
    """
    seen = {tuple(negative) for negative in example.negatives}
    found = []
    for i, other in enumerate(joint):
        reply = tuple(other.response)
        if reply not in seen and not example.is_false_negative(other):
            seen.add(reply)
            found.append(i)
    return found


def in_batch_mask(examples: Sequence[Example], joint: Sequence[Example]) -> torch.Tensor:
    """(B, M) bool: True where ``joint[m]``'s response is a negative of ``examples[i]``.

    Replies that :func:`add_in_batch_negatives` has made explicit still count here.
    """
    mask = torch.zeros(len(examples), len(joint), dtype=torch.bool)
    for i, example in enumerate(examples):
        own = _choose(example, range(example.hard))
        mask[i, in_batch_negatives(own, joint)] = True
    return mask


def add_in_batch_negatives(
    examples: Sequence[Example], joint: Sequence[Example], count: int, seed: str
) -> list[Example]:
    """Give each example up to ``count`` responses of the joint batch as explicit negatives.

    False negatives are left out; the weight is the smallest one there is, because nobody judged
    these replies.

    Args:
        examples: of this process.
        joint: of all processes.
        count: most responses to add to an example.
        seed: what is drawn depends on it and on the example, so that how a batch is spread over
            processes changes nothing.
    """
    extended = []
    for example in examples:
        # In an order of their own: how examples are spread over processes changes the batch's.
        others = sorted(
            (joint[i] for i in in_batch_negatives(example, joint)), key=lambda e: e.response
        )
        drawn = example.rng(f"in-batch {seed}").sample(others, min(count, len(others)))
        extended.append(
            replace(
                example,
                negatives=[*example.negatives, *(other.response for other in drawn)],
                log_weights=[*example.log_weights, *[log(W_MIN)] * len(drawn)],
                negative_references=[*example.negative_references, *[None] * len(drawn)],
                in_batch=len(drawn),
            )
        )
    return extended


def permute_weights(examples: Sequence[Example], rng: Random) -> list[Example]:
    """Shuffle the weights of the hard negatives over all examples: same weights, other owners.

    Where social weights help and permuted ones do too, it was not what people said of a reply
    that helped (docs/design.md#social-weights).
    """
    # In an order of their own: how examples are spread over processes changes the batch's.
    order = sorted(range(len(examples)), key=lambda i: (examples[i].context, examples[i].response))
    weights = [weight for i in order for weight in examples[i].log_weights]
    rng.shuffle(weights)
    shuffled = iter(weights)
    drawn = {i: [next(shuffled) for _ in examples[i].log_weights] for i in order}
    return [replace(e, log_weights=drawn[i]) for i, e in enumerate(examples)]


def padded_by_example(values: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """(sum of counts,) values of candidates -> (B, max(counts)), zeros where there is none.

    >>> padded_by_example(torch.tensor([1.0, 2.0, 3.0]), [1, 2]).tolist()
    [[1.0, 0.0], [2.0, 3.0]]
    """
    return torch.nn.utils.rnn.pad_sequence(list(values.split(list(counts))), batch_first=True)


ContrastiveLoss = NPairLoss | RankedMarginLoss | LikelihoodMarginLoss


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
        loss: any of the three; the likelihood margin takes summed log p, the others its mean,
            over the reply's tokens without the end-of-turn token.
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
        if isinstance(loss, LikelihoodMarginLoss):
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
