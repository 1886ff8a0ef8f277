"""Every file format gives the same rows, and knows their lines."""

import csv
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from parlai_prosocial.data import formats
from parlai_prosocial.data.field_checks import BadRow
from parlai_prosocial.data.formats import file_size, raw_rows
from parlai_prosocial.errors import UserError

ROWS = [{"a": "one", "b": "with\nbreak"}, {"a": "zwei, \u00fc", "b": '"quoted"'}]


def write_csv(path):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_jsonl(path):
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n", encoding="utf-8")


def write_json(path):
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")


def write_parquet(path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize(
    ("name", "write", "lines"),
    [
        ("x.csv", write_csv, [2, 4]),
        ("x.jsonl", write_jsonl, [1, 2]),
        ("x.json", write_json, [2, 6]),
        ("x.JSONL", write_jsonl, [1, 2]),
        ("x.parquet", write_parquet, [1, 2]),
    ],
)
def test_rows_and_lines(tmp_path, name, write, lines):
    write(tmp_path / name)
    assert list(raw_rows(tmp_path / name)) == list(zip(lines, ROWS, strict=True))


@pytest.mark.parametrize(("suffix", "write"), [("csv", write_csv), ("jsonl", write_jsonl)])
def test_gzip_and_byte_order_mark(tmp_path, suffix, write):
    plain = tmp_path / f"plain.{suffix}"
    write(plain)
    packed = tmp_path / f"packed.{suffix}.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    assert list(raw_rows(packed)) == list(raw_rows(plain))


def test_json_lines_named_json(tmp_path):
    write_jsonl(tmp_path / "x.json")
    assert list(raw_rows(tmp_path / "x.json")) == [(1, ROWS[0]), (2, ROWS[1])]


def test_bad_json_lines_do_not_hide_the_next_ones(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": "1"}\n{"a": \n\xff\xfe\n[1]\n{"a": "2"}\n')
    rows = list(raw_rows(path))
    assert [line for line, _ in rows] == [1, 2, 3, 4, 5]
    assert [isinstance(row, BadRow) for _, row in rows] == [False, True, True, True, False]
    assert [str(row).split(";")[0].split(" (")[0] for _, row in rows[1:4]] == [
        "the row is no JSON",
        "the row is not UTF-8",
        "the row is no JSON object",
    ]


def test_csv_with_a_stray_comma(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n1,2,3\n4\n", encoding="utf-8")
    rows = list(raw_rows(path))
    assert rows[0] == (2, {"a": "1", "b": "2"})
    assert rows[1][0] == 3
    assert "quote the commas" in str(rows[1][1])
    assert rows[2] == (4, {"a": "4", "b": None})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"a\n1\n\xff\n", "x.csv, line 3: not UTF-8"),
        ("x.json", b'[\n{"a": "\xff"}]', "x.json, line 2: not UTF-8"),
        ("x.json", b'[\n{"a": 1},\n{"a" 2}]', "x.json, line 3: no JSON"),
        ("x.jsonl.gz", b"not packed", "x.jsonl.gz: cannot be read"),
        (
            "x.jsonl.gz",
            gzip.compress(b'{"a": 1}' * 99, 9, mtime=0)[:-12],
            "x.jsonl.gz: cannot be read",
        ),
        ("x.parquet", b"not parquet", "x.parquet: no Parquet file"),
        ("x.txt", b"", "x.txt: unknown kind of file"),
    ],
)
def test_files_that_cannot_be_read_on(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(raw_rows(tmp_path / name))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("value", "reason"),
    [(DEEP, "nests lists or objects too deeply"), (b"9" * 5000, "more than 4,300 digits")],
)
def test_json_beyond_what_python_takes(tmp_path, value, reason):
    lines = tmp_path / "x.jsonl"
    lines.write_bytes(b'{"a": ' + value + b'}\n{"a": 1}\n')
    (first, bad), second = raw_rows(lines)
    assert (first, second) == (1, (2, {"a": 1}))
    assert reason in str(bad)
    document = tmp_path / "x.json"
    document.write_bytes(b'[{"a": 1},\n{"a": ' + value + b"}]")
    with pytest.raises(UserError, match=f"x.json, line 2: .*{reason}"):
        list(raw_rows(document))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}]\n[{"a": 2}]', "line 2: more after the end of the list"),
        ('[{"a": 1}] x', "line 1: more after the end"),
        ('[{"a": 1}]{"a": 2}', "line 1: more after the end"),
        ('[]\n\n[{"a": 2}]', "line 3: more after the end"),
        ('[{"a": 1},\n{"a": 2}\n', "line 3: the list has no end"),
        ('[{"a": 1},', "line 1: the list has no end"),
        ("[", "line 1: the list has no end"),
        ('[{"a": 1} {"a": 2}]', "line 1: no JSON (no comma between rows)"),
        ('[{"a": 1},]', "line 1: no JSON (a comma before the end)"),
        ('[,{"a": 1}]', "line 1: no JSON"),
        ('{"a": 1},{"a": 2}', "line 1: no JSON"),
        ('{"a": 1}\n{"a": ', "line 2: no JSON"),
    ],
)
def test_json_documents_are_whole(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError) as error:
        list(raw_rows(tmp_path / "x.json"))
    assert message in str(error.value)


