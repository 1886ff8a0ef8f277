"""The user's own data: one format, in any file, every mistake named."""

import json

import pytest

from parlai_prosocial.data import own
from parlai_prosocial.data.field_checks import BadRow
from parlai_prosocial.data.reader import checked_rows
from parlai_prosocial.errors import UserError

FULL = {
    "context": ["May I borrow it?", "What for?", "A prank."],
    "response": "Then no.",
    "rots": ["Pranks can hurt."],
    "safety_label": "__needs_caution__",
    "negatives": ["Great, do it!", "Whatever."],
    "negative_weights": [4, 1],
    "negative_judges": ["words@1", "words@2"],
    "negative_sources": ["sampled", "synthetic"],
    "contrast_group": "pranks",
    "source": "mine",
    "split": "train",
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def examples(tmp_path, *rows):
    path = write(tmp_path / "own.jsonl", *rows)
    return own.contrastive_examples(own.load_rows(path, str(tmp_path), "train"))


def test_every_field(tmp_path):
    [example] = examples(tmp_path, FULL)
    assert example.context == FULL["context"]
    assert example.response == "Then no."
    assert example.rots == ["Pranks can hurt."]
    assert example.safety_label == "__needs_caution__"
    assert example.negatives == FULL["negatives"]
    assert example.negative_weights == pytest.approx([2.0, 0.5])
    assert example.contrast_group == "own:pranks"
    assert example.source == "mine"


def test_only_the_needed_fields(tmp_path):
    one, other = examples(
        tmp_path,
        {"context": "Hello.", "response": "Hi.", "split": "train"},
        {"context": ["hello"], "response": "Hey.", "split": "train"},
    )
    assert (one.rots, one.safety_label, one.negatives, one.source) == ([], None, [], "own")
    assert one.contrast_group == other.contrast_group


@pytest.mark.parametrize(
    "context",
    ["one\ntwo", "one\n\n two \n", ["one", "two"], '["one", "two"]', ["one", None, "two"]],
)
def test_spellings_of_a_context(tmp_path, context):
    [example] = examples(tmp_path, {**FULL, "context": context})
    assert example.context == ["one", "two"]


def test_a_context_that_begins_with_a_bracket(tmp_path):
    [example] = examples(tmp_path, {**FULL, "context": "[laughs] Sure."})
    assert example.context == ["[laughs] Sure."]


def test_csv(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(
        "context,response,negatives,negative_weights,split\n"
        '"one\ntwo",fine,"[""bad"", ""worse""]","[1, 4]",train\n'
        "three,fine,just bad,,train\n"
    )
    first, second = own.contrastive_examples(own.load_rows(str(path), str(tmp_path), "train"))
    assert first.context == ["one", "two"]
    assert first.negatives == ["bad", "worse"]
    assert first.negative_weights == pytest.approx([0.5, 2.0])
    assert (second.negatives, second.negative_weights) == (["just bad"], [1.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": ""}, "field 'context' is empty"),
        ({"context": []}, "field 'context' has no turn"),
        ({"context": 3}, "field 'context' is a number"),
        ({"response": " "}, "field 'response' is empty"),
        ({"safety_label": "fine"}, "field 'safety_label' is 'fine'; it must be one of __casual__"),
        ({"negatives": ["a", " "]}, "field 'negatives' holds an item that is empty"),
        ({"negatives": ["a"]}, "field 'negative_weights' has 2 weights for 1 negatives"),
        ({"negatives": None}, "field 'negative_weights' has 2 weights for 0 negatives"),
        (
            {"negative_weights": [1, -1]},
            "field 'negative_weights' holds -1; a weight must be above",
        ),
        ({"negative_judges": ["a"]}, "field 'negative_judges' has 1 names for 2 negatives"),
        ({"negative_sources": []}, "field 'negative_sources' has 0 names for 2 negatives"),
        ({"negatives": ["then NO", "x"]}, "field 'negatives' holds the response itself"),
    ],
)
def test_bad_rows(tmp_path, changes, message):
    path = write(tmp_path / "own.jsonl", FULL, FULL | changes)
    (_, good), (place, bad) = checked_rows(path, own.SCHEMA)
    assert isinstance(good, dict)
    assert isinstance(bad, BadRow)
    assert place == f"{path}, line 2"
    assert message in str(bad)


def test_rows_without_a_split_are_cut_by_group_and_keep_together(tmp_path):
    rows = [
        {"context": [f"opening {n}", "go on", f"detail {m}"], "response": f"reply {m}"}
        for n in range(100)
        for m in range(2)
    ]
    path = write(tmp_path / "own.jsonl", *rows)
    openings = []
    for split in ("train", "valid", "test"):
        found = own.load_rows(path, str(tmp_path), split)
        openings.append({row["context"][0] for row in found})
        assert len(found) == 2 * len(openings[-1])
    assert sum(map(len, openings)) == 100
    assert len(openings[0]) == pytest.approx(80, abs=12)


def test_the_judges_that_mined_are_known(tmp_path):
    path = write(tmp_path / "own.jsonl", FULL, {"context": "Hi.", "response": "Hello."})
    rows = [row for _, row in checked_rows(path, own.SCHEMA)]
    assert own.mining_judges(rows) == {"words@1", "words@2"}
    assert own.mining_judges(rows[1:]) == set()


def test_an_empty_split_says_what_there_is(tmp_path):
    path = write(tmp_path / "own.jsonl", FULL)
    with pytest.raises(UserError, match=r"add a column split\) has no example for -dt valid"):
        own.load_rows(path, str(tmp_path), "valid")


def test_scores_of_the_model_that_training_starts_from(tmp_path):
    row = {"context": "Hi", "response": "yes", "negatives": ["no", "go"], "split": "train"}
    scored = row | {"reference_log_prob": -1.5, "negative_reference_log_probs": [-2, -0.5]}
    file = tmp_path / "rows.jsonl"

    def examples(*rows):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return own.contrastive_examples(own.load_rows(str(file), str(tmp_path), "train"))

    plain, with_scores = examples(row, scored)
    assert (plain.reference_log_prob, plain.negative_reference_log_probs) == (None, [])
    assert with_scores.reference_log_prob == -1.5
    assert with_scores.negative_reference_log_probs == [-2.0, -0.5]
    for bad, reason in (
        ({"reference_log_prob": 0.5}, "'reference_log_prob' is 0.5; a log probability is at most"),
        ({"reference_log_prob": "x"}, "'reference_log_prob' is 'x'; give a number"),
        ({"negative_reference_log_probs": [-1]}, "has 1 numbers for 2 negatives; give one for"),
    ):
        with pytest.raises(UserError, match=reason):
            examples(scored | bad)
