"""Opening of a file of any format, which is read block by block, in bounded memory."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.ingest import green_button
from ai_hub.ingest.green_button import GreenButtonSource
from ai_hub.ingest.nem12 import Nem12Source
from ai_hub.ingest.options import FileFormat
from ai_hub.ingest.tables import (
    DAMAGED_SPREADSHEET,
    HEAD_BYTES,
    CsvSource,
    ExcelSource,
    ParquetSource,
    Source,
    detect_encoding,
    unpacked,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_DAMAGED = (
    *(pa.ArrowInvalid, pa.ArrowIOError, gzip.BadGzipFile, zlib.error, EOFError, UnicodeError),
    *(*DAMAGED_SPREADSHEET, *green_button.DAMAGED),
)
_PARQUET = (".parquet", ".pq")
_EXCEL = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
_TEXT = tuple(ending + packed for ending in (".csv", ".tsv", ".txt", ".xml") for packed in ("", ".gz"))


@contextmanager
def open_source(
    path: Path,
    form: FileFormat | None = None,
    *,
    reader: str = "table",
    is_header: Callable[[Sequence[str]], bool] | None = None,
) -> Iterator[Source]:
    """Open a text, Parquet or Excel file.

    Args:
        path: The file.
        form: Options; unset ones are detected.
        reader: `table`, or a format that is not a table: `nem12`, `green-button`.
        is_header: Whether these fields are column names; without it the first line is the header.

    Raises:
        NotFoundError: the file does not exist.
        BadInputError: the format is not supported, or the file is damaged.
    """
    form = form or FileFormat()
    name = _check_name(path)
    try:
        with path.open("rb") as raw:
            if name.endswith(_PARQUET):
                yield ParquetSource(raw)
            elif name.endswith(_EXCEL):
                yield ExcelSource(raw, form, is_header)
            else:
                stream = unpacked(raw, name)
                size = path.stat().st_size
                if reader == "nem12":
                    head = stream.read(HEAD_BYTES)
                    yield Nem12Source(stream, form.encoding or detect_encoding(head)[0], size)
                elif reader == "green-button":
                    yield GreenButtonSource(stream, size)
                else:
                    yield CsvSource(path, stream, form, is_header, size)
    except _DAMAGED as error:
        raise BadInputError(
            f"{path.name} cannot be read: {error}",
            hint="Is it complete? A CSV file that is not UTF-8 needs --encoding. "
            "Rows before the damage may be stored already.",
        ) from error


def beginning(path: Path, size: int = 4096) -> str:
    """First characters of a text file; empty for other files and where it cannot be read.

    Raises:
        NotFoundError: the file does not exist.
        BadInputError: the format is not supported.
    """
    name = _check_name(path)
    if not name.endswith(_TEXT):
        return ""
    try:
        with path.open("rb") as raw:
            head = unpacked(raw, name).read(size)
            return head.decode(detect_encoding(head)[0], errors="replace").removeprefix("\ufeff")
    except (*_DAMAGED, BadInputError):
        return ""  # `open_source` reports the error


def _check_name(path: Path) -> str:
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.")
    name = path.name.casefold()
    if not name.endswith((*_PARQUET, *_EXCEL, *_TEXT)):
        raise BadInputError(
            f"The format of {path.name} is not supported.",
            hint="Use .csv, .tsv, .txt or .xml (also with .gz), .parquet, .xlsx, .xls or .ods.",
        )
    return name
