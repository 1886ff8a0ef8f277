"""Mined data in an ablation."""

import json
from pathlib import Path

import pytest

from parlai_prosocial.data import own
from parlai_prosocial.errors import UsageError, UserError
from parlai_prosocial.experiments.machine import Machine
from parlai_prosocial.experiments.mined import UNSAFE_ALONE, MinedData, Scoring
from parlai_prosocial.judges.rules import PreachyRules
from parlai_prosocial.util.files import text_lines


def test_separators_within_a_text_part_no_rows(tmp_path):
    """U+2028 and U+0085 end no line of JSON, though ``str.splitlines`` says so."""
    row = {
        "context": ["a\u2028b\x85c"],
        "response": "d\u2029e",
        "negatives": ["unsafe", "preachy"],
        "negative_weights": [1.0, 0.5],
        "negative_judges": ["judge", PreachyRules().name],
        "negative_sources": ["model", "model"],
        "split": "train",
    }
    file = tmp_path / "mined.jsonl"
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    mined = MinedData(file, str(tmp_path / "data"), tmp_path)
    [setting] = mined.fill([f"prosocial-data={UNSAFE_ALONE}"])
    [line] = text_lines(Path(setting.partition("=")[2]))
    assert json.loads(line)["context"] == row["context"]
    assert json.loads(line)["negatives"] == ["unsafe"]


def test_judges_are_opened_with_their_options(monkeypatch):
    asked = []

    def opened(spec, datapath, bf16, **options):
        asked.append((spec, options))
        return PreachyRules()

    monkeypatch.setattr("parlai_prosocial.judges.registry.open_judge", opened)
    machine = Machine("data", Path("base"), None, False)
    Scoring("hf:folder", machine, None, False, "toxic", True).open("hf:folder")
    Scoring("hf:folder", machine, None, False).open("hf:folder")
    assert asked == [
        ("hf:folder", {"unsafe_label": "toxic", "reply_only": True}),
        ("hf:folder", {}),
    ]
    with pytest.raises(UsageError, match="--reply-only: needs a judge hf:"):
        Scoring("words", machine, None, False, reply_only=True)


PAIR = {
    "context": ["Hi."],
    "response": "Hello.",
    "reference_log_prob": -1.0,
    "negatives": ["unsafe", "preachy"],
    "negative_weights": [1.0, 0.5],
    "negative_judges": ["judge", PreachyRules().name],
    "negative_sources": ["sampled", "sampled"],
    "negative_reference_log_probs": [-2.0, -3.0],
    "split": "train",
}


def mined_file(folder, *rows):
    file = folder / "mined.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_all_that_is_said_of_a_preachy_negative_goes_with_it(tmp_path):
    """Pairs of ``mine --own-responses`` have the negatives' log p too."""
    mined = MinedData(mined_file(tmp_path, PAIR), str(tmp_path), tmp_path)
    [setting] = mined.fill([f"prosocial-data={UNSAFE_ALONE}"])
    [row] = own.load_rows(setting.partition("=")[2], str(tmp_path), "train")
    assert row["negatives"] == ["unsafe"]
    assert row["negative_reference_log_probs"] == [-2.0] and row["reference_log_prob"] == -1.0


def test_a_row_that_does_not_say_who_judged_is_named(tmp_path):
    without = {key: value for key, value in PAIR.items() if key != "negative_judges"}
    mined = MinedData(mined_file(tmp_path, PAIR, without), str(tmp_path), tmp_path)
    with pytest.raises(UserError, match=r"mined.jsonl: line 2: negative_judges is missing"):
        mined.fill([f"prosocial-data={UNSAFE_ALONE}"])
