"""One training example in token ids, and which replies of a batch are its negatives."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log
from random import Random

import torch

from parlai_prosocial.data.example import W_MIN


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


def without_negatives(example: Example) -> Example:
    """The example for training by likelihood alone."""
    return _choose(example, [])


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
