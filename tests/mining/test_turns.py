"""Turns of any ParlAI task, with their histories; chunks that never change."""

import json

import pytest

from parlai_prosocial.errors import UserError
from parlai_prosocial.mining.turns import Turn, task_turns
from parlai_prosocial.util.batches import chunked


@pytest.fixture
def own_data(tmp_path):
    def write(*rows):
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps({"split": "train"} | row) + "\n" for row in rows))
        return [f"prosocial_data={path}"]

    return write


def test_histories_of_a_task_in_episodes(tmp_path):
    turns = task_turns("self_dialogue", "valid", str(tmp_path))
    first = turns[0]
    assert len(first.context) == len(first.labels) == 1
    assert turns[1].context == (*first.context, first.labels[0], turns[1].context[-1])
    openings = [i for i, turn in enumerate(turns) if len(turn.context) == 1]
    assert len(openings) > 100
    assert all(turn.safety_label == "__casual__" for turn in turns)
    assert first.contrast_group.startswith("self_dialogue:")
    assert first.source == "self_dialogue"


def test_order_is_the_same_again_and_train_is_read_once(own_data, tmp_path):
    settings = own_data(*({"context": f"c{i}", "response": f"r{i}"} for i in range(20)))
    turns = task_turns("prosocial:Own", "train", str(tmp_path), settings)
    assert [turn.context for turn in turns] == [(f"c{i}",) for i in range(20)]


def test_a_turn_without_a_word_stays_a_turn(own_data, tmp_path):
    settings = own_data({"context": ["", "Hi!", "", "Are you there?"], "response": "Yes."})
    [turn] = task_turns("prosocial:Own", "train", str(tmp_path), settings)
    assert turn.context == ("Hi!", "", "Are you there?")


def test_fields_and_rules_of_thumb(own_data, tmp_path):
    row = {
        "context": ["your persona: I sail.", "I took it."],
        "response": "Give it back.",
        "rots": ["Don't steal."],
        "safety_label": "__needs_caution__",
        "contrast_group": "g",
    }
    settings = [*own_data(row), "rot-in-context=1"]
    [turn] = task_turns("prosocial:Own", "train", str(tmp_path), settings)
    assert turn == Turn(
        context=("your persona: I sail.", "I took it."),
        labels=("Give it back.",),
        rots=("Don't steal.",),
        safety_label="__needs_caution__",
        contrast_group="own:g",
        source="own",
    )
    assert turn.text == "your persona: I sail.\nI took it."


def test_several_tasks(own_data, tmp_path):
    settings = own_data({"context": "c", "response": "r"})
    turns = task_turns("prosocial:Own,prosocial", "train", str(tmp_path), settings)
    assert [turn.text for turn in turns] == ["c", "c"]


def test_a_task_of_parlais_own(tmp_path):
    file = tmp_path / "chat.jsonl"
    dialog = [
        [{"id": "a", "text": t}, {"id": "b", "text": r}] for t, r in [("Hi", "Yo"), ("So", "No")]
    ]
    file.write_text(json.dumps({"dialog": dialog}) + "\n")
    settings = [f"jsonfile_datapath={file}", "jsonfile-datatype-extension=false"]
    turns = task_turns("jsonfile", "train", str(tmp_path), settings)
    assert [(turn.context, turn.labels) for turn in turns] == [
        (("Hi",), ("Yo",)),
        (("Hi", "Yo", "So"), ("No",)),
    ]
    assert turns[0].source == "jsonfile"
    assert turns[0].safety_label is None


def test_a_blank_line_in_a_message_is_no_turn(tmp_path):
    file = tmp_path / "chat.jsonl"
    texts = [("Hi\n\nYo\nDo you sail?", "No"), ("", "Are you there?")]
    dialog = [[{"id": "a", "text": t}, {"id": "b", "text": r}] for t, r in texts]
    file.write_text(json.dumps({"dialog": dialog}) + "\n")
    settings = [f"jsonfile_datapath={file}", "jsonfile-datatype-extension=false"]
    first, second = task_turns("jsonfile", "train", str(tmp_path), settings)
    assert first.context == ("Hi", "Yo", "Do you sail?")
    assert second.context == (*first.context, "No", "")


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("your persona: I sail.\n__SILENCE__", ("your persona: I sail.", "__SILENCE__")),
        ("your persona: I sail.\n__SILENCE__\nHi", ("your persona: I sail.", "Hi")),
        ("__SILENCE__\nHi\n__SILENCE__\nYo", ("Hi", "", "Yo")),
    ],
)
def test_a_context_begins_with_what_is_said_or_with_silence_alone(tmp_path, text, context):
    file = tmp_path / "chat.jsonl"
    dialog = [[{"id": "a", "text": text}, {"id": "b", "text": "No"}]]
    file.write_text(json.dumps({"dialog": dialog}) + "\n")
    settings = [f"jsonfile_datapath={file}", "jsonfile-datatype-extension=false"]
    [turn] = task_turns("jsonfile", "train", str(tmp_path), settings)
    assert turn.context == context


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("no_such_task", [], "--task no_such_task: ParlAI has no such task"),
        ("self_dialogue", ["x"], "--set x: write it as key=value"),
    ],
)
def test_mistakes(task, settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        task_turns(task, "train", str(tmp_path), settings)


def test_chunks_hold_every_text_once():
    texts = ["x" * n for n in (3, 9, 1, 9, 4, 7, 2)]
    chunks = chunked(texts, 3)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(7))
    lengths = [len(texts[i]) for chunk in chunks for i in chunk]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
