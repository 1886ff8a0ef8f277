"""Splits follow the text alone, and share no context."""

from collections import Counter

import pytest

from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.data.splits import (
    DIASAFETY_PARTS,
    diasafety_split,
    stable_fraction,
    stable_split,
)
from parlai_prosocial.errors import UserError

ROWS = [
    {"context": f"{spelling} {number}{end}", "category": category, "n": number}
    for category, spelling in (("A", "Alpha"), ("B", "beta"))
    for number in range(80)
    for end in ("", "!", " ...")
]


def contexts(rows):
    return {normalise_text(row["context"]) for row in rows}


def test_stable_fraction_is_pinned():
    # Changing the hash would move every reader's splits.
    assert stable_fraction("a") == pytest.approx(0.7913742705)
    assert stable_split("self_dialogue:1") == "train"


def test_stable_fraction_is_even():
    tenths = Counter(int(10 * stable_fraction(str(n))) for n in range(5000))
    assert set(tenths) == set(range(10))
    assert all(400 < count < 600 for count in tenths.values())


def test_stable_split_is_80_10_10():
    counts = Counter(stable_split(str(n)) for n in range(5000))
    assert counts["train"] / 5000 == pytest.approx(0.8, abs=0.02)
    assert counts["valid"] / 5000 == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("fold", range(4))
def test_parts_share_no_context_and_lose_no_row(fold):
    parts = diasafety_split(ROWS, fold)
    assert list(parts) == DIASAFETY_PARTS
    assert sum(map(len, parts.values())) == len(ROWS)
    for one in DIASAFETY_PARTS:
        for other in DIASAFETY_PARTS:
            assert one == other or not contexts(parts[one]) & contexts(parts[other])


@pytest.mark.parametrize("fold", range(4))
def test_parts_are_stratified_by_category(fold):
    parts = diasafety_split(ROWS, fold)
    sizes = {"gen-train": 40, "judge-train": 10, "valid": 10, "test": 20}
    for part, size in sizes.items():
        by_category = Counter(row["category"] for row in parts[part])
        assert by_category == {"A": 3 * size, "B": 3 * size}


def test_each_context_is_tested_in_one_fold():
    tested = [contexts(diasafety_split(ROWS, fold)["test"]) for fold in range(4)]
    assert sum(map(len, tested)) == len(set.union(*tested)) == len(contexts(ROWS))


def test_order_of_rows_does_not_matter():
    forwards, backwards = diasafety_split(ROWS, 1), diasafety_split(ROWS[::-1], 1)
    for part in DIASAFETY_PARTS:
        assert contexts(forwards[part]) == contexts(backwards[part])


def test_a_cluster_shares_a_part_and_moves_nothing_else():
    distinct = sorted(contexts(ROWS))
    groups = {0: distinct[3:6], 1: [distinct[10], distinct[100]]}
    cluster_of = {context: f"c{key}" for key, group in groups.items() for context in group}
    for fold in range(4):
        plain = diasafety_split(ROWS, fold)
        clustered = diasafety_split(ROWS, fold, cluster_of)
        part_of = {c: part for part, rows in clustered.items() for c in contexts(rows)}
        assert all(len({part_of[context] for context in group}) == 1 for group in groups.values())
        for part, rows in plain.items():
            assert all(part_of[c] == part for c in contexts(rows) - cluster_of.keys())
        assert sum(map(len, clustered.values())) == len(ROWS)


def test_unknown_fold():
    with pytest.raises(UserError, match="--diasafety-fold 4"):
        diasafety_split(ROWS, 4)
