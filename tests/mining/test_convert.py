"""Data written for other trainers give the same rows when they are read again."""

import json

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.data import data
from parlai_prosocial.data import own
from parlai_prosocial.errors import UserError
from parlai_prosocial.mining.convert import convert_data

ROWS = [
    {
        "context": ["your persona: I sail.", "Hi!", "Hello.", "I lied to him."],
        "response": "Tell him.",
        "rots": ["Be honest.", "Be kind."],
        "safety_label": "__needs_caution__",
        "negatives": ["Nice.", "Well done."],
        "negative_weights": [1.0, 3.0],
        "negative_judges": ["one", "two"],
        "contrast_group": "g",
        "source": "mine",
        "split": "train",
    },
    {"context": ["Lunch?"], "response": "Sure.", "split": "valid"},
    {"context": ["Hi!", "Hello.", "Bye."], "response": "Bye!", "negatives": ["No."]},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("target", ["preference", "messages", "own"])
def test_round_trip(tmp_path, target):
    source = write(tmp_path / "own.jsonl", ROWS)
    convert_data(source, target, tmp_path / "there.jsonl")
    convert_data(str(tmp_path / "there.jsonl"), "own", tmp_path / "back.jsonl")
    back = read(tmp_path / "back.jsonl")
    if target == "preference":
        assert back == [ROWS[0], ROWS[2]]
    elif target == "messages":
        without = [{n: v for n, v in row.items() if "negative" not in n} for row in ROWS]
        assert back == without
    else:
        assert back == ROWS


def test_preference_data_have_trls_columns(tmp_path):
    out = tmp_path / "out.jsonl"
    assert convert_data(write(tmp_path / "own.jsonl", ROWS), "preference", out) == (3, 3)
    first, second, _ = read(out)
    assert [turn["role"] for turn in first["prompt"]] == ["system", "user", "assistant", "user"]
    rules = "your persona: I sail.\nrule of thumb: Be honest.\nrule of thumb: Be kind."
    assert first["prompt"][0]["content"] == rules
    assert first["chosen"] == second["chosen"] == [{"role": "assistant", "content": "Tell him."}]
    assert [row["rejected"][0]["content"] for row in (first, second)] == ["Nice.", "Well done."]
    assert (first["negative_weights"], second["negative_weights"]) == ([1.0], [3.0])


@pytest.mark.parametrize("target", ["preference", "own"])
def test_a_task_of_parlai(tmp_path, target):
    out = tmp_path / "task.jsonl"
    settings = ["prosocial-sample=true", "rot-in-context=0"]
    convert_data(
        "prosocial:Contrastive",
        target,
        out,
        split="valid",
        settings=settings,
        datapath=str(tmp_path / "data"),
    )
    rows = own.load_rows(str(out), str(tmp_path / "data"), "valid")
    assert rows and all(row["split"] == "valid" for row in rows)
    negatives = sum(len(row["negatives"] or []) for row in rows)
    assert negatives == len(rows) if target == "preference" else 0 < negatives < len(rows)
    assert any(row["rots"] for row in rows) and all(row["safety_label"] for row in rows)


def test_a_sheet_of_labels(tmp_path):
    def label(reply, first, second, context="I lied."):
        shared = {"axis": "unsafe", "context": [context], "suite": "x"}
        return {**shared, "reply": reply, "label_1": first, "label_2": second}

    sheet = [
        label("Tell him.", False, False),
        label("Nice.", True, True),
        label("Hm.", False, True),
        label("nice!", True, None),
        label("Ha.", True, True, context="Another."),
    ]
    out = tmp_path / "out.jsonl"
    convert_data(write(tmp_path / "labels.jsonl", sheet), "own", out)
    [row] = read(out)
    assert row == {
        "context": ["I lied."],
        "response": "Tell him.",
        "negatives": ["nice!"],
        "source": "labels:unsafe",
    }


def test_what_cannot_be_converted(tmp_path):
    source = write(tmp_path / "own.jsonl", ROWS[1:2])
    with pytest.raises(UserError, match="none of its 1 rows has a negative"):
        convert_data(source, "preference", tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"--out .*: give a name that ends with .jsonl"):
        convert_data(source, "own", tmp_path / "out.csv")
    with pytest.raises(UserError, match="line 1: field 'context' is missing"):
        convert_data(write(tmp_path / "bad.jsonl", [{"chosen": "a"}]), "own", tmp_path / "o.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command(tmp_path):
    source = write(tmp_path / "own.jsonl", ROWS)
    out = str(tmp_path / "out.jsonl")
    result = CliRunner().invoke(data, ["convert", source, "--to", "preference", "--out", out])
    assert result.exit_code == 0, result.exception
    assert f"{out}: 3 rows from 3" in result.output
    checked = CliRunner().invoke(data, ["check", out])
    assert "read as preference data as TRL has it (prompt, chosen, rejected)" in checked.output
    assert "rows with negatives: 3 (3 negatives)" in checked.output
