"""ProsocialDialog: dialogues stay whole, and the next problematic utterance is the negative."""

import json
import math
from collections import defaultdict

import pytest

from parlai_prosocial.data import prosocial_dialog
from parlai_prosocial.data.example import SAFETY_LABELS
from parlai_prosocial.errors import UserError

SPLITS = ["train", "valid", "test"]


def turn(dialogue, index, label=SAFETY_LABELS[3], **changes):
    return {
        "context": f"utterance {dialogue}.{index}",
        "response": f"reply {dialogue}.{index}",
        "rots": [f"rule {dialogue}.{index}"],
        "safety_label": label,
        "dialogue_id": dialogue,
        "response_id": index,
        "split": "train",
    } | changes


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    datapath = str(tmp_path_factory.mktemp("prosocial"))
    return {split: prosocial_dialog.load_rows(datapath, split, sample=True) for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_no_row_of_the_sample_is_lost(sample, split):
    examples = prosocial_dialog.contrastive_examples(sample[split])
    given = {(row["context"], row["response"]) for row in sample[split]}
    assert {(example.context[-1], example.response) for example in examples} == given
    assert len(examples) == len(sample[split]) == len(given)


@pytest.mark.parametrize("split", SPLITS)
def test_context_is_the_dialogue_so_far(sample, split):
    dialogues = defaultdict(list)
    for row in sample[split]:
        dialogues[row["dialogue_id"]] += [row["context"], row["response"]]
    by_group = defaultdict(list)
    for example in prosocial_dialog.contrastive_examples(sample[split]):
        by_group[example.contrast_group].append(example)
    assert len(by_group) == len(dialogues)
    for examples, turns in zip(by_group.values(), dialogues.values(), strict=True):
        for index, example in enumerate(examples):
            assert example.context == turns[: 2 * index + 1]
            assert example.response == turns[2 * index + 1]
            assert example.response not in example.context
            assert set(example.negatives) <= set(turns[2 * index + 2 : 2 * index + 3])


def test_splits_share_no_dialogue(sample):
    groups = [
        {example.contrast_group for example in prosocial_dialog.contrastive_examples(rows)}
        for rows in sample.values()
    ]
    utterances = [{row["context"] for row in rows} for rows in sample.values()]
    for sets in (groups, utterances):
        assert sum(map(len, sets)) == len(set.union(*sets))


@pytest.mark.parametrize("split", SPLITS)
def test_weights_of_the_sample(sample, split):
    examples = prosocial_dialog.contrastive_examples(sample[split])
    logs = [math.log(weight) for example in examples for weight in example.negative_weights]
    assert logs
    assert sum(logs) == pytest.approx(0, abs=1e-9)


def test_the_next_utterance_is_a_negative_unless_casual():
    casual, possibly, *_, intervention = SAFETY_LABELS
    rows = [
        turn(1, 0, possibly),
        turn(1, 1, intervention),
        turn(1, 2, casual),
        turn(2, 0, casual),
        turn(2, 1, possibly),
    ]
    examples = prosocial_dialog.contrastive_examples(rows)
    assert [example.negatives for example in examples] == [
        ["utterance 1.1"],
        [],
        [],
        ["utterance 2.1"],
        [],
    ]
    # Distances 4 and 1 from casual, scaled to mean log 0.
    assert examples[0].negative_weights == pytest.approx([2.0])
    assert examples[3].negative_weights == pytest.approx([0.5])


def test_an_interlocutor_who_repeats_the_reply_is_no_negative():
    rows = [turn(1, 0, response="Calm down"), turn(1, 1, context="calm down!")]
    assert [e.negatives for e in prosocial_dialog.contrastive_examples(rows)] == [[], []]


def test_turns_out_of_order_are_sorted_and_after_a_gap_left_out(caplog):
    rows = [turn(1, 1), turn(2, 1), turn(1, 0), turn(3, 0), turn(3, 2)]
    examples = prosocial_dialog.contrastive_examples(rows)
    assert [example.context[-1] for example in examples] == [
        "utterance 1.0",
        "utterance 1.1",
        "utterance 3.0",
    ]
    assert "left out 2 turns" in caplog.text


def test_turns_that_stand_twice_count_once_and_are_named(tmp_path, caplog):
    folder = tmp_path / "prosocial"
    folder.mkdir()
    rows = [turn(1, 0), turn(1, 1), turn(2, 0)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, [*rows, rows[1]])))
    assert len(prosocial_dialog.load_rows(str(tmp_path), "train")) == 3
    assert "left out 1 turns that stand twice" in caplog.text
    assert "dialogue_id 1, response_id 1" in caplog.text
    other = turn(1, 1, response="Something else")
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, [*rows, other])))
    with pytest.raises(UserError, match="dialogue_id 1, response_id 1 stands twice"):
        prosocial_dialog.load_rows(str(tmp_path), "train")


def test_a_copy_by_hand_is_found(tmp_path):
    folder = tmp_path / "prosocial"
    folder.mkdir()
    for name, dialogue in (("train", 1), ("validation", 2), ("test", 3)):
        rows = [turn(dialogue, 0, rots=["", "rule"]), turn(dialogue, 1, rots=None)]
        for row in rows:
            del row["split"]
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, rows)))
    rows = prosocial_dialog.load_rows(str(tmp_path), "valid")
    assert [row["context"] for row in rows] == ["utterance 2.0", "utterance 2.1"]
    assert [row["rots"] for row in rows] == [["rule"], []]


def test_without_data_the_error_says_what_to_do(tmp_path):
    with pytest.raises(UserError) as error:
        prosocial_dialog.load_rows(str(tmp_path), "train")
    for part in (
        "https://huggingface.co/datasets/allenai/prosocial-dialog",
        "CC BY 4.0",
        str(tmp_path / "prosocial"),
        "--prosocial-sample true",
    ):
        assert part in str(error.value)


def test_unknown_label(tmp_path):
    folder = tmp_path / "prosocial"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps(turn(1, 0, "casual")))
    with pytest.raises(UserError, match=r"train.jsonl, line 1: field 'safety_label' is 'casual'"):
        prosocial_dialog.load_rows(str(tmp_path), "train")
