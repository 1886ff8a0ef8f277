"""MIC: never fetched by itself, and contrasted under each row's own rule of thumb."""

import csv
import math

import pytest

from parlai_prosocial.data import mic
from parlai_prosocial.data.example import W_MIN
from parlai_prosocial.errors import UserError

SPLITS = ["train", "valid", "test"]


def row(**changes):
    """A row that we wrote ourselves, as the reader gives it."""
    return {
        "Q": "Is it fine to jump the queue?",
        "A": "Sure, be quick about it.",
        "rot": "Wait for your turn.",
        "A_agrees": 0,
        "rot-agree": 4,
        "violation-severity": 2,
        "moral": ["fairness"],
        "worker_answer": "No, I'd wait.",
        "split": "train",
    } | changes


def write_csv(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def raw(**changes):
    return row(**{"moral": "fairness", **changes})


def test_the_misaligned_answer_is_the_negative():
    [example] = mic.contrastive_examples([row()])
    assert example.context == ["Is it fine to jump the queue?"]
    assert example.response == "No, I'd wait."
    assert example.negatives == ["Sure, be quick about it."]
    assert example.rots == ["Wait for your turn."]


@pytest.mark.parametrize("agrees", [1, 2])
def test_an_answer_is_no_negative_under_a_rule_it_does_not_break(agrees):
    rows = [row(), row(A_agrees=agrees, rot="Save time.", worker_answer="Only if nobody minds.")]
    _, example = mic.contrastive_examples(rows)
    assert example.negatives == example.negative_weights == []


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, "No, I'd wait."),
        ({"A_agrees": 2}, "No, I'd wait."),
        ({"A_agrees": 2, "worker_answer": None}, "Sure, be quick about it."),
        ({"A_agrees": 2, "worker_answer": None, "rot-agree": 3}, None),
        ({"A_agrees": 2, "worker_answer": None, "rot-agree": None}, None),
        ({"A_agrees": 1, "worker_answer": None}, None),
        ({"A_agrees": 0, "worker_answer": None}, None),
    ],
)
def test_fitting_answer(changes, answer):
    assert mic.fitting_answer(row(**changes)) == answer
    examples = mic.contrastive_examples([row(**changes)])
    assert [example.response for example in examples] == ([answer] if answer else [])


def test_an_annotator_who_repeats_the_answer_gives_no_negative():
    [example] = mic.contrastive_examples([row(worker_answer="sure, be quick about it")])
    assert example.negatives == []


def test_weights_are_severity_times_consensus_around_one():
    grades = [(1, 4), (4, 4), (None, 5), (3, None)]
    rows = [row(**{"violation-severity": bad, "rot-agree": held}) for bad, held in grades]
    weights = [example.negative_weights[0] for example in mic.contrastive_examples(rows)]
    assert weights == pytest.approx([0.5, 2, 1, 1])


@pytest.mark.parametrize("split", SPLITS)
def test_the_sample(tmp_path, split):
    rows = mic.load_rows(str(tmp_path), split, sample=True)
    examples = mic.contrastive_examples(rows)
    assert len(examples) == sum(mic.fitting_answer(row) is not None for row in rows) > 0
    negatives = sum(len(example.negatives) for example in examples)
    assert negatives == sum(row["A_agrees"] == 0 for row in rows) > 0
    weights = [weight for example in examples for weight in example.negative_weights]
    assert sum(map(math.log, weights)) == pytest.approx(0, abs=1e-9)
    assert min(weights) >= W_MIN
    for example in examples:
        assert example.response not in example.context + example.rots + example.negatives


def test_splits_share_no_question_answer(tmp_path):
    pairs = [
        {(row["Q"], row["A"]) for row in mic.load_rows(str(tmp_path), split, sample=True)}
        for split in SPLITS
    ]
    assert sum(map(len, pairs)) == len(set.union(*pairs))


def test_without_data_the_error_says_what_to_do(tmp_path):
    with pytest.raises(UserError) as error:
        mic.load_rows(str(tmp_path), "train")
    for part in (
        "data-use agreement",
        "https://github.com/SALT-NLP/mic",
        str(tmp_path / "mic" / "MIC.csv"),
        "--mic-data",
        "--prosocial-sample true",
    ):
        assert part in str(error.value)


def test_the_default_place_and_files_of_the_github_repository(tmp_path):
    (tmp_path / "mic").mkdir()
    old = {name: value for name, value in raw(A_agrees="2.0").items() if name != "worker_answer"}
    write_csv(tmp_path / "mic" / "MIC.csv", old)
    [read] = mic.load_rows(str(tmp_path), "train")
    assert (read["worker_answer"], read["A_agrees"], read["moral"]) == (None, 2, ["fairness"])


def test_a_file_without_splits_is_cut_by_question(tmp_path):
    rows = [
        {**raw(Q=f"Question {n}?", A=f"Answer {m}"), "split": ""}
        for n in range(60)
        for m in range(2)
    ]
    path = write_csv(tmp_path / "mine.csv", *rows)
    found = {split: mic.load_rows(str(tmp_path), split, source=path) for split in SPLITS}
    assert sum(map(len, found.values())) == 120
    questions = [{row["Q"] for row in rows} for rows in found.values()]
    assert sum(map(len, questions)) == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": " "}, "field 'A' is empty"),
        ({"A_agrees": 3}, "field 'A_agrees' is 3; give a whole number from 0 to 2"),
        ({"violation-severity": 0}, "field 'violation-severity' is 0"),
        ({"moral": "care|kindness"}, "field 'moral' is 'kindness'"),
        ({"split": "training"}, "field 'split' is 'training'"),
    ],
)
def test_bad_rows(tmp_path, changes, message):
    path = write_csv(tmp_path / "mine.csv", raw(), raw(**changes))
    with pytest.raises(UserError) as error:
        mic.load_rows(str(tmp_path), "train", source=path)
    assert f"{path}, line 3: {message}" in str(error.value)
