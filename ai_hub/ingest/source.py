"""Open a file for reading block by block, so memory does not grow with it."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.ingest import blocks, excel, green_button
from ai_hub.ingest.blocks import Block, Malformed, Source
from ai_hub.ingest.excel import ExcelSource
from ai_hub.ingest.formats import FileFormat
from ai_hub.ingest.green_button import GreenButtonSource
from ai_hub.ingest.heads import encoding_of, read_head
from ai_hub.ingest.nem12 import Nem12Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_HEAD_BYTES = 1 << 20
_DAMAGED = (
    *(pa.ArrowInvalid, pa.ArrowIOError, gzip.BadGzipFile, zlib.error, EOFError, UnicodeError),
    *(*excel.DAMAGED, *green_button.DAMAGED),
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
    recognises: Callable[[Sequence[str]], bool] | None = None,
) -> Iterator[Source]:
    """Open a text, Parquet or Excel file.

    Args:
        path: The file.
        form: What is known of how it is written.
        reader: `table`, or the format that is none: `nem12`, `green-button`.
        recognises: Whether these fields are the names of columns; tells the header from lines before it.

    Raises:
        NotFoundError: no such file.
        BadInputError: not a format we read, or damaged.
    """
    form = form or FileFormat()
    name = _check_name(path)
    try:
        with path.open("rb") as raw:
            if name.endswith(_PARQUET):
                yield _ParquetSource(raw)
            elif name.endswith(_EXCEL):
                yield ExcelSource(raw, form, recognises)
            else:
                stream = _unpacked(raw, name)
                size = path.stat().st_size
                if reader == "nem12":
                    head = stream.read(_HEAD_BYTES)
                    yield Nem12Source(stream, form.encoding or encoding_of(head)[0], size)
                elif reader == "green-button":
                    yield GreenButtonSource(stream, size)
                else:
                    yield _CsvSource(path, stream, form, recognises, size)
    except _DAMAGED as error:
        raise BadInputError(
            f"{path.name} cannot be read: {error}",
            hint="Is it complete? A CSV file that is not UTF-8 needs --encoding. "
            "Rows before the damage may be stored already.",
        ) from error


def beginning(path: Path, size: int = 4096) -> str:
    """First characters of a text file; empty where it is none or not readable.

    Raises:
        NotFoundError: no such file.
        BadInputError: not a format we read.
    """
    name = _check_name(path)
    if not name.endswith(_TEXT):
        return ""
    try:
        with path.open("rb") as raw:
            head = _unpacked(raw, name).read(size)
            return head.decode(encoding_of(head)[0], errors="replace").removeprefix("\ufeff")
    except (*_DAMAGED, BadInputError):
        return ""  # opening it says what is wrong


def _check_name(path: Path) -> str:
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.")
    name = path.name.casefold()
    if not name.endswith((*_PARQUET, *_EXCEL, *_TEXT)):
        raise BadInputError(
            f"{path.name} is not a format we read.",
            hint="Use .csv, .tsv, .txt or .xml (also with .gz), .parquet, .xlsx, .xls or .ods.",
        )
    return name


def _unpacked(raw: IO[bytes], name: str) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if name.endswith(".gz") else raw


class _ParquetSource:
    delimiter = None
    meters: list[str] | None = None

    def __init__(self, raw: IO[bytes]) -> None:
        self._file = pq.ParquetFile(raw)
        self.columns: list[str] = list(self._file.schema_arrow.names)
        self.preamble: list[list[str]] = []
        self.notes: list[str] = []

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        total = max(self._file.metadata.num_rows, 1)
        done = 0
        for batch in self._file.iter_batches(batch_size=blocks.BLOCK_ROWS, columns=columns):
            # What pandas notes of its index would make a column of the file the index.
            cells = batch.to_pandas(ignore_metadata=True)
            coded = [name for name, dtype in cells.dtypes.items() if isinstance(dtype, pd.CategoricalDtype)]
            cells = cells.astype(dict.fromkeys(coded, object))
            cells.index = pd.RangeIndex(done + 1, done + 1 + len(cells), name="line")
            done += len(cells)
            yield Block(cells, [], done / total)


class _CsvSource:
    """Every cell stays text, so a rejected row can be given back as it was written."""

    meters: list[str] | None = None

    def __init__(
        self,
        path: Path,
        stream: IO[bytes],
        form: FileFormat,
        recognises: Callable[[Sequence[str]], bool] | None,
        size: int,
    ) -> None:
        self._path = path
        self._size = max(size, 1)
        start = stream.read(_HEAD_BYTES)
        self._head = read_head(start, form, recognises, complete=len(start) < _HEAD_BYTES)
        self.columns = self._head.columns
        self.delimiter: str | None = self._head.delimiter
        self.preamble = self._head.preamble
        self.notes = self._head.notes

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        if not self._head.has_rows:
            return
        # A file of its own for every look: one that ended early still reads ahead in its thread,
        # and would take rows from the next one.
        with self._path.open("rb") as raw:
            yield from self._blocks(raw, columns)

    def _blocks(self, raw: IO[bytes], columns: list[str]) -> Iterator[Block]:
        malformed: list[Malformed] = []

        def note(row: Any) -> str:
            reason = f"has {row.actual_columns} fields instead of {row.expected_columns}"
            malformed.append(Malformed(row.number, reason, row.text))
            return "skip"

        # Numbers as names for the reader: those of the file may occur twice.
        names = [str(i) for i, _ in enumerate(self.columns)]
        reader = pacsv.open_csv(
            _unpacked(raw, self._path.name.casefold()),
            # Line numbers of malformed rows are only known to a single-threaded reader.
            read_options=pacsv.ReadOptions(
                use_threads=False,
                block_size=blocks.BLOCK_BYTES,
                skip_rows=self._head.skipped,
                column_names=names,
                encoding=self._head.encoding,
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=self._head.delimiter, ignore_empty_lines=False, invalid_row_handler=note
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
        next_line = self._head.skipped + 1
        for batch in reader:
            skipped = [bad.line for bad in malformed]
            lines = np.arange(next_line, next_line + len(batch) + len(skipped))
            lines = lines[~np.isin(lines, skipped)][: len(batch)]
            cells = batch.select([names[self.columns.index(name)] for name in columns]).to_pandas()
            cells.columns = pd.Index(columns)
            cells.index = pd.Index(lines, name="line")
            if len(batch):
                next_line = int(lines[-1]) + 1
            blank = (cells == "").all(axis=1).to_numpy()
            if blank.any():  # a line with something in other columns is no blank one
                blank[blank] = (batch.filter(pa.array(blank)).to_pandas() == "").all(axis=1)
            # A line is only known to be over once the next block starts, so some may be noted ahead.
            due = [bad for bad in malformed if bad.line < next_line]
            malformed[:] = [bad for bad in malformed if bad.line >= next_line]
            yield Block(cells[~blank], due, min(raw.tell() / self._size, 1.0))
        if malformed:
            yield Block(pd.DataFrame(columns=columns), malformed, 1.0)
