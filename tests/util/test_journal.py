"""What is on disk after a kill at any byte is used, and nothing else is."""

import json

import pytest

from parlai_prosocial.errors import UserError
from parlai_prosocial.models import precision as precision_module
from parlai_prosocial.util.journal import (
    Journal,
    begun_with,
    finished_before,
    journal_path,
    recorded,
    summary_path,
    write_output,
)

SETTINGS = {"model": "m", "seed": 0, "judges": ("a", "b")}


def test_chunks_are_there_again(tmp_path):
    out = tmp_path / "deep" / "out.jsonl"
    journal = Journal(out, SETTINGS)
    journal.add(0, ["é\n"])
    journal.add(2, {"p": 0.1})
    again = Journal(out, SETTINGS)
    assert again.chunks == journal.chunks == {0: ["é\n"], 2: {"p": 0.1}}
    assert begun_with(out, "seed") == 0
    again.remove()
    assert Journal(out, SETTINGS).chunks == {}


def test_a_kill_at_any_byte(tmp_path):
    out = tmp_path / "out.jsonl"
    journal = Journal(out, SETTINGS)
    journal.add(0, "first")
    journal.add(1, "sécond")
    whole = journal_path(out).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        journal_path(out).write_bytes(whole[:cut])
        again = Journal(out, SETTINGS)
        assert len(again.chunks) == max(0, sum(end <= cut for end in ends) - 1)
        for number, content in enumerate(["first", "sécond"]):
            again.add(number, content)
        assert Journal(out, SETTINGS).chunks == {0: "first", 1: "sécond"}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_run_that_goes_on_computes_as_it_began(precision, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    for faster in (True, False):
        monkeypatch.setattr(
            precision_module, "bf16_is_faster", lambda device, faster=faster: faster
        )
        assert precision_module.computes_in_bf16(out) == faster
    Journal(out, SETTINGS | {"precision": precision})
    assert precision_module.computes_in_bf16(out) == (precision == "bf16")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_folder_that_goes_on_computes_as_it_began(precision, tmp_path, monkeypatch):
    for faster in (True, False):
        monkeypatch.setattr(
            precision_module, "bf16_is_faster", lambda device, faster=faster: faster
        )
        assert precision_module.computes_in_bf16(tmp_path) == faster
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS | {"precision": precision}))
    assert begun_with(tmp_path, "seed") == SETTINGS["seed"]
    assert precision_module.computes_in_bf16(tmp_path) == (precision == "bf16")


def test_other_settings_are_named(tmp_path):
    out = tmp_path / "out.jsonl"
    Journal(out, SETTINGS)
    with pytest.raises(UserError, match=r"other settings \(more, seed\)"):
        Journal(out, SETTINGS | {"seed": 1, "more": 2})


def test_the_output_says_whether_the_run_is_finished(tmp_path):
    out = tmp_path / "out.jsonl"
    assert begun_with(out, "seed") is None
    assert not finished_before(out, SETTINGS)
    write_output(out, [{"a": "é"}, {"a": 1}], {"settings": SETTINGS})
    assert out.read_text(encoding="utf-8") == '{"a": "é"}\n{"a": 1}\n'
    assert summary_path(out) == tmp_path / "out.summary.json"
    assert json.loads(summary_path(out).read_text())["settings"]["model"] == "m"
    assert finished_before(out, SETTINGS)
    assert begun_with(out, "seed") == SETTINGS["seed"]  # the journal is gone by then
    with pytest.raises(UserError, match="is there already"):
        finished_before(out, SETTINGS | {"seed": 1})
    summary_path(out).unlink()
    with pytest.raises(UserError, match="is there already"):
        finished_before(out, SETTINGS)


DAMAGED = [
    b'{"chunk": 1, "content": "\xff"}',
    b"\0\0\0",
    b'{"content": 2}',
    b'{"chunk": [1], "content": 2}',
    b"[" * 100_000,
    b"1" * 10_000,
    b"",
]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_costs_its_chunk_alone(tmp_path, line, caplog):
    out = tmp_path / "out.jsonl"
    journal = Journal(out, SETTINGS)
    journal.add(0, "first")
    journal.add(2, "third")
    lines = journal_path(out).read_bytes().split(b"\n")
    journal_path(out).write_bytes(b"\n".join([*lines[:2], line, *lines[2:]]))
    again = Journal(out, SETTINGS)
    assert again.chunks == {0: "first", 2: "third"}
    assert "1 damaged lines" in caplog.text
    again.add(1, "second")
    assert Journal(out, SETTINGS).chunks == {0: "first", 1: "second", 2: "third"}
    journal_path(out).write_bytes(b"\n".join([line, *lines[1:]]))
    assert begun_with(out, "model") is None
    with pytest.raises(UserError, match=r"first line is damaged|other settings"):
        Journal(out, SETTINGS)


def test_content_that_the_run_never_writes_is_done_again(tmp_path):
    out = tmp_path / "out.jsonl"
    Journal(out, SETTINGS).add_all({0: "first", 1: 7})
    assert Journal(out, SETTINGS, lambda _, x: isinstance(x, str)).chunks == {0: "first"}


@pytest.mark.parametrize("text", [b'{"settings": {"a"', b"[]", b"\xff", b"{}", b"[" * 100_000])
def test_a_damaged_summary_is_named(tmp_path, text):
    out = tmp_path / "out.jsonl"
    write_output(out, [{}], {"settings": SETTINGS})
    summary_path(out).write_bytes(text)
    assert begun_with(out, "model") is None
    with pytest.raises(UserError, match=r"out.summary.json: is damaged"):
        finished_before(out, SETTINGS)


def test_a_record_belongs_to_its_settings(tmp_path):
    file = tmp_path / "finished.json"
    assert recorded(file, "the command", "command") is None
    file.write_text(json.dumps({"command": "the command", "steps": 3}))
    assert recorded(file, "the command", "command") == {"command": "the command", "steps": 3}
    with pytest.raises(UserError, match="with other settings; give another --out"):
        recorded(file, "another", "command")
