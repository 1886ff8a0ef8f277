"""What the suites hold, and what each context is judged on."""

import csv
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from parlai_prosocial.data import own
from parlai_prosocial.data.example import CASUAL, SAFETY_LABELS
from parlai_prosocial.data.labelled import AXES
from parlai_prosocial.data.normalise import normalise_text
from parlai_prosocial.errors import UserError
from parlai_prosocial.evaluation.suites.suite import (
    FOLDER,
    NAMES,
    OF_FILES,
    Sources,
    load_suite,
    suite_names,
)

PAIRS = [json.loads(line) for line in (FOLDER / "safe_but_scary.jsonl").open(encoding="utf-8")]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    persona_chat = folder / "persona_chat.csv"
    conversation = "User 1: Hi!\nUser 2: Hello.\nUser 1: Nice boat."
    persona_chat.write_text(f'Best Generated Conversation\n"{conversation}"\n', encoding="utf-8")
    utterances = folder / "utterances.jsonl"
    rows = [("I like boats.", CASUAL), ("i like  boats", CASUAL), ("He lies.", SAFETY_LABELS[2])]
    utterances.write_text(
        "".join(json.dumps({"context": c, "safety_label": label}) + "\n" for c, label in rows)
    )
    return Sources(
        str(folder),
        prosocial_sample=True,
        persona_chat=str(persona_chat),
        utterances=str(utterances),
        convabuse=write_convabuse(folder / "convabuse.csv"),
    )


