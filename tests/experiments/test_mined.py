"""Mined data in an ablation."""

import json
from pathlib import Path

from parlai_prosocial.experiments.mined import UNSAFE_ALONE, MinedData
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
