"""Corpora from a file, a folder or the Hugging Face hub: verified once, then opened as Arrow.

A corpus is read row by row against a :class:`~parlai_prosocial.data.fields.Schema`, so that a bad
row is named by file, line and field. The verified rows are saved through ``datasets`` under
``<datapath>/parlai_prosocial/``, and memory-mapped from there the next time. A file that has
changed (size or time of change) is read again.

``datasets`` is imported only when a corpus is opened: it takes a second, and ``parlai --help``
needs none of it.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parlai_prosocial.data.fields import BadRow, Schema
from parlai_prosocial.data.formats import SUFFIXES, raw_rows
from parlai_prosocial.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

HUB_PATIENCE = 8.0
"""Seconds until a hub that does not answer counts as unreachable."""

_CACHE_FORMAT = 1
_SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
_SHOWN_BAD_ROWS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubCorpus:
    """A corpus on the Hugging Face hub.

    Attributes:
        name: its name there.
        licence: shown to the user before anything is fetched.
        rows: how many rows each split must have; a download with other counts is refused.
        local_folder: folder under the datapath in which a copy by hand is looked for.
    """

    name: str
    licence: str
    rows: Mapping[str, int]
    local_folder: str


def bundled(name: str) -> Path:
    """Return the path of a data file that ships with this package."""
    return Path(__file__).parent / "bundled" / name


def open_files(
    source: str | Path, schema: Schema, datapath: str | Path, skip_bad_rows: bool = False
) -> "Dataset":
    """Open a corpus in a local file, or in a folder of files, as one data set.

    Args:
        source: a CSV, JSON, JSON Lines or Parquet file, or a folder of such files.
        schema: the columns.
        datapath: ParlAI's data path; the verified copy is kept there.
        skip_bad_rows: leave bad rows out, and log how many, instead of stopping.

    Returns:
        All good rows in order, with the schema's columns and ``split`` (``train``, ``valid``,
        ``test`` or None): the column of that name, else what the file's name begins with.

    Raises:
        UserError: nothing is there, a file or row is bad, or no good row is left.
    """
    files = data_files(source)
    stamps = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return _cached(
        lambda: _read_files(files, schema, skip_bad_rows),
        key=[stamps, skip_bad_rows],
        schema=schema,
        datapath=Path(datapath),
    )


def open_hub(
    corpus: HubCorpus, schema: Schema, datapath: str | Path, sample_flag: str
) -> "Dataset":
    """Open a corpus of the hub: the verified copy, else a copy by hand, else download it.

    Args:
        corpus: which one.
        schema: the columns.
        datapath: ParlAI's data path.
        sample_flag: the flag that runs the task on a bundled sample, for the error message.

    Raises:
        UserError: there is no copy and the hub cannot be reached, or what came is not whole.
    """
    by_hand = Path(datapath) / corpus.local_folder
    if by_hand.is_dir():
        return open_files(by_hand, schema, datapath)
    return _cached(
        lambda: _read_hub(corpus, schema, by_hand, sample_flag),
        key=[corpus.name, dict(corpus.rows)],
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


def checked_rows(file: Path, schema: Schema) -> Iterator[tuple[int, dict | BadRow]]:
    """Yield ``(line, row)`` of one file, each row checked or the reason why it is bad.

    Raises:
        UserError: the file cannot be read, or lacks a required column altogether.
    """
    split_of_file = _split_in_name(file)
    for index, (line, raw) in enumerate(raw_rows(file)):
        if isinstance(raw, BadRow):
            yield line, raw
            continue
        if index == 0:
            _check_columns(file, raw, schema)
        try:
            yield line, _read_row(raw, schema, split_of_file)
        except BadRow as bad:
            yield line, bad


def rows_of(data: "Dataset", split: str | None = None) -> list[dict]:
    """Return the rows of a split (all, if None) as dicts."""
    rows = data.to_list()
    return rows if split is None else [row for row in rows if row["split"] == split]


def _read_row(raw: Mapping, schema: Schema, split_of_file: str | None) -> dict:
    row = schema.read_row(raw)
    split = raw.get("split")
    if split is None or split == "":
        row["split"] = split_of_file
    elif split in _SPLIT_NAMES:
        row["split"] = _SPLIT_NAMES[split]
    else:
        raise BadRow("split", f"is {str(split)[:40]!r}; use train, valid or test")
    return row


def _check_columns(file: Path, raw: Mapping, schema: Schema) -> None:
    required = [name for name, field in schema.fields.items() if field.required]
    missing = [name for name in required if name not in raw]
    # A key missing from one JSON object is that row's fault; a CSV column is missing everywhere.
    in_json = file.name.lower().removesuffix(".gz").endswith((".json", ".jsonl"))
    if missing and (len(missing) == len(required) or not in_json):
        raise UserError(
            f"{file}: no column {', '.join(map(repr, missing))}; {schema.corpus} needs "
            f"{', '.join(required)}, the file has {', '.join(map(str, raw)) or 'none'}"
        )


def _split_in_name(file: Path) -> str | None:
    stem = file.name.lower().split(".")[0].split("_")[0].split("-")[0]
    return _SPLIT_NAMES.get(stem)


def _read_files(files: Sequence[Path], schema: Schema, skip_bad_rows: bool) -> list[dict]:
    rows: list[dict] = []
    bad: list[str] = []
    for file in files:
        for line, row in checked_rows(file, schema):
            if isinstance(row, dict):
                rows.append(row)
            elif skip_bad_rows:
                bad.append(f"{file}, line {line}: {row}")
            else:
                raise UserError(f"{file}, line {line}: {row} (or give --skip-bad-rows true)")
    if bad:
        shown = "; ".join(bad[:_SHOWN_BAD_ROWS])
        log.warning("skipped %d bad rows of %d: %s", len(bad), len(bad) + len(rows), shown)
    if not rows:
        raise UserError(f"{files[0]}: no usable row; {schema.corpus} needs {_columns(schema)}")
    return rows


def _read_hub(corpus: HubCorpus, schema: Schema, by_hand: Path, sample_flag: str) -> Iterator[dict]:
    import datasets
    from huggingface_hub import constants

    advice = (
        f"fetch https://huggingface.co/datasets/{corpus.name} (licence: {corpus.licence}) on a "
        f"machine with a network and put its files (train, validation and test, as JSON Lines, CSV "
        f"or Parquet) into {by_hand}/, or try the bundled sample with {sample_flag} true"
    )
    if not constants.HF_HUB_OFFLINE and not _answers(constants.ENDPOINT):
        raise UserError(f"{schema.corpus}: {constants.ENDPOINT} cannot be reached; {advice}")
    log.warning("fetching %s (licence: %s)", corpus.name, corpus.licence)
    try:
        splits = datasets.load_dataset(corpus.name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{schema.corpus}: not fetched ({reason}); {advice}") from None
    counts = {name: split.num_rows for name, split in splits.items()}
    if counts != dict(corpus.rows):
        raise UserError(
            f"{schema.corpus}: the hub gave {counts} rows instead of {dict(corpus.rows)}; "
            f"remove it from Hugging Face's cache and try again"
        )
    for name, split in splits.items():
        for number, raw in enumerate(split, 1):
            try:
                yield _read_row(raw, schema, _SPLIT_NAMES[name])
            except BadRow as bad:
                raise UserError(f"{corpus.name}, {name}, row {number}: {bad}") from None


def _answers(url: str) -> bool:
    """Whether a server answers at all within :data:`HUB_PATIENCE`.

    In a thread, because looking up a name has no time limit of its own.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=HUB_PATIENCE).close()
        except urllib.error.HTTPError:
            pass  # an answer, whatever it says
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_PATIENCE)
    return answered.is_set()


