"""CSV, JSON, JSON Lines and Parquet files as rows that know their line."""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from parlai_prosocial.data.field_checks import BadRow
from parlai_prosocial.errors import UserError

SUFFIXES = (".csv", ".csv.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz", ".parquet")
MAX_FILE_SIZE = 2_000_000_000
"""How many bytes a data file may hold, unpacked, unless ``--max-file-size`` says otherwise."""

# Text packs to a tenth, JSON of many equal rows to a fiftieth; gzip's limit is a thousandth.
_MAX_RATIO = 100
_RATIO_FROM = 64_000_000
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BLANKS = re.compile(r"[ \t\r\n]*")
_PARQUET_BATCH = 1024


def file_size(written: str) -> int:
    """Return the bytes that ``--max-file-size`` stands for; raises UserError.

    >>> file_size("500MB"), file_size("2G"), file_size("1000")
    (500000000, 2000000000, 1000)
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([kmgt]?)b?", written.strip().lower())
    size = int(float(found[1]) * _SIZES[found[2]]) if found else 0
    if size <= 0:
        raise UserError(f"--max-file-size {written[:40]}: give a size like 500MB or 4GB")
    return size


def raw_rows(path: Path, max_file_size: int = MAX_FILE_SIZE) -> Iterator[tuple[int, dict | BadRow]]:
    """Yield ``(line, row)`` for each row of a data file, unchecked.

    ``line`` counts from 1 and is where the row begins; in Parquet it is the row's number. A line
    of JSON Lines that cannot be read is yielded as a :class:`BadRow`, since the next one can.

    Raises:
        UserError: the file's kind is unknown, it holds more than ``max_file_size`` bytes (unpacked)
            or unpacks to more than text does, or it cannot be read any further.
    """
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise UserError(f"{path}: unknown kind of file; use {', '.join(SUFFIXES)}")
    kind = name.removesuffix(".gz").rsplit(".", 1)[1]
    readers = {"csv": _csv_rows, "json": _json_rows, "jsonl": _jsonl_rows}
    try:
        if kind == "parquet":
            yield from _parquet_rows(path, max_file_size)
        else:
            packed = name.endswith(".gz")
            with path.open("rb") as raw:
                source = gzip.GzipFile(fileobj=raw) if packed else raw
                bounded = _Bounded(path, source, max_file_size, packed)
                yield from readers[kind](path, io.BufferedReader(bounded, 1 << 17))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); check the file") from None


class _Bounded(io.RawIOBase):
    """Bytes of a file, at most so many: a small archive can unpack to more than the memory."""

    def __init__(self, path: Path, source: IO[bytes] | gzip.GzipFile, limit: int, packed: bool):
        self._source = source
        self._left = limit
        size = path.stat().st_size
        self._error = (
            f"{path}: holds more than {limit:,} bytes; give a larger --max-file-size, or a smaller "
            "file"
        )
        if packed and max(_RATIO_FROM, _MAX_RATIO * size) < limit:
            self._left = max(_RATIO_FROM, _MAX_RATIO * size)
            self._error = (
                f"{path}: its {size:,} bytes unpack to more than {self._left:,}, which no text "
                "does; unpack it and look at it"
            )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._source.read(len(buffer))
        self._left -= len(found)
        if self._left < 0:
            raise UserError(self._error)
        buffer[: len(found)] = found
        return len(found)


def _csv_rows(path: Path, file: io.BufferedReader) -> Iterator[tuple[int, dict | BadRow]]:
    csv.field_size_limit(sys.maxsize)

    def lines() -> Iterator[str]:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(_not_utf8(path, number)) from None

    reader = csv.reader(lines())
    try:
        columns = next(reader, [])
        _check_distinct(path, columns)
        line = reader.line_num + 1
        for values in reader:
            if len(values) > len(columns):
                field = columns[-1] if columns else ""
                reason = f"is followed by {len(values) - len(columns)} too many; quote the commas"
                yield line, BadRow(field, reason)
            elif values:
                yield line, dict(zip_longest(columns, values))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: no CSV ({error}); mend it") from None


def _jsonl_rows(path: Path, file: io.BufferedReader) -> Iterator[tuple[int, dict | BadRow]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError:
            yield number, BadRow("", "is not UTF-8; convert the file to UTF-8")
        except json.JSONDecodeError as error:
            yield number, BadRow("", f"is no JSON ({error.msg}, column {error.colno}); mend it")
        except (RecursionError, ValueError) as error:
            yield number, BadRow("", f"{_beyond_json(error)}; leave it out")
        else:
            yield number, _object(row)


def _json_rows(path: Path, file: io.BufferedReader) -> Iterator[tuple[int, dict | BadRow]]:
    """A list of objects, as DiaSafety comes, or JSON Lines that are named ``.json``."""
    raw = file.read()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(_not_utf8(path, line)) from None
    del raw
    position = _BLANKS.match(content).end()  # type: ignore[union-attr]  # it matches nothing too
    in_list = content.startswith("[", position)
    decoder = json.JSONDecoder()
    line = 1 + content.count("\n", 0, position)
    end = position + in_list

    def next_token() -> str:
        """Go over white space; return the character there, "" at the end."""
        nonlocal position, line, end
        position = _BLANKS.match(content, end).end()  # type: ignore[union-attr]
        line += content.count("\n", end, position)
        return content[position : position + 1]

    token = next_token()
    while token and not (in_list and token == "]"):
        try:
            row, end = decoder.raw_decode(content, position)
        except json.JSONDecodeError as error:
            where = content.count("\n", 0, error.pos) + 1
            raise UserError(f"{path}, line {where}: no JSON ({error.msg}); mend it") from None
        except (RecursionError, ValueError) as error:
            raise UserError(f"{path}, line {line}: {_beyond_json(error)}; leave it out") from None
        yield line, _object(row)
        line += content.count("\n", position, end)
        token = next_token()
        if in_list and token == ",":
            end = position + 1
            token = next_token()
            if token == "]":
                raise UserError(f"{path}, line {line}: no JSON (a comma before the end); mend it")
        elif in_list and token and token != "]":
            raise UserError(f"{path}, line {line}: no JSON (no comma between rows); mend it")
    if in_list and not token:
        raise UserError(f"{path}, line {line}: the list has no end; the file was cut off, mend it")
    end = position + in_list
    if next_token():
        raise UserError(
            f"{path}, line {line}: more after the end of the list; put all rows into one list, or "
            "write a row a line"
        )


def _beyond_json(error: Exception) -> str:
    """What is wrong with JSON that is right by its grammar but that Python does not take."""
    if isinstance(error, RecursionError):
        return "nests lists or objects too deeply"
    return f"holds a number of more than {sys.get_int_max_str_digits():,} digits"


def _check_distinct(path: Path, columns: Sequence[str]) -> None:
    repeated = [name for index, name in enumerate(columns) if name and name in columns[:index]]
    if repeated:
        raise UserError(f"{path}: two columns are named {repeated[0]!r}; rename or remove one")


def _parquet_rows(path: Path, max_file_size: int) -> Iterator[tuple[int, dict | BadRow]]:
    import pyarrow
    import pyarrow.parquet

    too_large = (
        f"{path}: holds more than {max_file_size:,} bytes unpacked; give a larger "
        "--max-file-size, or a smaller file"
    )
    number = size = 0
    try:
        file = pyarrow.parquet.ParquetFile(path)
        _check_distinct(path, file.schema_arrow.names)
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > max_file_size:
            raise UserError(too_large)
        for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
            size += batch.nbytes  # a column of equal values unpacks beyond what the file says
            if size > max_file_size:
                raise UserError(too_large)
            for row in _values_of(batch):
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: no Parquet file ({reason}); write it again") from None


def _values_of(batch: Any) -> Sequence[dict | BadRow]:
    """The rows of an Arrow batch; those with a value that Python does not take are bad."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):  # UnicodeDecodeError among them
        rows = [batch.slice(index, 1) for index in range(batch.num_rows)]
        return [_value_of(row) for row in rows]


def _value_of(row: Any) -> dict | BadRow:
    values = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            values[name] = column.to_pylist()[0]
        except UnicodeDecodeError:
            return BadRow(name, "is not UTF-8; write it as UTF-8")
        except (ValueError, OverflowError) as error:
            return BadRow(name, f"cannot be read ({error}); leave it out")
    return values


def _object(row: object) -> dict | BadRow:
    if isinstance(row, dict):
        return row
    return BadRow("", "is no JSON object; each row must be one")


def _not_utf8(path: Path, line: int) -> str:
    return f"{path}, line {line}: not UTF-8; convert the file, for example with iconv -t UTF-8"
