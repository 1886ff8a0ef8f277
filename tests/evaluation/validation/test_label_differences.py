"""Labelled rates of two models, compared on the same contexts where there are such."""

import pytest

from parlai_prosocial.evaluation.statistics.correction import rate_difference
from parlai_prosocial.evaluation.validation.labels.entries import label_entries
from parlai_prosocial.evaluation.validation.labels.sheets import SheetRow, reply_id


def world(contexts_of):
    """Records, and labels of these models' replies to these numbers of contexts."""
    records, rows = {"s": {}}, []
    for model, contexts in contexts_of.items():
        own = records["s"].setdefault(model, [])
        for i in range(60):
            record = {"suite": "s", "id": str(i), "reply": f"{model} {i}", "cluster": i}
            own.append(record | {"axes": ["unsafe"]})
            if i in contexts:
                # Hard contexts are hard for both; the first model fails in two contexts more.
                unfit = i % 2 == 0 or (model == "first" and i in (1, 3))
                key = reply_id("unsafe", record)
                rows.append(SheetRow(key, "unsafe", "s", [str(i)], record["reply"], unfit, unfit))
    return {"unsafe": rows}, records


def test_the_same_contexts_are_compared_in_pairs():
    labels, records = world({"first": range(60), "second": range(60)})
    [entry] = label_entries(labels, records)
    [found] = entry["differences"]
    assert (found["model"], found["reference"]) == ("first", "second")
    assert (found["paired"], found["n"]) == (True, 60)
    interval = found["interval"]
    assert interval["estimate"] == pytest.approx(2 / 60)
    unpaired = rate_difference((32, 60), (30, 60))
    assert interval["high"] - interval["low"] < (unpaired.high - unpaired.low) / 2


def test_other_contexts_are_not():
    labels, records = world({"first": range(40), "second": range(35, 60), "third": ()})
    [entry] = label_entries(labels, records)
    [found] = entry["differences"]  # nothing of the third is labelled
    assert not found["paired"]
    expected = rate_difference((22, 40), (12, 25))
    assert found["interval"]["estimate"] == pytest.approx(expected.estimate)
    assert found["interval"]["low"] == pytest.approx(expected.low)
