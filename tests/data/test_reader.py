"""Corpora are verified once, cached, and every mistake is one line."""

import json
import os
import time

import datasets
import pytest
from huggingface_hub import constants

from parlai_prosocial.data import reader
from parlai_prosocial.data.field_checks import Field, Schema, text
from parlai_prosocial.data.reader import HubTerms, checked_rows, open_corpus, rows_of
from parlai_prosocial.errors import UserError
from parlai_prosocial.util import hub

SCHEMA = Schema("Test", {"a": Field(text), "b": Field(text, required=False)})
GOOD = [{"a": "1", "b": "x"}, {"a": "2"}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "rows.jsonl", GOOD)


@pytest.fixture
def datapath(tmp_path):
    return tmp_path / "data"


def test_rows_come_back_in_order(file, datapath):
    expected = [{"a": "1", "b": "x", "split": None}, {"a": "2", "b": None, "split": None}]
    assert rows_of(open_corpus(file, SCHEMA, datapath)) == expected
    assert rows_of(open_corpus(str(file), SCHEMA, str(datapath))) == expected


def test_the_second_time_reads_no_file_and_is_fast(file, datapath, monkeypatch):
    first = open_corpus(file, SCHEMA, datapath)

    def must_not_run(path, max_file_size):
        raise AssertionError("the file was read again")

    monkeypatch.setattr(reader, "raw_rows", must_not_run)
    start = time.perf_counter()
    second = open_corpus(file, SCHEMA, datapath)
    assert time.perf_counter() - start < 0.5  # about 5 ms on an idle core
    assert rows_of(second) == rows_of(first)


def test_a_changed_file_is_read_again(file, datapath):
    open_corpus(file, SCHEMA, datapath)
    write(file, [{"a": "3"}, {"a": "4"}])
    os.utime(file, ns=(1, 1))
    assert [row["a"] for row in rows_of(open_corpus(file, SCHEMA, datapath))] == ["3", "4"]


def test_nothing_half_written_is_left_when_saving_fails(file, datapath, monkeypatch):
    def fail(data, folder):
        (folder / "half").write_text("")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(reader, "_save_quietly", fail)
        with pytest.raises(OSError, match="disk full"):
            open_corpus(file, SCHEMA, datapath)
    assert list((datapath / "parlai_prosocial").iterdir()) == []
    assert len(open_corpus(file, SCHEMA, datapath)) == 2


def test_a_bad_row_stops_with_file_line_field_and_mend(file, datapath):
    write(file, [*GOOD, {"b": "x"}])
    with pytest.raises(UserError) as error:
        open_corpus(file, SCHEMA, datapath)
    assert str(error.value) == (
        f"{file}, line 3: field 'a' is missing; fill it in or leave the row out "
        "(or give --skip-bad-rows true)"
    )


def test_bad_rows_are_skipped_and_counted_every_time(file, datapath, caplog):
    write(file, [{"b": "x"}, *GOOD, {"a": 5}])
    for _ in range(2):
        caplog.clear()
        assert len(open_corpus(file, SCHEMA, datapath, skip_bad_rows=True)) == 2
        assert "skipped 2 bad rows of 4" in caplog.text
        assert "line 1: field 'a'" in caplog.text
    with pytest.raises(UserError, match="line 1"):
        open_corpus(file, SCHEMA, datapath)


def test_no_good_row(file, datapath):
    write(file, [{"a": 5}])
    with pytest.raises(UserError, match="no usable row"):
        open_corpus(file, SCHEMA, datapath, skip_bad_rows=True)


def test_a_missing_csv_column_is_named_once(tmp_path, datapath):
    path = tmp_path / "rows.csv"
    path.write_text("b,c\n1,2\n3,4\n")
    with pytest.raises(UserError) as error:
        open_corpus(path, SCHEMA, datapath, skip_bad_rows=True)
    assert str(error.value) == f"{path}: no column 'a'; Test needs a, the file has b, c"


@pytest.mark.parametrize("source", ["missing.jsonl", "some/missing/folder"])
def test_missing_file(tmp_path, datapath, source):
    with pytest.raises(UserError, match="no such file or folder"):
        open_corpus(tmp_path / source, SCHEMA, datapath)


def test_folder_without_data(tmp_path, datapath):
    (tmp_path / "README.md").write_text("")
    with pytest.raises(UserError, match="no data file in this folder"):
        open_corpus(tmp_path, SCHEMA, datapath)


def test_unwritable_datapath(file, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="--datapath"):
        open_corpus(file, SCHEMA, tmp_path / "taken")