@pytest.mark.parametrize("content", ["[]", " [ ] \n", '\n[{"a": 1}\n,{"a": 2} ]\n', "{}{}"])
def test_json_documents_with_blanks(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    assert len(list(raw_rows(tmp_path / "x.json"))) == content.count("{")


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz", "x.csv.gz"])
def test_archives_that_unpack_beyond_measure(tmp_path, name, monkeypatch):
    monkeypatch.setattr(formats, "_RATIO_FROM", 1_000_000)
    path = tmp_path / name
    path.write_bytes(gzip.compress(b'{"a": "' + b"a" * 2_000_000 + b'"}'))
    with pytest.raises(UserError, match=r"bytes unpack to more than 1,000,000, which no text does"):
        list(raw_rows(path))


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_json, write_parquet])
def test_a_limit_of_size(tmp_path, write):
    path = tmp_path / f"x.{write.__name__.removeprefix('write_')}"
    write(path)
    assert len(list(raw_rows(path, 100_000))) == 2
    with pytest.raises(UserError, match=r"holds more than 30 bytes.*--max-file-size"):
        list(raw_rows(path, 30))


def test_parquet_that_repeats_one_large_value(tmp_path):
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": ["a" * 100_000] * 3000}), path)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(UserError, match="holds more than 10,000,000 bytes"):
        list(raw_rows(path, 10_000_000))


def test_parquet_with_a_value_that_is_no_text(tmp_path):
    offsets, characters = b"\x00\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00", b"a\xffb"
    broken = pyarrow.StringArray.from_buffers(
        2, pyarrow.py_buffer(offsets), pyarrow.py_buffer(characters)
    )
    pyarrow.parquet.write_table(
        pyarrow.table({"b": ["x", "y"], "a": broken}), tmp_path / "x.parquet"
    )
    (_, bad), good = raw_rows(tmp_path / "x.parquet")
    assert str(bad) == "field 'a' is not UTF-8; write it as UTF-8"
    assert good == (2, {"b": "y", "a": "b"})


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_two_columns_of_one_name(tmp_path, name):
    path = tmp_path / f"x.{name}"
    if name == "csv":
        path.write_text("a,b,a\n1,2,3\n")
    else:
        columns = [pyarrow.array(["1"]), pyarrow.array(["2"])]
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, ["a", "a"]), path)
    with pytest.raises(UserError, match="two columns are named 'a'"):
        list(raw_rows(path))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_feeds_end_a_row(tmp_path, separator):
    text = f"one{separator}two"
    (tmp_path / "x.jsonl").write_text(
        json.dumps({"a": text}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (tmp_path / "x.csv").write_text(f"a\r\n{text}\r\n", encoding="utf-8")
    assert list(raw_rows(tmp_path / "x.jsonl")) == [(1, {"a": text})]
    assert list(raw_rows(tmp_path / "x.csv")) == [(2, {"a": text})]


@pytest.mark.parametrize("written", ["", "0", "-1", "2X", "lots", "1.2.3", "9" * 30])
def test_sizes_that_are_none(written):
    with pytest.raises(UserError, match="--max-file-size"):
        file_size(written)


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json"])
def test_empty_files_have_no_rows(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert list(raw_rows(tmp_path / name)) == []
