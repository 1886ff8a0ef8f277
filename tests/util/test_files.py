"""What is written is whole or was never there; what is read is checked; a full disk is one line."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NotRequired

import pytest
import torch
from pydantic import Field
from safetensors.torch import save_file
from typing_extensions import TypedDict

from parlai_prosocial.errors import UserError
from parlai_prosocial.export.hugging_face import written_aside
from parlai_prosocial.util import files
from parlai_prosocial.util.files import read_json, text_lines, write_aside, writing
from parlai_prosocial.util.journal import Journal, write_output
from parlai_prosocial.zoo.entry import find_entry
from parlai_prosocial.zoo.install import install


@contextmanager
def files_no_longer_than(size):
    """A disk that takes so many bytes of each file: EFBIG, of one kind with ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def one_line(caught, *words):
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a" / "x.json"
    write_aside(file, "before")
    with files_no_longer_than(10), pytest.raises(UserError) as caught:
        write_aside(file, "after " * 1000)
    one_line(caught, f"{file}: cannot be written (File too large", "MB are free", "still there")
    assert file.read_text() == "before" and [f.name for f in file.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_what_the_disk_said_is_told(tmp_path, monkeypatch, code):
    def refuses(*_):
        raise OSError(code, "x")

    monkeypatch.setattr(os, "replace", refuses)
    with pytest.raises(UserError) as caught:
        write_aside(tmp_path / "x", "text")
    one_line(caught, str(tmp_path / "x"), os.strerror(code))
    assert not list(tmp_path.iterdir())


def test_libraries_with_words_of_their_own(tmp_path):
    tensors = {"w": torch.zeros(10_000)}
    for number, write in enumerate((save_file, torch.save)):
        file = tmp_path / f"{number}.part"
        with (
            files_no_longer_than(5_000),
            pytest.raises(UserError) as caught,
            writing(tmp_path / "weights", file),
        ):
            if write is save_file:
                save_file(tensors, file)
            else:
                with open(file, "wb") as stream:
                    torch.save(tensors, stream)
        one_line(caught, "weights: cannot be written (File too large")
        assert not file.exists()


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (ValueError("x"), FileNotFoundError(errno.ENOENT, "x"), UserError("x")):
        (tmp_path / "part").mkdir()
        with pytest.raises(type(error)), writing(tmp_path / "x", tmp_path / "part"):
            raise error
        assert not (tmp_path / "part").exists()


def test_a_journal_keeps_what_was_finished(tmp_path):
    out = tmp_path / "out.jsonl"
    journal = Journal(out, {"a": 1})
    journal.add(0, "x")
    with files_no_longer_than(100), pytest.raises(UserError) as caught:
        journal.add(1, "y" * 1000)
    one_line(caught, "out.jsonl.journal: cannot be written")
    again = Journal(out, {"a": 1})
    assert again.chunks == {0: "x"}
    again.add(1, "y")
    assert Journal(out, {"a": 1}).chunks == {0: "x", 1: "y"}
    with files_no_longer_than(100), pytest.raises(UserError) as caught:
        write_output(out, [{"row": "z" * 1000}], {"settings": {"a": 1}})
    one_line(caught, "out.jsonl: cannot be written")
    assert not out.exists() and not list(tmp_path.glob("*.part"))
    assert Journal(out, {"a": 1}).chunks == {0: "x", 1: "y"}


def test_an_export_leaves_nothing(tmp_path):
    with (
        files_no_longer_than(10),
        pytest.raises(UserError) as caught,
        written_aside(tmp_path / "out") as aside,
    ):
        (aside / "README.md").write_text("x" * 100)
    one_line(caught, "out: cannot be written")
    assert not list(tmp_path.iterdir())


def test_an_installation_from_the_zoo_leaves_nothing(tmp_path):
    entry = find_entry("smollm2_135m_step1")
    with files_no_longer_than(20_000), pytest.raises(UserError) as caught:
        install(entry, tmp_path, print)
    place = tmp_path / "models" / "prosocial"
    one_line(caught, f"{place / entry.name}: cannot be written")
    assert not [f for f in place.iterdir() if f.suffix not in (".lock", ".writer")]


def test_a_full_disk_that_nobody_named_is_one_line_too():
    """As where ParlAI writes by itself."""
    code = (
        "import errno; from parlai_prosocial.errors import show_user_errors_as_one_line\n"
        "show_user_errors_as_one_line()\n"
        "raise OSError(errno.ENOSPC, 'x', 'model.trainstats')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: model.trainstats: No space left on device; make room")


class Part(TypedDict):
    name: str
    size: Annotated[int, Field(ge=0)]


class Whole(TypedDict):
    parts: list[Part]
    note: NotRequired[str | None]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"parts": [{"name": "a", "size": 1}, {"name": "b"}]}, "parts[1].size: Field required"),
        ({"parts": [{"name": 1, "size": 1}]}, "parts[0].name: Input should be a valid string"),
        ({"parts": [{"name": "a", "size": "1"}]}, "parts[0].size: Input should be a valid integer"),
        ({"parts": [{"name": "a", "size": -1}]}, "parts[0].size: Input should be greater"),
        ({"parts": {}}, "parts: Input should be a valid"),
        ([], "Input should be an object"),
        ({"parts": [], "note": 1}, "note: Input should be a valid string"),
    ],
)
def test_json_of_another_shape_is_told_by_file_and_field(tmp_path, content, told):
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "x.json", Whole, "mend it")
    one_line(caught, f"x.json: {told}", "; mend it")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5_000, b'"\\ud800"', b"{}x", b"\0"]
)
def test_what_is_no_json_is_told(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "x.json")
    one_line(caught, "x.json: ", "; restore the file")


def test_what_cannot_be_read_is_told(tmp_path):
    for file in (tmp_path, tmp_path / "nothing.json"):
        with pytest.raises(UserError) as caught:
            read_json(file)
        one_line(caught, f"{file}: cannot be read (")


def test_numbers_that_json_has_not_are_read_as_written(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"ppl": float("inf"), "big": 10**30}))
    assert read_json(tmp_path / "x.json") == {"ppl": float("inf"), "big": 10**30}


def test_only_line_feeds_part_the_lines_of_a_file(tmp_path):
    rows = ["a\u2028b", "c\x85d\x0b", ' {"e": 1}']
    (tmp_path / "x").write_bytes(("\n".join(rows) + "\r\n\n").encode())
    assert text_lines(tmp_path / "x") == rows
    (tmp_path / "x").write_bytes(b"ab\xff")
    with pytest.raises(UserError) as caught:
        text_lines(tmp_path / "x", "mend it")
    one_line(caught, "x: is not UTF-8 at byte 2", "; mend it")


def test_no_file_of_texts_is_parted_at_their_own_separators():
    package = Path(files.__file__).parents[1]
    parted = re.compile(r"(read_text\(.*\)|\btext|\braw)\.splitlines\(")
    found = [str(f) for f in package.rglob("*.py") if parted.search(f.read_text("utf-8"))]
    assert found == [str(package / "data" / "normalise.py")]  # one_line, whose purpose it is