def test_splits_of_a_folder_come_from_the_names(tmp_path, datapath):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("train.jsonl", "validation-0.jsonl", "dev_2.jsonl", "test.jsonl", "more.jsonl"):
        write(folder / name, [{"a": name}])
    write(folder / "train.own.jsonl", [{"a": "own", "split": "test"}])
    splits = {row["a"]: row["split"] for row in rows_of(open_corpus(folder, SCHEMA, datapath))}
    assert splits == {
        "train.jsonl": "train",
        "validation-0.jsonl": "valid",
        "dev_2.jsonl": "valid",
        "test.jsonl": "test",
        "more.jsonl": None,
        "own": "test",
    }


def test_a_single_file_gets_no_split_from_its_name(tmp_path, datapath):
    path = write(tmp_path / "train.jsonl", GOOD)
    assert {row["split"] for row in rows_of(open_corpus(path, SCHEMA, datapath))} == {None}


@pytest.mark.parametrize(("split", "shown"), [("training", "training"), (["train"], "['train']")])
def test_unknown_split(file, split, shown):
    write(file, [{"a": "1", "split": split}])
    [(place, bad)] = checked_rows(file, SCHEMA)
    assert place == f"{file}, line 1"
    assert str(bad) == f"field 'split' is {shown!r}; use train, valid or test"


def test_offline_without_a_copy(datapath):
    terms = HubTerms("CC BY 4.0", "put it somewhere")
    assert constants.HF_HUB_OFFLINE, "tests run offline"
    with pytest.raises(UserError) as error:
        open_corpus("nobody/nothing", SCHEMA, datapath, terms=terms)
    for part in ("huggingface.co/datasets/nobody/nothing", "CC BY 4.0", "put it somewhere"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unreachable_hub(datapath, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "answers", lambda url: False)
    with pytest.raises(UserError, match="cannot be reached"):
        open_corpus("nobody/nothing", SCHEMA, datapath)


def hub_with(monkeypatch, **splits):
    content = {name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(content))


def test_a_corpus_of_the_hub_is_verified_and_kept(datapath, monkeypatch):
    terms = HubTerms("CC0", "", rows={"train": 2, "validation": 1})
    hub_with(monkeypatch, train=GOOD, validation=[{"a": "3"}])
    rows = rows_of(open_corpus("some/corpus", SCHEMA, datapath, terms=terms))
    assert [(row["a"], row["split"]) for row in rows] == [
        ("1", "train"),
        ("2", "train"),
        ("3", "valid"),
    ]
    monkeypatch.undo()  # the hub is gone, the copy is not
    assert rows_of(open_corpus("some/corpus", SCHEMA, datapath, terms=terms)) == rows


def test_a_broken_download_is_refused(datapath, monkeypatch):
    hub_with(monkeypatch, train=GOOD)
    with pytest.raises(UserError, match=r"gave \{'train': 2\} rows instead of \{'train': 3\}"):
        open_corpus("some/corpus", SCHEMA, datapath, terms=HubTerms("CC0", "", rows={"train": 3}))


def test_a_bad_row_of_the_hub_is_named(datapath, monkeypatch):
    hub_with(monkeypatch, train=[{"a": "1"}, {"a": " "}])
    with pytest.raises(UserError, match="some/corpus, train, row 2: field 'a' is empty"):
        open_corpus("some/corpus", SCHEMA, datapath)


def test_files_that_hold_the_same_rows_are_named(tmp_path, datapath):
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder / "train.jsonl", GOOD)
    datasets.Dataset.from_list([{"b": None, **row} for row in GOOD[::-1]]).to_parquet(
        folder / "train-00000.parquet"
    )
    with pytest.raises(UserError, match=r"train.jsonl: holds the same rows as train-00000.parquet"):
        open_corpus(folder, SCHEMA, datapath)
    write(folder / "train.jsonl", [{"a": "another"}])
    assert len(open_corpus(folder, SCHEMA, datapath)) == 3


def test_many_rows_of_changing_shape(tmp_path, datapath, monkeypatch):
    monkeypatch.setattr(reader, "_ROWS_AT_ONCE", 2)
    rows = [{"a": str(n), "b": "x" if n > 4 else None} for n in range(9)]
    found = rows_of(open_corpus(write(tmp_path / "x.jsonl", rows), SCHEMA, datapath))
    assert [(row["a"], row["b"]) for row in found] == [(row["a"], row["b"]) for row in rows]


def test_a_script_on_the_hub_is_refused_in_a_line(datapath, monkeypatch):
    def refuse(name):
        raise RuntimeError("Dataset scripts are no longer supported, but found x.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"not fetched \(Dataset scripts.*; download it"):
        open_corpus("some/corpus", SCHEMA, datapath, terms=HubTerms("CC0", "download it"))


def test_a_limit_of_size_is_passed_on(file, datapath):
    with pytest.raises(UserError, match="--max-file-size"):
        open_corpus(file, SCHEMA, datapath, max_file_size=10)
