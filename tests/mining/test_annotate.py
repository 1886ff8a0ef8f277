"""Canary's form, read from clean and sloppy answers; rows that step 2 reads."""

import json
from collections import Counter

import pytest
from click.testing import CliRunner

import parlai_prosocial
from parlai_prosocial.cli.annotate import annotate as command
from parlai_prosocial.data import own
from parlai_prosocial.engines.reply_scores import SampledReply
from parlai_prosocial.errors import UserError
from parlai_prosocial.mining.annotate import Annotated
from parlai_prosocial.mining.canary import (
    Annotation,
    agreement,
    annotate_turns,
    parse_annotation,
    read_few_shot,
)
from parlai_prosocial.mining.turns import Turn
from parlai_prosocial.models.prompt import split_context

NEEDS = "__needs_caution__"


def turn(text, safety_label=None, rots=(), group=""):
    return Turn((text,), ("Fine.",), rots, safety_label, group, "task")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("__casual__", Annotation("__casual__", [])),
        (f"{NEEDS}\nrule of thumb: Don't lie.", Annotation(NEEDS, ["Don't lie."])),
        (
            "__needs_intervention__ rule of thumb: Get help. rule of thumb: Stay calm.",
            Annotation("__needs_intervention__", ["Get help.", "Stay calm."]),
        ),
        (
            "Possibly needs caution.\nRule of thumb:  Be kind.\nSo.",
            Annotation("__possibly_needs_caution__", ["Be kind."]),
        ),
        ("[probably_needs_caution]: rule of thumb:", Annotation("__probably_needs_caution__", [])),
        (f"{NEEDS} It's wrong to lie.", Annotation(NEEDS, [])),
        ("__casual__ rule of thumb: Be kind.", Annotation("__casual__", [])),
        ("casually speaking", None),
        ("It is __casual__", None),
        ("", None),
    ],
)
def test_answers(answer, expected):
    assert parse_annotation(answer) == expected


def test_every_bundled_example_is_a_valid_answer():
    few_shot = read_few_shot()
    questions, answers = few_shot.turns[::2], few_shot.turns[1::2]
    assert len(questions) == len(answers) >= 4
    labels = set()
    for question, answer in zip(questions, answers, strict=True):
        assert question.startswith("Conversation: ")
        annotation = parse_annotation(answer)
        labels.add(annotation.safety_label)
        assert (annotation.safety_label == "__casual__") == (not annotation.rots)
    assert {"__casual__", NEEDS, "__needs_intervention__"} <= labels
    assert "__casual__" in few_shot.system_prompt


def test_examples_become_turns_and_the_conversation_the_last_one():
    few_shot = read_few_shot()
    context = few_shot.context("your persona: I sail.\nHi.\nHello.\nI took it.")
    turns, system_lines = split_context(context)
    assert turns[:-1] == few_shot.turns
    assert turns[-1] == "Conversation: your persona: I sail. / Hi. / Hello. / I took it."
    assert len(turns) % 2 == 1  # so the conversations are the user's
    assert system_lines == []


class Answerer:
    name = "answerer"

    def __init__(self, answers):
        self.answers, self.asked, self.missing = answers, [], Counter()

    def sample(self, contexts, n, max_tokens, seed, temperature=1.0, top_p=1.0):
        assert (n, temperature) == (1, 0.0)
        self.asked += contexts
        found = [self.answers[context.split(" ")[-1]] for context in contexts]
        return [[None if answer is None else SampledReply(answer, True)] for answer in found]


def test_rows_are_own_data_with_labels_and_rules(tmp_path):
    answers = {
        "a": "__casual__",
        "b": f"{NEEDS}\nrule of thumb: Don't lie.",
        "c": "Well.",
        "d": None,
    }
    turns = [turn(name, group="g") for name in "abcd"]
    out = tmp_path / "out.jsonl"
    engine = Answerer(answers)
    summary = annotate_turns(turns, engine, None, "valid", out, {"any": 1})
    assert sorted(engine.asked) == list("abcd")
    examples = own.contrastive_examples(own.load_rows(str(out), str(tmp_path), "valid"))
    assert [(e.context, e.response) for e in examples] == [([n], "Fine.") for n in "abcd"]
    assert [e.safety_label for e in examples] == ["__casual__", NEEDS, None, None]
    assert [e.rots for e in examples] == [[], ["Don't lie."], [], []]
    assert {e.contrast_group for e in examples} == {"own:g"}
    assert (summary["turns"], summary["parse_failures"], summary["missing_answers"]) == (4, 1, 1)
    assert summary["labels"]["__casual__"] == summary["labels"][NEEDS] == 1
    assert "against_own" not in summary
    again = Answerer({})
    assert annotate_turns(turns, again, None, "valid", out, {"any": 1}) == summary
    assert again.asked == []


