"""Corpora from a file, a folder or the Hugging Face hub: verified once, then opened as Arrow.

A corpus is read row by row against a :class:`~parlai_prosocial.data.field_checks.Schema`, so that
a bad row is named by file, line and field. The verified rows are saved through ``datasets`` under
``<datapath>/parlai_prosocial/``, and memory-mapped from there the next time. A file that has
changed (size or time of change) is read again.

``datasets`` is imported only when a corpus is opened: it takes a second, and ``parlai --help``
needs none of it.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from parlai_prosocial.data.field_checks import BadRow, Schema
from parlai_prosocial.data.formats import MAX_FILE_SIZE, SUFFIXES, raw_rows
from parlai_prosocial.errors import EmptySplit, UserError
from parlai_prosocial.util import hub
from parlai_prosocial.util.files import writing

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

_CACHE_FORMAT = 3
_SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SHOWN_BAD_ROWS = 3
_ROWS_AT_ONCE = 2000

PlacedRows = Iterator[tuple[str, dict | BadRow]]
"""Rows with where they stand; checked, or the reason why they are bad."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubTerms:
    """What is known about a corpus on the Hugging Face hub before it is fetched.

    Attributes:
        licence: shown when it is fetched, and when it cannot be.
        mend: what the user can do where the hub cannot be reached.
        rows: how many rows each split must have; another count means a broken download.
    """

    licence: str
    mend: str
    rows: Mapping[str, int] | None = None


def bundled(name: str) -> Path:
    """Return the path of a data file that ships with this package."""
    return Path(__file__).parent / "bundled" / name


def open_corpus(
    source: str | Path,
    schema: Schema,
    datapath: str | Path,
    skip_bad_rows: bool = False,
    terms: HubTerms | None = None,
    max_file_size: int = MAX_FILE_SIZE,
) -> "Dataset":
    """Open a corpus, verified and cached, as one data set.

    Args:
        source: a CSV, JSON, JSON Lines or Parquet file, a folder of such files, or else the
            name of a data set on the Hugging Face hub (``owner/name``).
        schema: the columns.
        datapath: ParlAI's data path; the verified copy is kept there.
        skip_bad_rows: leave bad rows out, and log how many, instead of stopping.
        terms: what is known about the data set on the hub.
        max_file_size: how many bytes each file may hold, unpacked.

    Returns:
        All good rows in order, with the schema's columns and ``split`` (``train``, ``valid``,
        ``test`` or None): the column of that name, else what a file's name in a folder begins
        with, else the hub's split.

    Raises:
        UserError: nothing is there, a file or row is bad, two files hold the same rows, no good
            row is left, or the hub cannot be reached.
    """
    path = Path(source).expanduser()
    read: Callable[[], PlacedRows]
    if _is_hub_name(str(source)) and not path.exists():
        terms = terms or HubTerms("see its page", f"there is no file or folder {path} either")
        read = partial(_hub_rows, str(source), schema, terms)
        key: list = [str(source)]
    else:
        read = partial(checked_rows, path, schema, max_file_size)
        stats = [(file, file.stat()) for file in data_files(path)]
        key = [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]
    return _cached(
        lambda: _good_rows(read(), schema, skip_bad_rows),
        key=[key, skip_bad_rows],
        schema=schema,
        datapath=Path(datapath),
    )


def data_files(source: str | Path) -> list[Path]:
    """Return the data files of a file or folder, by name; raises UserError if there is none."""
    path = Path(source).expanduser().absolute()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; check the path")
    found = sorted(file for file in path.iterdir() if file.name.lower().endswith(SUFFIXES))
    if not found:
        raise UserError(f"{path}: no data file in this folder; put {', '.join(SUFFIXES)} there")
    return found


def checked_rows(
    source: str | Path, schema: Schema, max_file_size: int = MAX_FILE_SIZE
) -> PlacedRows:
    """Yield the rows of a file or folder, each with its file and line: checked, or why it is bad.

    Raises:
        UserError: a file cannot be read, lacks a required column altogether, or holds nothing but
            rows of another file of its folder.
    """
    in_folder = Path(source).expanduser().is_dir()
    files = data_files(source)
    seen: dict[Path, set[int]] = {}
    for file in files:
        first_word = re.split(r"[._-]", file.name.lower())[0]
        split = first_word if in_folder and first_word in _SPLIT_NAMES else None
        own: set[int] = set()
        for line, row in _rows_of_file(file, schema, split, max_file_size):
            if len(files) > 1 and isinstance(row, dict):
                own.add(hash(repr(row)))
            yield f"{file}, line {line}", row
        if twin := next((other for other, rows in seen.items() if _contained(own, rows)), None):
            raise UserError(
                f"{file}: holds the same rows as {twin.name} beside it; take one of the two away"
            )
        seen[file] = own


def rows_of(data: "Dataset", split: str | None = None) -> list[dict]:
    """Return the rows of a split (all, if None) as dicts."""
    rows = data.to_list()
    return rows if split is None else [row for row in rows if row["split"] == split]


def empty_split(corpus: str, split: str, have: Iterable[str | None]) -> EmptySplit:
    """Return the error for a split that has no example."""
    names = sorted({name or "none" for name in have})
    return EmptySplit(f"{corpus} has no example for -dt {split}; it has: {', '.join(names)}")


def _contained(one: set[int], other: set[int]) -> bool:
    return bool(one and other) and (one <= other or other <= one)


def _rows_of_file(
    file: Path, schema: Schema, split: str | None, max_file_size: int
) -> Iterator[tuple[int, dict | BadRow]]:
    for index, (line, raw) in enumerate(raw_rows(file, max_file_size)):
        for row in _adapted(raw, schema):
            if index == 0 and not isinstance(row, BadRow):
                _check_columns(file, row, schema)
            yield line, row if isinstance(row, BadRow) else _checked(row, schema, split)


