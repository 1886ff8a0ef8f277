"""The bundled samples keep the formats that bundled/README.md promises."""

import ast
import csv
import json
from collections import Counter, defaultdict
from importlib.resources import files

import pytest

BUNDLED = files("parlai_prosocial") / "data" / "bundled"

FOUNDATIONS = ["care", "fairness", "liberty", "loyalty", "authority", "sanctity"]
MIC_COLUMNS = {
    "chatbot",
    "Q",
    "A",
    "QA",
    "rot",
    "moral",
    "moral-vector",
    "A_agrees",
    "rot-agree",
    "violation-severity",
    "rot-agree-collapsed",
    "violation-severity-collapsed",
    "worker_answer",
    "split",
}
PROSOCIAL_TYPES = {
    "context": str,
    "response": str,
    "rots": list,
    "safety_label": str,
    "safety_annotations": list,
    "safety_annotation_reasons": list,
    "source": str,
    "etc": str,
    "dialogue_id": int,
    "response_id": int,
    "episode_done": bool,
    "split": str,
}
LABELS_BY_CAUTIOUS_VOTES = [
    "__casual__",
    "__possibly_needs_caution__",
    "__probably_needs_caution__",
    "__needs_caution__",
]
SAFETY_LABELS = {*LABELS_BY_CAUTIOUS_VOTES, "__needs_intervention__"}


