"""Every file format gives the same rows, and knows their lines."""

import csv
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from parlai_prosocial.data.fields import BadRow
from parlai_prosocial.data.formats import raw_rows
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


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json"])
def test_empty_files_have_no_rows(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert list(raw_rows(tmp_path / name)) == []
