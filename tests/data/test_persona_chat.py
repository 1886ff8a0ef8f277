"""Synthetic-Persona-Chat, on rows that we wrote in its format."""

import csv

import pytest

from parlai_prosocial.data.persona_chat import load_dialogues
from parlai_prosocial.errors import UserError

CONVERSATIONS = [
    "User 1: Hi!\nUser 2: Hello, is that your boat?\n\nUser 1: It is, do you sail?",
    "User 1: Hi!\n[They sail.]\nUser 2: What a day.",
    "User 1: Hi!\nUser 1: Hello?",
    "User 1: Hi!",
]


def write(path, conversations):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user 1 personas", "user 2 personas", "Best Generated Conversation"])
        writer.writerows(["I sail.", "I have a dog.", text] for text in conversations)
    return str(path)


def test_only_plain_dialogues_are_taken(tmp_path):
    dialogues = load_dialogues(write(tmp_path / "valid.csv", CONVERSATIONS), str(tmp_path))
    turns = ["Hi!", "Hello, is that your boat?", "It is, do you sail?"]
    assert dialogues == [{"id": 0, "turns": turns}]


def test_a_file_without_any_is_named(tmp_path):
    path = write(tmp_path / "valid.csv", CONVERSATIONS[1:])
    with pytest.raises(UserError, match=r"valid\.csv: no dialogue of lines"):
        load_dialogues(path, str(tmp_path))