def _adapted(raw: Mapping | BadRow, schema: Schema) -> Sequence[Mapping | BadRow]:
    """The rows of the schema's format that a row of any it takes stands for."""
    if isinstance(raw, BadRow):
        return [raw]
    try:
        return schema.adapt(raw)
    except BadRow as bad:
        return [bad]


def _checked(raw: Mapping, schema: Schema, split: str | None) -> dict | BadRow:
    try:
        row = schema.read_row(raw)
    except BadRow as bad:
        return bad
    named = raw.get("split") or split
    row["split"] = None if named is None else _SPLIT_NAMES.get(str(named))
    if named is not None and row["split"] is None:
        return BadRow("split", f"is {str(named)[:40]!r}; use train, valid or test")
    return row


def _check_columns(file: Path, raw: Mapping, schema: Schema) -> None:
    if file.name.lower().removesuffix(".gz").endswith((".json", ".jsonl")):
        return  # every object has its own keys, so a missing one is that row's fault alone
    required = [name for name, field in schema.fields.items() if field.required]
    missing = [name for name in required if name not in raw]
    if missing:
        found = ", ".join(n if n.isprintable() else repr(n) for n in map(str, raw)) or "none"
        raise UserError(
            f"{file}: no column {', '.join(map(repr, missing))}; {schema.corpus} needs "
            f"{', '.join(required)}, the file has {found}"
        )


def _is_hub_name(source: str) -> bool:
    return bool(_HUB_NAME.fullmatch(source)) and not source.lower().endswith(SUFFIXES)


def _hub_rows(name: str, schema: Schema, terms: HubTerms) -> PlacedRows:
    import datasets
    from huggingface_hub import constants

    page = f"https://huggingface.co/datasets/{name} (licence: {terms.licence})"
    if not constants.HF_HUB_OFFLINE and not hub.answers(constants.ENDPOINT):
        raise UserError(
            f"{schema.corpus}: {constants.ENDPOINT} cannot be reached to fetch {page}; {terms.mend}"
        )
    log.warning("fetching %s", page)
    try:
        splits = datasets.load_dataset(name)
    # RuntimeError: the hub has it as a script to run, which datasets takes no more.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{schema.corpus}: {page} not fetched ({reason}); {terms.mend}") from None
    counts = {split: data.num_rows for split, data in splits.items()}
    if terms.rows is not None and counts != dict(terms.rows):
        raise UserError(
            f"{schema.corpus}: {page} gave {counts} rows instead of {dict(terms.rows)}; remove it "
            f"from Hugging Face's cache and try again"
        )
    for split, data in splits.items():
        for number, raw in enumerate(data, 1):
            for row in _adapted(raw, schema):
                checked = row if isinstance(row, BadRow) else _checked(row, schema, split)
                yield f"{name}, {split}, row {number}", checked


def _good_rows(
    rows: PlacedRows, schema: Schema, skip_bad_rows: bool
) -> tuple["pyarrow.Table", str]:
    """Return the good rows as a table, and a note on the bad ones ("" if there are none)."""
    import pyarrow

    tables: list[pyarrow.Table] = []
    waiting: list[dict] = []
    bad: list[str] = []
    bad_count = 0
    for place, row in rows:
        if isinstance(row, dict):
            waiting.append(row)
            if len(waiting) == _ROWS_AT_ONCE:
                tables.append(pyarrow.Table.from_pylist(waiting))
                waiting.clear()
        elif skip_bad_rows:
            bad_count += 1
            bad += [f"{place}: {row}"][: _SHOWN_BAD_ROWS - len(bad)]
        else:
            raise UserError(f"{place}: {row} (or give --skip-bad-rows true)")
    if waiting:
        tables.append(pyarrow.Table.from_pylist(waiting))
    if not tables:
        raise UserError(f"{schema.corpus}: no usable row; check the file and its columns")
    good = pyarrow.concat_tables(tables, promote_options="permissive")
    if not bad:
        return good, ""
    return good, f"skipped {bad_count} bad rows of {bad_count + len(good)}: {'; '.join(bad)}"


def _cached(
    read: Callable[[], tuple["pyarrow.Table", str]], key: list, schema: Schema, datapath: Path
) -> "Dataset":
    """Open the verified copy for ``key``; make it from the rows that ``read()`` gives if need be.

    Written aside and moved into place, so that a copy that is there is whole.
    """
    import datasets

    identity = json.dumps([_CACHE_FORMAT, schema.corpus, sorted(schema.fields), key])
    digest = hashlib.sha256(identity.encode("utf-8")).hexdigest()[:16]
    name = f"{schema.corpus.lower().replace(' ', '_')}-{digest}"
    folder = datapath / "parlai_prosocial" / name
    aside = folder.with_name(f".{name}-{os.getpid()}")
    if not folder.is_dir():
        rows, note = read()
        try:
            with writing(folder, aside):
                aside.mkdir(parents=True, exist_ok=True)
                data = datasets.Dataset(rows, fingerprint=digest)
                data.info.description = note
                _save_quietly(data, aside)
                os.replace(aside, folder)
        except OSError:
            if not folder.is_dir():  # another process may have been faster
                raise
        except UserError as error:
            raise UserError(f"--datapath {datapath}: {error}") from error
    data = datasets.load_from_disk(str(folder))
    if data.info.description:
        log.warning(data.info.description)
    return data


def _save_quietly(data: "Dataset", folder: Path) -> None:
    import datasets

    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        data.save_to_disk(folder)
    finally:
        if not quiet:
            datasets.enable_progress_bars()
