"""Measures from the log's records, by hand, and paired differences."""

import json

import pytest

from parlai_prosocial.evaluation.records import judged_by
from parlai_prosocial.evaluation.results.aggregate import (
    aggregate,
    aggregate_groups,
    differences,
)
from parlai_prosocial.evaluation.statistics.bootstrap import wilson_interval


def record(number, reply="Hello there my friend.", unsafe=None, **more):
    """A record with one judge of one axis; ``unsafe`` is its probability, None where missing."""
    judgement = None if unsafe is None else {"p_unsafe": unsafe, "label": "x"}
    return {
        "model": "m",
        "suite": "s",
        "id": str(number),
        "context": ["Hi!"],
        "label": "safe",
        "kind": "",
        "source": "test",
        "cluster": f"c{number // 2}",
        "axes": ["unsafe"],
        "fitting": [],
        "unfit": [],
        "reply": reply,
        "ended": None if reply is None else True,
        "judgements": {"unsafe": {"judge@1": judgement}},
        "likelihood": None,
    } | more


def test_missing_is_neither_safe_nor_unsafe():
    rows = [record(0, unsafe=0.9), record(1, unsafe=0.1), record(2, unsafe=0.2), record(3)]
    rows += [record(4, reply=None), record(5, unsafe=float("nan"))]
    found = aggregate(rows)
    assert (found["n"], found["missing_replies"]) == (6, 1)
    rate = found["rates"]["unsafe"]["judge@1"]
    assert (rate["hits"], rate["judged"], rate["missing"]) == (1, 3, 3)
    expected = wilson_interval(1, 3)
    assert (rate["rate"]["estimate"], rate["rate"]["high"]) == (expected.estimate, expected.high)
    assert found["replies"]["count"] == 5
    assert found["references"] is found["perplexity"] is found["contrast"] is found["mic"] is None
    assert aggregate([record(0)])["rates"]["unsafe"]["judge@1"]["rate"] is None
    assert aggregate([record(0, reply=None)])["replies"] is None
    json.dumps(found)


def test_references_likelihood_and_contrast():
    scores = {"nll": 4.0, "tokens": 2, "fitting": [-2.0, -0.5], "unfit": [-1.0]}
    rows = [
        record(0, fitting=["Hello there my friend."], likelihood=scores),
        record(1, reply=None, fitting=["Hi."], likelihood=scores | {"fitting": [], "unfit": []}),
    ]
    found = aggregate(rows)
    assert found["references"] == {"n": 1, "f1": 1.0, "bleu_4": pytest.approx(1.0)}
    assert found["perplexity"] == {"n": 2, "tokens": 4, "value": pytest.approx(7.389, abs=1e-3)}
    assert found["contrast"]["n"] == 1 and found["contrast"]["accuracy"]["estimate"] == 1
    assert found["contrast"]["margin"] == 0.5


def test_attributes_of_mic_are_no_references():
    rows = [record(0, reply="bad", label="severity", fitting=["bad"], judgements={}, axes=[])]
    found = aggregate(rows)
    assert found["references"] is None and found["rates"] == {}
    assert found["mic"]["severity"]["macro_f1"] == 1
    assert differences(rows, rows) == {}


def test_groups():
    rows = [record(0, kind="a"), record(1, label="unsafe", kind="a"), record(2, label="")]
    groups = aggregate_groups(rows)
    assert {name: found["n"] for name, found in groups["label"].items()} == {"safe": 1, "unsafe": 1}
    assert {name: found["n"] for name, found in groups["kind"].items()} == {"a": 2}
    assert {name: found["n"] for name, found in groups["source"].items()} == {"test": 3}


def test_differences_are_paired_by_context_whatever_the_order():
    first = [record(i, unsafe=0.9 if i < 30 else 0.1) for i in range(60)]
    second = [record(i, unsafe=0.9 if i < 10 else 0.1) for i in reversed(range(60))]
    assert judged_by(first) == [("unsafe", "judge@1")]
    found = differences(first, second)
    gap = found["rate unsafe judge@1"]
    assert gap.estimate == pytest.approx(20 / 60) and gap.null == 0
    assert 0 < gap.low < gap.estimate < gap.high and gap.conclusive
    same = differences(first, first)["rate unsafe judge@1"]
    assert (same.estimate, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert not same.conclusive


def test_a_difference_needs_both_judgements():
    first = [record(0, unsafe=0.9), record(1), record(2, unsafe=0.9), record(7, unsafe=0.9)]
    second = [record(0, unsafe=0.9), record(1, unsafe=0.1), record(2)]
    assert differences(first, second)["rate unsafe judge@1"].estimate == 0
    assert "rate unsafe judge@1" not in differences(first[1:2], second)


def test_differences_of_text_and_likelihood():
    def scored(number, reply, nll, fitting):
        scores = {"nll": nll, "tokens": 2, "fitting": [fitting], "unfit": [-1.0]}
        return record(number, reply=reply, fitting=["the old boat"], likelihood=scores)

    first = [scored(i, "the old boat", 2.0, -0.5) for i in range(8)]
    second = [scored(i, "something else", 4.0, -1.5) for i in range(8)]
    found = differences(first, second)
    assert found["f1"].estimate == 1
    assert found["contrast accuracy"].estimate == 1
    ratio = found["perplexity"]
    assert ratio.null == 1 and ratio.estimate == pytest.approx(0.3679, abs=1e-3)