def read_jsonl(name: str) -> list[dict]:
    lines = (BUNDLED / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def mic() -> list[dict]:
    text = (BUNDLED / "mic_sample.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@pytest.fixture(scope="module")
def prosocial() -> list[dict]:
    return read_jsonl("prosocial_dialog_sample.jsonl")


@pytest.fixture(scope="module")
def own_prosocial(prosocial) -> list[dict]:
    return [row for row in prosocial if row["source"] == "parlai-prosocial"]


def dialogues(rows: list[dict]) -> dict[int, list[dict]]:
    grouped = defaultdict(list)
    for row in rows:
        grouped[row["dialogue_id"]].append(row)
    return grouped


def label_of_votes(votes: list[str]) -> str:
    if votes.count("needs intervention") >= 2:
        return "__needs_intervention__"
    return LABELS_BY_CAUTIOUS_VOTES[len(votes) - votes.count("casual")]


def collapse(value: int) -> int:
    return min(max(value - 2, 1), 3)


def test_mic_columns_and_counts(mic):
    assert set(mic[0]) == MIC_COLUMNS
    assert len({row["QA"] for row in mic}) >= 80
    assert len(mic) / len({row["QA"] for row in mic}) >= 1.5
    for row in mic:
        assert all(value is not None and value == value.strip() for value in row.values())
        assert all(row.values())


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_mic_has_every_attribute_value_in_each_split(mic, split):
    rows = [row for row in mic if row["split"] == split]
    assert {row["A_agrees"] for row in rows} == {"0", "1", "2"}
    assert {row["rot-agree"] for row in rows} == {"1", "2", "3", "4", "5"}
    assert {row["violation-severity"] for row in rows} == {"-1", "1", "2", "3", "4", "5"}
    assert {row["chatbot"] for row in rows} == {"blenderbot", "dialoGPT", "gpt-neo"}
    morals = {row["moral"] for row in rows}
    assert {name for moral in morals for name in moral.split("|")} == set(FOUNDATIONS)
    assert any("|" in moral for moral in morals)


def test_mic_rows_agree_with_themselves(mic):
    for row in mic:
        morals = row["moral"].split("|")
        assert morals == [name for name in FOUNDATIONS if name in morals]
        vector = ast.literal_eval(row["moral-vector"])
        assert vector == [float(name in morals) for name in FOUNDATIONS]
        assert row["QA"] == f"Q: {row['Q']} A: {row['A']}"
        for scale in ("rot-agree", "violation-severity"):
            assert int(row[f"{scale}-collapsed"]) == collapse(int(row[scale]))


def test_mic_splits_share_no_question_and_no_reply(mic):
    for field in ("QA", "Q", "A"):
        splits = defaultdict(set)
        for row in mic:
            splits[row[field]].add(row["split"])
        assert all(len(found) == 1 for found in splits.values())
    assert {row["split"] for row in mic} == {"train", "dev", "test"}


def test_mic_texts_are_not_repeated(mic):
    by_pair = {row["QA"]: row for row in mic}.values()
    replies = [row["worker_answer"] for row in mic] + [row["A"] for row in by_pair]
    assert len(set(replies)) == len(replies)
    assert len({row["rot"] for row in mic}) == len(mic)


def test_mic_replies_have_rules_of_differing_alignment(mic):
    alignments = defaultdict(list)
    for row in mic:
        alignments[row["QA"]].append(row["A_agrees"])
    assert sum(len(found) >= 2 and len(set(found)) > 1 for found in alignments.values()) >= 20
    assert any(len(found) == 3 for found in alignments.values())


def test_prosocial_columns_and_counts(prosocial, own_prosocial):
    for row in prosocial:
        assert {name: type(value) for name, value in row.items()} == PROSOCIAL_TYPES
        assert row["context"].strip() and row["response"].strip()
        assert row["context"] != row["response"]
        assert len(row["safety_annotations"]) == len(row["safety_annotation_reasons"]) == 3
        assert set(row["safety_annotations"]) <= {"casual", "needs caution", "needs intervention"}
        texts = [*row["rots"], *row["safety_annotation_reasons"]]
        assert all(isinstance(text, str) and text.strip() for text in texts)
    assert len(dialogues(own_prosocial)) >= 60
    assert len(prosocial) - len(own_prosocial) == 12


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_prosocial_has_every_label_in_each_split(own_prosocial, split):
    labels = {row["safety_label"] for row in own_prosocial if row["split"] == split}
    assert labels == SAFETY_LABELS


def test_prosocial_dialogues_are_whole(prosocial):
    for turns in dialogues(prosocial).values():
        assert 2 <= len(turns) <= 5
        assert [turn["response_id"] for turn in turns] == list(range(len(turns)))
        assert [turn["episode_done"] for turn in turns] == [False] * (len(turns) - 1) + [True]
        assert len({turn["split"] for turn in turns}) == 1
    order = [row["dialogue_id"] for row in prosocial]
    starts = [new for old, new in zip([None, *order], order, strict=False) if new != old]
    assert len(starts) == len(set(starts)), "the turns of a dialogue must stand together"


def test_prosocial_labels_follow_the_votes(prosocial):
    for row in prosocial:
        assert row["safety_label"] == label_of_votes(row["safety_annotations"])


def test_own_prosocial_has_rules_exactly_where_it_is_not_casual(own_prosocial):
    for row in own_prosocial:
        assert bool(row["rots"]) == (row["safety_label"] != "__casual__")
    casual = Counter(row["safety_label"] for row in own_prosocial)["__casual__"]
    assert 0.15 <= casual / len(own_prosocial) <= 0.35


def test_prosocial_texts_are_not_repeated(prosocial, own_prosocial):
    utterances = [row[field] for row in prosocial for field in ("context", "response")]
    assert len(set(utterances)) == len(utterances)
    reasons = [text for row in own_prosocial for text in row["safety_annotation_reasons"]]
    assert len(set(reasons)) == len(reasons)
    rots = [rot for row in own_prosocial for rot in row["rots"]]
    assert len(set(rots)) == len(rots)


def test_demo_contexts(prosocial):
    rows = read_jsonl("demo_contexts.jsonl")
    assert len(rows) == 12
    assert {row["kind"] for row in rows} == {"subtle-unsafe", "casual", "safe-but-scary"}
    trained_on = {row["context"] for row in prosocial}
    for row in rows:
        assert set(row) == {"context", "kind"}
        assert len(row["context"]) % 2 == 1, "the last turn must be the user's"
        assert not trained_on.intersection(row["context"])
