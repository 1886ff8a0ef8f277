"""Self-dialogue: the bundled sample, and its splits."""

import json
from collections import Counter

import pytest

from parlai_prosocial.data.reader import bundled, checked_rows
from parlai_prosocial.data.self_dialogue import SCHEMA, load_dialogues
from parlai_prosocial.errors import UserError

SPLITS = ["train", "valid", "test"]


@pytest.fixture(scope="module")
def datapath(tmp_path_factory):
    return str(tmp_path_factory.mktemp("self_dialogue"))


@pytest.fixture(scope="module")
def sample():
    return [row for _, row in checked_rows(bundled("self_dialogue.jsonl.gz"), SCHEMA)]


def test_the_sample_is_large_and_has_every_topic(sample):
    assert len(sample) >= 2000
    assert all(isinstance(row, dict) for row in sample)
    topics = Counter(row["topic"] for row in sample)
    assert len(topics) == 23
    assert topics["music"] == 491  # a tenth of 4,914, as of every topic
    assert bundled("self_dialogue.jsonl.gz").stat().st_size < 1_500_000


def test_splits_share_no_dialogue_and_lose_none(datapath, sample):
    ids = {split: [row["id"] for row in load_dialogues(datapath, split)] for split in SPLITS}
    together = [number for split in SPLITS for number in ids[split]]
    assert sorted(together) == sorted(row["id"] for row in sample)
    assert len(ids["train"]) / len(sample) == pytest.approx(0.8, abs=0.03)
    assert min(map(len, ids.values())) >= 200


def test_the_split_does_not_depend_on_the_file(datapath, sample, tmp_path):
    path = tmp_path / "few.jsonl"
    few = sample[:50]
    path.write_text("".join(json.dumps(row) + "\n" for row in few))
    for split in SPLITS:
        ids = {row["id"] for row in load_dialogues(datapath, split)}
        own = {row["id"] for row in load_dialogues(datapath, split, source=str(path))}
        assert own == ids & {row["id"] for row in few}


def test_an_empty_turn_is_named(datapath, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"id": 1, "topic": "x", "turns": ["hi", " "]}))
    with pytest.raises(UserError, match="line 1: field 'turns' holds an item that is empty"):
        load_dialogues(datapath, "train", source=str(path))