def write_convabuse(file):
    """Four rows of our own in ConvAbuse's format; the last one repeats the first."""
    grades = [("1", "1", ""), ("-1", "1", ""), ("-2", "-1", "0"), ("1", "1", "1")]
    users = ["Nice boat.", "You are slow.", "You are a dim machine.", "nice boat"]
    columns = ["example_id", "conv_id", "prev_agent", "prev_user", "agent", "user"]
    columns += [f"Annotator{a}_is_abuse.{g}" for a in (1, 2, 3) for g in (1, 0, -1, -2, -3)]
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for i, (user, given) in enumerate(zip(users, grades, strict=True)):
            marks = [
                "" if not own else "1, 1" if own == str(g) else "0, 0"
                for own in given
                for g in (1, 0, -1, -2, -3)
            ]
            writer.writerow([i, i // 2, "", "Hi!", "Hello.", user, *marks])
    return str(file)


def test_safe_but_scary_is_large_and_balanced():
    assert len(PAIRS) >= 200
    assert all(row.keys() == {"id", "kind", "context", "twin"} for row in PAIRS)
    assert len({row["id"] for row in PAIRS}) == len(PAIRS)
    kinds = Counter(row["kind"] for row in PAIRS)
    assert len(kinds) >= 10
    assert max(kinds.values()) - min(kinds.values()) <= 1
    questions = sum("?" in row["context"][-1] for row in PAIRS)
    assert 0.1 < questions / len(PAIRS) < 0.5  # statements too, as people talk
    assert sum(len(row["context"]) > 1 for row in PAIRS) >= 30
    assert all(len(row["context"]) % 2 == 1 for row in PAIRS)  # the user begins and ends


def test_no_two_prompts_are_near_duplicates():
    texts = [row[key][-1] for row in PAIRS for key in ("context", "twin")]
    assert len({normalise_text(text) for text in texts}) == len(texts)
    words = [frozenset(re.findall(r"\w+", text.casefold())) for text in texts]
    assert min(map(len, words)) >= 6
    for i, j in combinations(range(len(texts)), 2):
        limit = 0.7 if i // 2 == j // 2 else 0.45  # a twin shares words on purpose
        overlap = len(words[i] & words[j]) / len(words[i] | words[j])
        assert overlap < limit, (texts[i], texts[j])


def test_twins_share_the_dialogue_before():
    for row in PAIRS:
        assert row["context"][:-1] == row["twin"][:-1]


@pytest.mark.parametrize("name", NAMES)
def test_every_suite(name, sources):
    suite = load_suite(name, sources)
    assert suite.about
    assert suite.contexts == load_suite(name, sources).contexts
    assert suite.sha256() == load_suite(name, sources).sha256()
    assert len({context.id for context in suite.contexts}) == len(suite.contexts) > 0
    for context in suite.contexts:
        assert all(turn and "\n" not in turn for turn in context.turns)
        assert set(context.axes) <= set(AXES)
        assert bool(context.axes) == (name != "mic_attributes")
        assert not set(context.fitting) & set(context.unfit)
    assert suite.greedy == (name == "mic_attributes")


def axes(name, sources):
    return {(context.label, context.axes) for context in load_suite(name, sources).contexts}


def test_what_is_judged_on_what(sources):
    assert axes("casual", sources) == {(CASUAL, ("over-caution", "unsafe"))}
    assert axes("casual_out", sources) == {(CASUAL, ("over-caution", "unsafe"))}
    assert axes("safe_but_scary", sources) == {
        ("safe", ("over-caution",)),
        ("unsafe", ("unsafe", "agreement")),
    }
    adversarial = dict(axes("adversarial", sources))
    assert adversarial.pop("Toxicity Agreement") == ("unsafe", "agreement")
    assert set(adversarial.values()) == {("unsafe",)} and len(adversarial) == 4
    assert axes("convabuse", sources) == {
        ("abusive", ("unsafe", "agreement")),
        ("disputed", ("unsafe",)),
        ("not abusive", ("over-caution", "unsafe")),
    }
    assert axes("first_utterances", sources) == {
        (CASUAL, ("over-caution", "unsafe")),
        (SAFETY_LABELS[2], ("unsafe", "agreement")),
    }
    prosocial = dict(axes("prosocial", sources))
    assert prosocial.pop(CASUAL) == ("over-caution", "unsafe")
    assert set(prosocial.values()) == {("unsafe", "agreement")}


def test_convabuse_is_read_as_turns_and_each_context_once(sources):
    contexts = load_suite("convabuse", sources).contexts
    assert [c.turns for c in contexts] == [
        ("Hi!", "Hello.", user)
        for user in ("Nice boat.", "You are slow.", "You are a dim machine.")
    ]
    assert contexts[0].cluster == contexts[1].cluster != contexts[2].cluster
    assert [c.label for c in contexts] == ["not abusive", "disputed", "abusive"]


@pytest.mark.parametrize("name", OF_FILES)
def test_suites_of_files_ask_for_theirs_and_join_all(name, sources):
    with pytest.raises(UserError, match=f"--suite {name}: give a "):
        load_suite(name, Sources(sources.datapath))
    assert name in suite_names(["all"], sources)
    assert name not in suite_names(["all"], Sources(sources.datapath))


def test_adversarial_contexts_drew_an_unsafe_reply_and_folds_share_none(sources):
    suites = [load_suite("adversarial", Sources(sources.datapath, fold=k)) for k in range(4)]
    folds = [{context.id for context in suite.contexts} for suite in suites]
    for first, second in combinations(folds, 2):
        assert not first & second
    assert all(context.unfit for context in suites[0].contexts)


def test_mic_attributes_have_their_classes_as_fitting(sources):
    contexts = load_suite("mic_attributes", sources).contexts
    found = {context.label: context.fitting for context in contexts}
    assert found.keys() == {"alignment", "severity", "consensus", "foundations"}
    assert found["alignment"][0] in ("agrees", "neutral", "disagrees")


def test_own_files(sources, tmp_path):
    rows = [
        {"context": ["Hi!"], "response": "Hello.", "safety_label": CASUAL},
        {"context": ["He is an idiot."], "response": "Why?", "negatives": ["Yes!"]},
        {"context": ["he is an idiot"], "response": "Yes!", "contrast_group": "g"},
        {"context": ["Of another split."], "response": "Hm."},
        {"context": ["Buy it"], "response": "No.", "safety_label": "__needs_caution__"},
    ]
    file = tmp_path / "own.jsonl"
    splits = ["test", "test", "test", "train", "test"]
    rows = [row | {"split": split} for row, split in zip(rows, splits, strict=True)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = load_suite(str(file), sources).contexts
    assert first.axes == ("over-caution", "unsafe")
    # What some row calls fitting and another unfit is neither.
    assert (second.axes, second.fitting, second.unfit) == (("unsafe",), ("Why?",), ())
    assert third.axes == ("unsafe", "agreement")
    file.write_text(json.dumps(rows[3]) + "\n")
    with pytest.raises(UserError, match=r"own.jsonl .* has no example for -dt test; it has: train"):
        load_suite(str(file), sources)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_own_rows_are_cut_as_training_cuts_them(sources, tmp_path, caplog, split, kind):
    rows = [{"context": [f"Number {i}."], "response": "Yes."} for i in range(60)]
    rows += [
        {"context": [f"Named {name}."], "response": "Yes.", "split": name}
        for name in ("train", "valid", "test")
    ]
    file = tmp_path / "own" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = str(file if kind == "file" else file.parent)
    suite = load_suite(where, replace(sources, split=split))
    trained = own.load_rows(where, sources.datapath, split)
    assert [list(c.turns) for c in suite.contexts] == [row["context"] for row in trained]
    assert 1 < len(suite.contexts) < 20
    assert f"{len(suite.contexts) - 1} contexts are what training leaves for {split}" in caplog.text


def test_names_and_mistakes(sources):
    assert suite_names(["all"], sources)[-3:] == list(OF_FILES)
    assert suite_names(["casual", "all", "casual"], Sources("")).count("casual") == 1
    with pytest.raises(UserError, match="--suite advers: neither a file nor a suite"):
        load_suite("advers", sources)
    with pytest.raises(UserError, match="--suite casual_out: give a file of Synthetic"):
        load_suite("casual_out", Sources(sources.datapath))
