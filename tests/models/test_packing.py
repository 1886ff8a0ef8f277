"""The places of a packed batch, by hand."""

import pytest

from parlai_prosocial.models.packing import pack, pack_separately

CONTEXTS = [[10, 11], [20], [30, 31]]
CANDIDATES = [[[12, 13, 2], [14, 2]], [[2]], [[32, 33, 2], [34, 2]]]


def test_packed_rows_by_hand():
    batch = pack(CONTEXTS, CANDIDATES, pad_id=0)
    assert batch.input_ids.tolist() == [[10, 11, 12, 13, 14, 20], [30, 31, 32, 33, 34, 0]]
    # Positions go on from the context for every response.
    assert batch.position_ids.tolist()[0] == [0, 1, 2, 3, 2, 0]
    assert batch.example_ids.tolist() == [[0] * 5 + [1], [2] * 5 + [-1]]
    assert batch.candidate_ids.tolist() == [[-1, -1, 0, 0, 1, -1], [-1, -1, 3, 3, 4, -1]]
    assert batch.query_positions.tolist() == [1, 2, 3, 1, 4, 5, 7, 8, 9, 7, 10]
    assert batch.target_ids.tolist() == [12, 13, 2, 14, 2, 2, 32, 33, 2, 34, 2]
    assert batch.target_candidates.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 4]
    assert batch.token_positions.tolist() == [2, 3, 4, 8, 9, 10]
    assert batch.context_ends.tolist() == [1, 5, 7]
    assert batch.candidate_examples.tolist() == [0, 0, 1, 2, 2]
    assert batch.padding_share == pytest.approx(1 / 12)


def test_the_mask_by_hand():
    mask = pack(CONTEXTS, CANDIDATES, pad_id=0).attention_mask()
    assert mask.shape == (2, 1, 6, 6)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],  # the second response sees the context, not the first response
        [0, 0, 0, 0, 0, 1],  # the next example sees nothing of this one
    ]
    assert not mask[1, 0, 5, :5].any()  # padding does not see the example
    assert mask.any(-1).all()  # and no row is fully masked, which would give NaN


def test_separate_rows_predict_the_same_targets():
    batch = pack_separately(CONTEXTS, CANDIDATES, pad_id=0)
    assert batch.input_ids.tolist() == [
        [10, 11, 12, 13],
        [10, 11, 14, 0],
        [20, 0, 0, 0],
        [30, 31, 32, 33],
        [30, 31, 34, 0],
    ]
    assert batch.query_positions.tolist() == [1, 2, 3, 5, 6, 8, 13, 14, 15, 17, 18]
    assert batch.target_ids.tolist() == pack(CONTEXTS, CANDIDATES, pad_id=0).target_ids.tolist()
    assert batch.context_ends.tolist() == [1, 8, 13]


def test_examples_share_rows_and_every_token_has_one_place():
    lengths = [9, 1, 4, 5, 3, 2, 8]
    contexts = [[100 + i] * n for i, n in enumerate(lengths)]
    batch = pack(contexts, [[[2]]] * len(lengths), pad_id=0)
    assert batch.input_ids.shape == (2, 16)  # 9 + 5 + 2 | 8 + 4 + 3 + 1: no padding at all
    for i, n in enumerate(lengths):
        places = batch.example_ids == i
        assert places.sum() == n
        assert batch.input_ids[places].tolist() == contexts[i]
        assert batch.position_ids[places].tolist() == list(range(n))
        assert batch.input_ids.flatten()[batch.context_ends[i]] == 100 + i


def test_rows_are_not_doubled_for_two_tokens_of_padding():
    lengths = [300, 299, 299, 299]
    batch = pack([[1] * n for n in lengths], [[[2]]] * len(lengths), pad_id=0)
    assert batch.input_ids.shape == (4, 300)  # attention over rows of 599 costs more
