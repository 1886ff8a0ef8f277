"""``prosocial data check`` counts what is there and lists every bad row."""

import json

import pytest
from click.testing import CliRunner

from parlai_prosocial.cli.data import data
from parlai_prosocial.data import own
from parlai_prosocial.errors import UserError

GOOD = [
    {"context": ["Hi.", "Hello.", "Bye."], "response": "Bye.", "safety_label": "__casual__"},
    {
        "context": "I took it.",
        "response": "Give it back.",
        "rots": ["Don't steal."],
        "safety_label": "__needs_caution__",
        "negatives": ["Nice.", "Lucky you."],
        "split": "valid",
    },
    {"context": "Lunch?", "response": "Sure.", "split": "train"},
]


def check(path):
    return CliRunner().invoke(data, ["check", str(path)])


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_good_file(tmp_path):
    path = write(tmp_path / "own.jsonl", GOOD)
    result = check(path)
    assert result.exit_code == 0, result.exception
    for line in (
        f"{path}: 3 rows, 3 good, 0 bad",
        "turns of context: 1.7 a row",
        "rows with rules of thumb: 1",
        "rows with negatives: 1 (2 negatives)",
        "  __casual__: 1 (50%)",
        "  __needs_caution__: 1 (50%)",
        "  no label: 1",
        "splits (named in 2 rows, the others are cut by a hash):",
    ):
        assert line in result.output.splitlines()


def test_every_bad_row_is_listed(tmp_path):
    bad = [{"context": "x"}, {"context": "x", "response": "y", "safety_label": "fine"}]
    path = write(tmp_path / "own.jsonl", [GOOD[0], bad[0], GOOD[1], bad[1]])
    result = check(path)
    assert result.exit_code == 1
    assert f"{path}: 4 rows, 2 good, 2 bad" in result.output
    listed = [line for line in result.output.splitlines() if line.startswith("bad: ")]
    assert len(listed) == 2
    assert listed[0].startswith(f"bad: {path}, line 2: field 'response' is missing")
    assert listed[1].startswith(f"bad: {path}, line 4: field 'safety_label' is 'fine'")


def test_folder(tmp_path):
    write(tmp_path / "train.jsonl", GOOD[:1])
    write(tmp_path / "test.jsonl", GOOD[:1])
    result = check(tmp_path)
    assert result.exit_code == 0, result.exception
    assert "splits (named in 2 rows, the others are cut by a hash):" in result.output
    assert "  test: 1 (50%)" in result.output


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "no such file or folder"),
        ("empty.jsonl", b"", "there is no row in it"),
        ("latin1.csv", b"context,response\n\xe9,x\n", "line 2: not UTF-8"),
        ("columns.csv", b"text,response\nx,y\n", "no column 'context'"),
        ("notes.txt", b"hello", "unknown kind of file"),
    ],
)
def test_files_that_cannot_be_checked(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    result = check(path)
    assert result.exit_code == 1
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_rows_that_repeat_one_another_are_counted(tmp_path):
    result = check(write(tmp_path / "own.jsonl", [GOOD[0], GOOD[1], GOOD[0]]))
    assert "rows that repeat another one word for word: 1" in result.output


def test_what_cannot_be_trained_on_does_not_pass(tmp_path):
    path = write(tmp_path / "own.jsonl", [{"context": ["half \ud83d"], "response": "c"}])
    assert "line 1: field 'context' holds half a character" in check(path).output
    with pytest.raises(UserError, match="line 1: field 'context' holds half a character"):
        own.load_rows(str(path), str(tmp_path), "train")
    path = write(tmp_path / "own.jsonl", GOOD)
    result = CliRunner().invoke(data, ["check", str(path), "--max-file-size", "100B"])
    assert "holds more than 100 bytes" in str(result.exception)