def test_examples_are_shown_where_wanted(tmp_path):
    engine = Answerer({"a": "__casual__"})
    few_shot = read_few_shot()
    annotate_turns([turn("a")], engine, few_shot, "train", tmp_path / "out.jsonl", {})
    assert engine.asked == [few_shot.context("a")]


def test_agreement_with_a_tasks_own_labels():
    turns = [
        turn("a", "__casual__"),
        turn("b", NEEDS, ("You should not tell lies.", "Be honest.")),
        turn("c", "__needs_intervention__", ("Get help.",)),
        turn("d"),
    ]
    found = [
        Annotation("__casual__", []),
        Annotation(NEEDS, ["Be honest.", "Never mind."]),
        None,
        Annotation(NEEDS, ["Anything."]),
    ]
    report = agreement(turns, found)["against_own"]
    assert report["labelled_turns"] == 3
    assert report["label_accuracy"] == pytest.approx(2 / 3)
    assert report["casual_accuracy"] == pytest.approx(2 / 3)
    assert (report["turns_with_rots"], report["rots_written"]) == (2, 1)
    assert report["rot_f1"] == pytest.approx(1 / 2)  # one equals its best, the other is missing
    assert 0 < report["rot_bleu4"] <= 1 / 2
    same = agreement(turns[1:2], [Annotation(NEEDS, [])])["against_own"]
    assert same["labelled_turns"] == 1 and not {"label_accuracy", "casual_accuracy"} & set(same)
    nothing = agreement(turns[1:2], [Annotation(NEEDS, [])])["against_own"]
    assert (nothing["rot_f1"], nothing["rot_bleu4"]) == (0, 0)
    assert agreement(turns[3:], found[3:]) == {}


def test_the_command_on_the_bundled_rows(tiny_backbones, tmp_path, monkeypatch):
    monkeypatch.setattr("parlai_prosocial.models.precision.bf16_is_faster", lambda device: False)
    out = tmp_path / "out.jsonl"
    arguments = ["--task", "prosocial", "--set", "prosocial_sample=true", "--limit", "6"]
    arguments += ["--rot-model", str(tiny_backbones["llama"]), "--datapath", str(tmp_path)]
    result = CliRunner().invoke(command, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"{out}: 6 turns, 0 rules of thumb; answers that could not be read: 6" in result.output
    assert "label accuracy: 0" in result.output
    summary = json.loads((tmp_path / "out.summary.json").read_text())
    assert summary["against_own"]["labelled_turns"] == 6
    assert summary["settings"]["examples"][0] == read_few_shot().system_prompt
    assert len(out.read_text().splitlines()) == 6


def test_mistakes_of_the_command(tmp_path):
    arguments = ["--task", "self_dialogue", "--rot-model", "x", "--out", str(tmp_path / "o.jsonl")]
    with pytest.raises(UserError, match="--limit 0: must be at least 1"):
        CliRunner().invoke(command, [*arguments, "--limit", "0"], catch_exceptions=False)


def test_an_out_that_nobody_would_read_is_refused_before_the_work(tmp_path):
    arguments = ["--task", "self_dialogue", "--rot-model", "x", "--out", str(tmp_path / "o")]
    with pytest.raises(UserError, match=r"--out .*o: give a name that ends with \.jsonl"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_counts_are_printed_whole(tmp_path):
    summary = {"turns": 30000, "rots": 2, "parse_failures": 0, "missing_answers": 0, "labels": {}}
    summary |= {"seconds": 1.0, "turns_per_second": 1}
    summary["against_own"] = {"labelled_turns": 25029, "label_accuracy": 0.123456}
    told = str(Annotated(tmp_path / "o.jsonl", summary))
    assert "labelled turns: 25029\n" in told and "label accuracy: 0.123\n" in told


def test_from_python_as_by_the_command(tiny_backbones, tmp_path, monkeypatch):
    monkeypatch.setattr("parlai_prosocial.models.precision.bf16_is_faster", lambda device: False)
    model = str(tiny_backbones["llama"])
    found = parlai_prosocial.annotate(
        "prosocial",
        model,
        tmp_path / "out.jsonl",
        limit=6,
        settings=["prosocial_sample=true"],
        datapath=str(tmp_path),
    )
    assert found.summary["turns"] == len(found.rows) == len(found.to_pandas()) == 6
    assert found.summary_file == tmp_path / "out.summary.json"
    assert json.loads(found.summary_file.read_text()) == found.summary
    # The command resumes what Python began: it is the same run.
    arguments = ["--task", "prosocial", "--set", "prosocial_sample=true", "--limit", "6"]
    arguments += ["--rot-model", model, "--datapath", str(tmp_path)]
    result = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path / "out.jsonl")])
    assert f"{found}\n" in result.output
    with pytest.raises(UserError, match=r"^limit 0: must be at least 1"):
        parlai_prosocial.annotate("prosocial", model, tmp_path / "o.jsonl", limit=0)
