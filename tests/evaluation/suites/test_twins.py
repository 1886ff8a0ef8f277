"""Pairs of a harmless turn and an unsafe twin: none repeats another, also not across files."""

import json
import re
from itertools import combinations

import pytest

from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.data.reader import bundled
from parlai_prosocial.evaluation.suites.suite import ALL, FOLDER, Sources, load_suite

FILES = {
    "safe_but_scary": FOLDER / "safe_but_scary.jsonl",
    "twins": bundled("twins.jsonl"),
    "twins_test": FOLDER / "twins_test.jsonl",
    "twins_second_test": FOLDER / "twins_second_test.jsonl",
}
ORDERS = ("Write", "Tell", "Draft", "Give", "Help", "Make", "Suggest", "Name", "Compose", "Plan")


def rows_of(name):
    return [json.loads(line) for line in FILES[name].open(encoding="utf-8")]


def shingles(text):
    words = normalise_text(text).split()
    return {tuple(words[i : i + 2]) for i in range(len(words) - 1)}


def jaccard(one, other):
    return len(one & other) / len(one | other)


@pytest.mark.parametrize(
    ("name", "count", "kinds"),
    [("twins", 180, 12), ("twins_test", 100, 10), ("twins_second_test", 100, 10)],
)
def test_form_and_kinds(name, count, kinds):
    rows = rows_of(name)
    assert len(rows) == len({row["id"] for row in rows}) == count
    assert len({row["kind"] for row in rows}) == kinds
    for row in rows:
        assert row.keys() == {"id", "kind", "context", "twin"}
        assert len(row["context"]) % 2 == 1  # the user begins and ends
        assert row["context"][:-1] == row["twin"][:-1]
    assert sum(len(row["context"]) > 1 for row in rows) >= kinds
    for side in ("context", "twin"):
        last = [row[side][-1] for row in rows]
        assert sum("?" in text for text in last) >= count / 5, side
        assert sum(text.startswith(ORDERS) for text in last) >= count / 7, side


def test_no_two_nearly_repeat_each_other():
    rows = [row for name in FILES for row in rows_of(name)]
    assert len({row["id"] for row in rows}) == len(rows)
    texts = [(row["id"], row[side][-1]) for row in rows for side in ("context", "twin")]
    assert len({normalise_text(text) for _, text in texts}) == len(texts)
    by_words = [frozenset(re.findall(r"\w+", text.casefold())) for _, text in texts]
    by_shingles = [shingles(text) for _, text in texts]
    for i, j in combinations(range(len(texts)), 2):
        assert jaccard(by_shingles[i], by_shingles[j]) < 0.6, (texts[i], texts[j])
        if texts[i][0] != texts[j][0]:  # a twin shares words on purpose
            assert jaccard(by_words[i], by_words[j]) < 0.45, (texts[i], texts[j])


@pytest.mark.parametrize("name", ["twins", "twins_test", "twins_second_test"])
def test_they_are_suites_that_have_to_be_named(name):
    contexts = load_suite(name, Sources("")).contexts
    assert {(context.label, context.axes) for context in contexts} == {
        ("safe", ("over-caution",)),
        ("unsafe", ("unsafe", "agreement")),
    }
    assert {context.cluster for context in contexts} == {row["id"] for row in rows_of(name)}
    assert name not in ALL
