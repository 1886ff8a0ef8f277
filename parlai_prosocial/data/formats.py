"""CSV, JSON, JSON Lines and Parquet files as rows that know their line."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import IO, TypeAlias

from parlai_prosocial.data.fields import BadRow
from parlai_prosocial.errors import UserError

SUFFIXES = (".csv", ".csv.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz", ".parquet")

BinaryFile: TypeAlias = IO[bytes] | gzip.GzipFile


def raw_rows(path: Path) -> Iterator[tuple[int, dict | BadRow]]:
    """Yield ``(line, row)`` for each row of a data file, unchecked.

    ``line`` counts from 1 and is where the row begins; in Parquet it is the row's number. A line
    of JSON Lines that cannot be read is yielded as a :class:`BadRow`, since the next one can.

    Raises:
        UserError: the file's kind is unknown, or it cannot be read any further.
    """
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise UserError(f"{path}: unknown kind of file; use {', '.join(SUFFIXES)}")
    kind = name.removesuffix(".gz").rsplit(".", 1)[1]
    readers = {"csv": _csv_rows, "json": _json_rows, "jsonl": _jsonl_rows}
    try:
        if kind == "parquet":
            yield from _parquet_rows(path)
        else:
            open_file = gzip.open if name.endswith(".gz") else open
            with open_file(path, "rb") as file:
                yield from readers[kind](path, file)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); check the file") from None


def _csv_rows(path: Path, file: BinaryFile) -> Iterator[tuple[int, dict | BadRow]]:
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


def _jsonl_rows(path: Path, file: BinaryFile) -> Iterator[tuple[int, dict | BadRow]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError:
            yield number, BadRow("", "is not UTF-8; convert the file to UTF-8")
        except json.JSONDecodeError as error:
            yield number, BadRow("", f"is no JSON ({error.msg}, column {error.colno}); mend it")
        else:
            yield number, _object(row)


def _json_rows(path: Path, file: BinaryFile) -> Iterator[tuple[int, dict | BadRow]]:
    """A list of objects, as DiaSafety comes, or JSON Lines that are named ``.json``."""
    raw = file.read()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(_not_utf8(path, line)) from None
    decoder = json.JSONDecoder()
    separators = " \t\r\n,"
    in_list = content.lstrip().startswith("[")
    position = content.index("[") + 1 if in_list else 0
    line = 1 + content.count("\n", 0, position)
    while True:
        while position < len(content) and content[position] in separators:
            line += content[position] == "\n"
            position += 1
        if position == len(content) or (in_list and content[position] == "]"):
            return
        try:
            row, end = decoder.raw_decode(content, position)
        except json.JSONDecodeError as error:
            where = content.count("\n", 0, error.pos) + 1
            raise UserError(f"{path}, line {where}: no JSON ({error.msg}); mend it") from None
        yield line, _object(row)
        line += content.count("\n", position, end)
        position = end


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict | BadRow]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: no Parquet file ({reason}); write it again") from None


def _object(row: object) -> dict | BadRow:
    if isinstance(row, dict):
        return row
    return BadRow("", "is no JSON object; each row must be one")


def _not_utf8(path: Path, line: int) -> str:
    return f"{path}, line {line}: not UTF-8; convert the file, for example with iconv -t UTF-8"
