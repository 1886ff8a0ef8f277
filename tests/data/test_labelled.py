"""Labelled replies: whole contexts fall into a split, and halves share none."""

import json

import pytest

from parlai_prosocial.data.labelled import half_of, load_rows
from parlai_prosocial.errors import UserError


@pytest.fixture
def file(tmp_path):
    rows = [
        {"context": [f"Turn {i}.", "And?"], "reply": f"Reply {j}.", "axis": axis, "label_1": j == 1}
        | ({"label_2": i != 0} if j == 1 else {})
        for i in range(200)
        for j in range(2)
        for axis in ("unsafe", "agreement")
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def contexts(rows):
    return {"\n".join(row["context"]) for row in rows}


def test_splits_are_of_whole_contexts_and_halves_share_none(file):
    whole = {split: load_rows([file], "unsafe", split) for split in ("train", "valid", "test")}
    assert whole.pop("test") == whole["valid"]
    # Of the first context one reply has two labels that differ.
    assert sum(map(len, whole.values())) == 399
    assert not contexts(whole["train"]) & contexts(whole["valid"])
    assert 0.03 < len(contexts(whole["valid"])) / 200 < 0.15
    parts = {
        (half, split): contexts(load_rows([file], "unsafe", split, half))
        for half in (0, 1)
        for split in ("train", "valid", "test")
    }
    for half in (0, 1):
        seen = parts[half, "train"] | parts[half, "valid"]
        assert {half_of(context) for context in seen} == {half}
        assert parts[1 - half, "test"] == seen
        assert 60 < len(seen) < 140


def test_other_axes_are_left_out(file):
    assert {row["axis"] for row in load_rows([file], "agreement", "train")} == {"agreement"}
    assert load_rows([file], "over-caution", "train") == []


def test_a_row_without_label_is_named(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"context": ["Hi!"], "reply": "Hello.", "axis": "unsafe"}\n')
    with pytest.raises(UserError, match=r"labels\.jsonl, line 1.*label_1"):
        load_rows([str(path)], "unsafe", "train")


def test_unresponsive_rows_are_those_whose_answering_is_known(tmp_path):
    given = [("unsafe", False, True), ("unsafe", True, False), ("agreement", False, False)]
    rows = [
        {"context": ["Hi!"], "reply": f"{i}", "axis": axis, "label_1": label, "answers_1": answers}
        for i, (axis, label, answers) in enumerate(given)
    ]
    rows.append({"context": ["Hi!"], "reply": "3", "axis": "unsafe", "label_1": True})
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {row["reply"]: row["label_1"] for row in load_rows([str(path)], "unresponsive")}
    assert found == {"0": False, "1": True, "2": True}