def _cached(read: Any, key: list, schema: Schema, datapath: Path) -> "Dataset":
    """Open the verified copy for ``key``; make it from the rows that ``read()`` gives if need be.

    Written aside and moved into place, so that a copy that is there is whole.
    """
    import datasets

    identity = json.dumps([_CACHE_FORMAT, schema.corpus, sorted(schema.fields), key])
    digest = hashlib.sha256(identity.encode("utf-8")).hexdigest()[:16]
    folder = datapath / "parlai_prosocial" / f"{schema.corpus.lower()}-{digest}"
    if not folder.is_dir():
        rows = list(read())
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise UserError(f"--datapath {datapath}: cannot be written ({error})") from None
        try:
            datasets.Dataset.from_list(rows).save_to_disk(aside)
            os.replace(aside, folder)
        except OSError:
            if not folder.is_dir():  # another process may have been faster
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return datasets.load_from_disk(str(folder))


def _columns(schema: Schema) -> str:
    return ", ".join(name for name, field in schema.fields.items() if field.required)


def empty_split(corpus: str, split: str, have: Iterable[str | None]) -> UserError:
    """Return the error for a split that has no example."""
    names = sorted({name or "none" for name in have})
    return UserError(f"{corpus} has no example for -dt {split}; it has: {', '.join(names)}")
