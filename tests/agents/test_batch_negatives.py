"""Which replies of a batch are an example's negatives, and what is drawn of them."""

from math import log
from random import Random

import torch

from parlai_prosocial.agents.batch_negatives import (
    Example,
    add_in_batch_negatives,
    in_batch_mask,
    permute_weights,
    sample_negatives,
    without_equal,
)
from parlai_prosocial.data.example import W_MIN


def example(text, group="", rots=(), negatives=(), log_weights=()):
    ids = list(text.encode())
    return Example([1, 2], ids, text, group, frozenset(rots), list(negatives), list(log_weights))


def test_what_may_fit_as_well_is_a_false_negative():
    examples = [
        example("rest", group="a", rots=["be kind"]),
        example("rest"),  # the same text
        example("walk", group="a"),  # the same group
        example("swim", rots=["be honest", "be kind"]),  # a shared rule of thumb
        example("sing", group="b", rots=["be honest"]),
        example("read"),  # no group is no common group
    ]
    expected = [
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 1, 0],
        [0, 1, 0, 1, 1, 0],
        [0, 1, 0, 0, 0, 1],
    ]
    assert (~in_batch_mask(examples, examples)).int().tolist() == expected
    # (Of two that say the same, one counts.)
    # The joint batch of two processes, seen by the second.
    assert torch.equal(in_batch_mask(examples[4:], examples), in_batch_mask(examples, examples)[4:])


def test_permuted_weights_are_the_same_ones_elsewhere():
    examples = [
        example("a", negatives=[[1], [2]], log_weights=[0.1, 0.2]),
        example("b"),
        example("c", negatives=[[3], [4], [5]], log_weights=[0.3, 0.4, 0.5]),
    ]
    permuted = permute_weights(examples, Random(1))
    assert [len(e.log_weights) for e in permuted] == [2, 0, 3]
    assert [e.negatives for e in permuted] == [e.negatives for e in examples]
    weights = [w for e in permuted for w in e.log_weights]
    assert sorted(weights) == [0.1, 0.2, 0.3, 0.4, 0.5] != weights
    assert examples[0].log_weights == [0.1, 0.2]  # the original is left alone


def test_in_batch_negatives_leave_false_ones_out_and_take_the_smallest_weight():
    hard = example("walk", group="a", negatives=[[9]], log_weights=[0.3])
    examples = [hard, example("rest", group="a"), example("sing"), example("swim")]
    extended = add_in_batch_negatives(examples, examples, 5, "0")
    first, second = extended[:2]
    assert first.negatives[0] == [9]
    assert sorted(first.negatives[1:]) == sorted([examples[2].response, examples[3].response])
    assert first.log_weights == [0.3, log(W_MIN), log(W_MIN)]
    assert len(second.negatives) == 2
    assert hard.negatives == [[9]]  # the original is left alone


def test_in_batch_sampling_is_seeded_and_limited():
    examples = [example(f"reply {i}") for i in range(9)]

    def draw(seed, start=0, stop=9, count=2):
        own = examples[start:stop]
        return [e.negatives for e in add_in_batch_negatives(own, examples, count, str(seed))]

    drawn = [draw(seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(negatives) == 2 for negatives in drawn[0])
    assert all(len(negatives) == 8 for negatives in draw(0, count=9))  # never its own
    # Spread over two processes, every example draws as before.
    assert draw(1, 0, 4) + draw(1, 4, 9) == drawn[0]


def test_negatives_are_sampled_by_the_seed_and_the_example_alone():
    many = example("rest", negatives=[[i] for i in range(20)], log_weights=range(20))
    drawn = [sample_negatives(many, 3, seed) for seed in ("0 5", "0 5", "1 5", "0 6")]
    assert drawn[0] == drawn[1]
    assert len({str(one.negatives) for one in drawn}) == 3
    for one in drawn:
        assert one.negatives == [[weight] for weight in one.log_weights]
        assert len(one.negatives) == 3
    assert sample_negatives(many, 20, "0") == many


def test_what_truncation_made_equal_is_left_out_and_counted():
    given = example("hi", negatives=[[1], [104, 105], [2], [1]], log_weights=[0.1, 0.2, 0.3, 0.4])
    kept = without_equal(given)
    assert (kept.negatives, kept.log_weights, kept.equal) == ([[1], [2]], [0.1, 0.3], 2)
    assert without_equal(kept).negatives == kept.negatives


def test_what_is_drawn_does_not_depend_on_the_order_of_the_batch():
    examples = [
        example(f"reply {i}", negatives=[[i], [i + 1]], log_weights=[0.1 * i, -0.2 * i])
        for i in range(6)
    ]
    order = [3, 0, 5, 1, 4, 2]
    moved = [examples[i] for i in order]
    permuted = permute_weights(examples, Random(1))
    assert permute_weights(moved, Random(1)) == [permuted[i] for i in order]
    extended = add_in_batch_negatives(examples, examples, 2, "0")
    assert add_in_batch_negatives(moved, moved, 2, "0") == [extended[i] for i in order]
