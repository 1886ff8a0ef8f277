"""Labelled replies join the first round: a label counts for more than a judge."""

import json
from types import SimpleNamespace

import pytest

from parlai_prosocial.data.labelled import UNRESPONSIVE, UNSAFE
from parlai_prosocial.judges.judge import Judgement
from parlai_prosocial.mining.pairs import PairRule, choose_pair, pair_rows
from parlai_prosocial.mining.replies import LABELLED
from parlai_prosocial.mining.turns import Contexts, Turn
from parlai_prosocial.rounds import stages
from parlai_prosocial.rounds.labelled import add_log_probs, records_of
from parlai_prosocial.util.missing import Missing

CONTEXTS = [("I took it.",), ("Hi!", "Hello.", "I lied.")]


@pytest.fixture
def contexts():
    turns = [
        Turn(
            context=context,
            labels=("Well.",),
            rots=(),
            safety_label=None,
            contrast_group="",
            source="test",
        )
        for context in CONTEXTS
    ]
    return Contexts(turns, None)


@pytest.fixture
def labels(tmp_path):
    rows = [
        ("You could give it back to them.", False, 0, True, True),
        ("Well that is up to you.", False, 1, True, True),
        ("Bananas are yellow and long too.", False, 0, False, True),
        ("Great, take more of it soon.", True, 4, True, True),
        ("Nobody will ever find it out.", True, 2, True, False),
    ]
    names = ("reply", "label_1", "severity_1", "answers_1", "ended")
    lines = [
        {"axis": "unsafe", "context": ["I took it."], **dict(zip(names, row, strict=True))}
        for row in rows
    ]
    lines.append({**lines[0], "axis": "agreement", "reply": "Of another axis."})
    lines.append({**lines[0], "context": ["Elsewhere."]})
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [str(file)]


def test_verdicts_follow_the_grades(labels, contexts):
    alone, _ = records_of(labels, contexts, answers=False)
    assert [record[UNSAFE][0] for record in alone] == [0.0, 0.5, 0.5, 1.0, 1.0]
    assert all(UNRESPONSIVE not in record for record in alone)
    first, second = records_of(labels, contexts, answers=True)
    assert [record[UNSAFE][0] for record in first] == [0.0, 0.5, 0.0, 1.0, 1.0]
    assert [record[UNRESPONSIVE][0] for record in first] == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert [record[UNSAFE][2] for record in first[3:]] == [1.0, 0.5]
    assert [record["ended"] for record in first] == [True] * 4 + [False]
    assert second == []


def test_they_make_pairs_without_a_judges_name(labels, contexts):
    records = records_of(labels, contexts, answers=True)
    engine = SimpleNamespace(
        mean_log_probs=lambda pairs: [[-1.0 - i for i in range(len(r))] for _, r in pairs]
    )
    add_log_probs(engine, contexts, records)
    pair = choose_pair(records[0], PairRule())
    assert pair.response["reply"] == "You could give it back to them."
    # What does not answer comes behind what is unsafe.
    assert [(kind, how_bad) for _, kind, how_bad in pair.negatives] == [
        (UNSAFE, 1.0),
        (UNSAFE, 0.5),
        (UNRESPONSIVE, 1.0),
    ]
    [row], _ = pair_rows(contexts, records, PairRule(), {UNSAFE: "a judge"}, "train")
    assert row["negative_judges"] == row["negative_sources"] == [LABELLED] * 3
    assert row["reference_log_prob"] == -1.0
    assert row["negative_reference_log_probs"] == [-4.0, -5.0, -3.0]
    assert row["negative_weights"][0] > row["negative_weights"][1]


def test_a_label_and_a_grading_judge_say_how_bad_in_one_unit(labels, contexts):
    [records, _] = records_of(labels, contexts, answers=False)
    judged = {"source": "sampled", "reply": "Take it and say no word.", "ended": True}
    judged[UNSAFE] = [0.9, "__needs_intervention__", 3.0]  # of 4; the labels' are 1.0 and 0.5
    for number, record in enumerate([*records, judged]):
        record["log_prob"] = -float(number)
    pair = choose_pair([*records, judged], PairRule())
    assert [how_bad for _, _, how_bad in pair.negatives] == [1.0, 0.75, 0.5]


class Asked:
    """A judge to whom nothing answers, and all that it was asked."""

    def __init__(self):
        self.name, self.missing, self.replies = "nothing answers", Missing(), []

    def judge(self, contexts, replies):
        self.replies += replies
        return [Judgement(0.9, "said") for _ in replies]


def test_the_judge_is_asked_of_answering_where_no_label_says_it(tmp_path, labels, contexts):
    row = {"axis": "unsafe", "context": ["I took it."], "label_1": False}
    with open(labels[0], "a") as file:
        file.write(json.dumps(row | {"reply": "Why would you say that?"}) + "\n")
    records = records_of(labels, contexts, answers=True)
    unsaid = records[0][-1]
    assert UNRESPONSIVE not in unsaid and unsaid[UNSAFE] == [0.0, LABELLED]
    engine = SimpleNamespace(mean_log_probs=lambda pairs: [[-1.0] * len(r) for _, r in pairs])
    scored, file = tmp_path / "labelled.jsonl", tmp_path / "labelled-judged.jsonl"
    stages.labelled(scored, contexts, records, lambda: engine, {})
    judge = Asked()
    [found, none] = stages.judged(file, scored, contexts, {UNRESPONSIVE: judge})
    assert judge.replies == ["Why would you say that?"] and none == []
    assert found[:-1] == records[0][:-1]
    assert found[-1][UNRESPONSIVE] == [0.9, "said"]
    names = {UNSAFE: "a judge", UNRESPONSIVE: judge.name}
    [row], _ = pair_rows(contexts, [found, none], PairRule(), names, "train")
    who = dict(zip(row["negatives"], row["negative_judges"], strict=True))
    assert who["Why would you say that?"] == judge.name
    assert who["Great, take more of it soon."] == LABELLED
