"""Read CSV and Parquet files block by block, so memory does not grow with the file."""

from __future__ import annotations

import csv
import gzip
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ai_hub.errors import BadInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# About 100,000 rows of a narrow CSV: large enough to work on columns, small enough to hold many times over.
BLOCK_BYTES = 4 << 20
BLOCK_ROWS = 100_000
_HEADER_BYTES = 1 << 20
_DAMAGED = (pa.ArrowInvalid, pa.ArrowIOError, gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError)
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Malformed:
    """A line that does not have the header's number of fields."""

    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Block:
    """Consecutive rows under the file's own column names, indexed by line (Parquet: row) number."""

    cells: pd.DataFrame
    malformed: list[Malformed]
    #: Share of the file read so far, 0 to 1.
    fraction: float


class Source(Protocol):
    """A file opened for one pass."""

    columns: list[str]

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """Yield the file's rows with these columns."""


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a `.csv`, `.csv.gz` or `.parquet` file.

    Raises:
        NotFoundError: no such file.
        BadInputError: not a format we read, or damaged.
    """
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.")
    name = path.name.casefold()
    try:
        with path.open("rb") as raw:
            if name.endswith((".parquet", ".pq")):
                yield _ParquetSource(raw)
            elif name.endswith((".csv", ".csv.gz")):
                yield _CsvSource(raw, compressed=name.endswith(".gz"), size=path.stat().st_size)
            else:
                raise BadInputError(
                    f"{path.name} is not a format we read.", hint="Use .csv, .csv.gz or .parquet."
                )
    except _DAMAGED as error:
        raise BadInputError(
            f"{path.name} cannot be read: {error}",
            hint="CSV must be UTF-8 with one header line. Rows before the damage may be stored already.",
        ) from error


class _ParquetSource:
    def __init__(self, raw: IO[bytes]) -> None:
        self._file = pq.ParquetFile(raw)
        self.columns: list[str] = list(self._file.schema_arrow.names)

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        total = max(self._file.metadata.num_rows, 1)
        done = 0
        for batch in self._file.iter_batches(batch_size=BLOCK_ROWS, columns=columns):
            cells = batch.to_pandas()
            coded = [name for name, dtype in cells.dtypes.items() if isinstance(dtype, pd.CategoricalDtype)]
            cells = cells.astype(dict.fromkeys(coded, object))
            cells.index = pd.RangeIndex(done + 1, done + 1 + len(cells), name="line")
            done += len(cells)
            yield Block(cells, [], done / total)


class _CsvSource:
    """Every cell stays text, so a rejected row can be given back as it was written."""

    def __init__(self, raw: IO[bytes], *, compressed: bool, size: int) -> None:
        self._raw = raw
        self._compressed = compressed
        self._size = max(size, 1)
        head = self._open().read(_HEADER_BYTES).decode("utf-8-sig", errors="ignore")
        header = head.splitlines()
        if not header:
            raise BadInputError("The file is empty.", hint="A CSV file starts with a line of column names.")
        self._delimiter = max(_DELIMITERS, key=header[0].count)
        self.columns = next(csv.reader([header[0]], delimiter=self._delimiter))

        self._has_rows = header[0] != head

    def _open(self) -> IO[bytes] | gzip.GzipFile:
        self._raw.seek(0)
        return gzip.GzipFile(fileobj=self._raw) if self._compressed else self._raw

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        malformed: list[Malformed] = []
        if not self._has_rows:
            return

        def note(row: Any) -> str:
            reason = f"has {row.actual_columns} fields instead of {row.expected_columns}"
            malformed.append(Malformed(row.number, reason, row.text))
            return "skip"

        reader = pacsv.open_csv(
            self._open(),
            # Line numbers of malformed rows are only known to a single-threaded reader.
            read_options=pacsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=pacsv.ParseOptions(
                delimiter=self._delimiter, ignore_empty_lines=False, invalid_row_handler=note
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(self.columns, pa.string()),
                strings_can_be_null=False,
            ),
        )
        next_line = 2
        for batch in reader:
            skipped = [bad.line for bad in malformed]
            lines = np.arange(next_line, next_line + len(batch) + len(skipped))
            lines = lines[~np.isin(lines, skipped)][: len(batch)]
            cells = batch.select(columns).to_pandas()
            cells.index = pd.Index(lines, name="line")
            if len(batch):
                next_line = int(lines[-1]) + 1
            blank = (cells == "").all(axis=1).to_numpy()
            if blank.any():  # a line with something in other columns is no blank one
                blank[blank] = (batch.filter(pa.array(blank)).to_pandas() == "").all(axis=1)
            # A line is only known to be over once the next block starts, so some may be noted ahead.
            due = [bad for bad in malformed if bad.line < next_line]
            malformed[:] = [bad for bad in malformed if bad.line >= next_line]
            yield Block(cells[~blank], due, min(self._raw.tell() / self._size, 1.0))
        if malformed:
            yield Block(pd.DataFrame(columns=columns), malformed, 1.0)
