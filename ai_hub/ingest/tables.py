"""Sources of text, Parquet and spreadsheet files: blocks of rows under the file's own column names."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import python_calamine

from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ai_hub.ingest.options import FileFormat

# about 100,000 rows of a narrow CSV: large enough for columnar work, small enough for several copies in
# memory
BLOCK_BYTES = 4 << 20
BLOCK_ROWS = 100_000


@dataclass(frozen=True)
class Malformed:
    """A line that cannot be split into the columns."""

    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Block:
    """Consecutive rows under the file's own column names, indexed by line (Parquet: row) number.

    Where one line has several readings, the index numbers the readings and the column `line` has the line.
    """

    cells: pd.DataFrame
    malformed: list[Malformed]
    #: Share of the file read so far, 0 to 1.
    fraction: float


class Source(Protocol):
    """An open file; `blocks` may be called several times."""

    columns: list[str]
    #: Lines before the header, split into fields.
    preamble: list[list[str]]
    #: What was detected, for the report.
    notes: list[str]

    @property
    def delimiter(self) -> str | None:
        """Character between fields; None where the format has none."""

    @property
    def meters(self) -> list[str] | None:
        """Meters of the file, where its format lists them."""

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """Yield the file's rows with these columns."""


def original(name: str) -> str:
    """Name of the column of a field's original cells, where reading changed them."""
    return f"{name} as written"


def original_cells(
    cells: pd.DataFrame, fields: Sequence[str]
) -> tuple[Iterable[int], Iterable[tuple[Any, ...]]]:
    """Lines and original cells of rows."""
    originals = {
        name: cells[original(name)].where(cells[original(name)].notna(), cells[name])
        if original(name) in cells
        else cells[name]
        for name in fields
    }
    lines = cells["line"] if "line" in cells and "line" not in fields else cells.index
    return lines, zip(*originals.values(), strict=True)


#: In order of preference where two are equally frequent: a comma may be part of numbers and names.
DELIMITERS = "\t;|,"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Number of first lines that may be the header.
_MOST_LINES = 60
#: Non-letters in texts about energy; other ones show that the file is not Windows-1252.
_SIGNS = "°²³€µ§ß—“”·±½\u00a0£©®\u2013\u2018\u2019\u00b4\u00d7"


@dataclass(frozen=True)
class Head:
    """Format of a text file, detected from its beginning."""

    encoding: str
    delimiter: str
    #: Lines before the first row, with the header.
    skipped: int
    columns: list[str]
    #: Lines before the header, split into fields.
    preamble: list[list[str]]
    notes: list[str]
    #: Whether anything follows the header.
    has_rows: bool


def detect_encoding(head: bytes) -> tuple[str, bool]:
    """Encoding of a text by its first bytes, and whether it is a guess.

    Raises:
        BadInputError: the text is neither Unicode nor Windows-1252.
    """
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name, False
    for first, name in ((0, "utf-16-be"), (1, "utf-16-le")):
        high = head[first:512:2]  # zero in the letters of most alphabets
        if high.count(0) * 2 > len(high):
            return name, True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        try:
            text = head.decode("cp1252")
        except UnicodeDecodeError:
            text = "\0"
        if all(char.isascii() or char.isalpha() or char in _SIGNS for char in text) and "\0" not in text:
            return "cp1252", True
        raise BadInputError(
            f"The file cannot be read as UTF-8 or Windows-1252: byte {head[error.start]:#x}.",
            hint="Say its encoding, for example --encoding cp850 or --encoding latin-1.",
        ) from error
    return "utf-8", False


def read_head(
    head: bytes, form: FileFormat, is_header: Callable[[Sequence[str]], bool] | None, *, complete: bool
) -> Head:
    """Detect the format of a text file.

    Args:
        head: Its first bytes.
        form: Options; unset ones are detected.
        is_header: Whether these fields are column names; without it the first line is the header.
        complete: Whether `head` is the whole file.

    Raises:
        BadInputError: the file is empty, lacks the header or does not have the encoding.
    """
    encoding, guessed = (form.encoding, False) if form.encoding else detect_encoding(head)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=complete)
    except (UnicodeError, LookupError) as error:
        raise BadInputError(
            f"The file cannot be read as {encoding}: {error}.", hint="Say its encoding with --encoding."
        ) from error
    lines = re.split("\r\n|\r|\n", text.removeprefix("\ufeff"))
    lines = lines if lines[-1] else lines[:-1]
    if not any(line.strip() for line in lines):
        raise BadInputError("The file is empty.", hint="A CSV file starts with a line of column names.")
    notes = [f"encoding {encoding}, because it is not UTF-8 (--encoding)"] if guessed else []
    if form.header == 0:
        row = next(index for index, line in enumerate(lines) if line.strip())
        delimiter = form.delimiter or _commonest(lines[row])
        names = [str(number) for number, _ in enumerate(_split(lines[row], delimiter), 1)]
        return Head(encoding, delimiter, row, names, [], notes, has_rows=True)
    line, delimiter = _header(lines, form, is_header)
    if line and form.header is None:
        notes.append(f"header in line {line + 1}, {line} line(s) before it skipped (--header)")
    preamble = [_split(text, delimiter) for text in lines[:line]]
    has_rows = len(lines) > line + 1 or not complete
    return Head(encoding, delimiter, line + 1, _split(lines[line], delimiter), preamble, notes, has_rows)


def _header(
    lines: list[str], form: FileFormat, is_header: Callable[[Sequence[str]], bool] | None
) -> tuple[int, str]:
    """Index of the header among the lines, and the delimiter."""
    if form.header is not None:
        if form.header > len(lines):
            raise BadInputError(f"The file has no line {form.header}.", hint="Correct --header.")
        line = form.header - 1
        return line, form.delimiter or _commonest(lines[line])
    candidates: list[tuple[int, str]] = []
    for line, text in enumerate(lines[:_MOST_LINES] if is_header else ()):
        for delimiter in form.delimiter or sorted(DELIMITERS, key=text.count, reverse=True):
            names = _split(text, delimiter)
            following = next((text for text in lines[line + 1 :] if text.strip()), None)
            fits = following is None or len(_split(following, delimiter)) == len(names)
            if len(names) > 1 and is_header is not None and is_header(names):
                if fits:
                    return line, delimiter
                candidates.append((line, delimiter))
    if candidates:
        return candidates[0]
    first = next(index for index, text in enumerate(lines) if text.strip())
    return first, form.delimiter or _commonest(lines[first])


def _commonest(line: str) -> str:
    return max(DELIMITERS, key=line.count)


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


HEAD_BYTES = 1 << 20


def unpacked(raw: IO[bytes], name: str) -> IO[bytes]:
    """A file's content, decompressed where its name ends in .gz."""
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if name.endswith(".gz") else raw


class ParquetSource:
    """A Parquet file; rows are counted from 1."""

    delimiter = None
    meters: list[str] | None = None

    def __init__(self, raw: IO[bytes]) -> None:
        self._file = pq.ParquetFile(raw)
        self.columns: list[str] = list(self._file.schema_arrow.names)
        self.preamble: list[list[str]] = []
        self.notes: list[str] = []

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """The file's rows; dictionary columns as their values."""
        total = max(self._file.metadata.num_rows, 1)
        rows_read = 0
        for batch in self._file.iter_batches(batch_size=BLOCK_ROWS, columns=columns):
            # pandas metadata would turn a column into the index
            cells = batch.to_pandas(ignore_metadata=True)
            coded = [name for name, dtype in cells.dtypes.items() if isinstance(dtype, pd.CategoricalDtype)]
            cells = cells.astype(dict.fromkeys(coded, object))
            cells.index = pd.RangeIndex(rows_read + 1, rows_read + 1 + len(cells), name="line")
            rows_read += len(cells)
            yield Block(cells, [], rows_read / total)


class CsvSource:
    """A text file. Every cell remains text, so that a rejected row is written unchanged."""

    meters: list[str] | None = None

    def __init__(
        self,
        path: Path,
        stream: IO[bytes],
        form: FileFormat,
        is_header: Callable[[Sequence[str]], bool] | None,
        size: int,
    ) -> None:
        self._path = path
        self._size = max(size, 1)
        start = stream.read(HEAD_BYTES)
        self._head = read_head(start, form, is_header, complete=len(start) < HEAD_BYTES)
        self.columns = self._head.columns
        self.delimiter: str | None = self._head.delimiter
        self.preamble = self._head.preamble
        self.notes = self._head.notes

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """Rows that are not blank, by line, and malformed lines."""
        if not self._head.has_rows:
            return
        # opened anew for every pass: a pass that ended early still reads ahead in its thread,
        # and would consume rows of the next pass
        with self._path.open("rb") as raw:
            yield from self._blocks(raw, columns)

    def _blocks(self, raw: IO[bytes], columns: list[str]) -> Iterator[Block]:
        malformed: list[Malformed] = []

        def note(row: Any) -> str:
            reason = f"has {row.actual_columns} fields instead of {row.expected_columns}"
            malformed.append(Malformed(row.number, reason, row.text))
            return "skip"

        # numbers as column names, because the file's own names may occur twice
        names = [str(i) for i, _ in enumerate(self.columns)]
        reader = pacsv.open_csv(
            unpacked(raw, self._path.name.casefold()),
            # only a single-threaded reader has the line numbers of malformed rows
            read_options=pacsv.ReadOptions(
                use_threads=False,
                block_size=BLOCK_BYTES,
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
            if blank.any():  # a line with values in other columns is not blank
                blank[blank] = (batch.filter(pa.array(blank)).to_pandas() == "").all(axis=1)
            # the reader is one line ahead of the block, so some malformed lines belong to the next block
            of_block = [bad for bad in malformed if bad.line < next_line]
            malformed[:] = [bad for bad in malformed if bad.line >= next_line]
            yield Block(cells[~blank], of_block, min(raw.tell() / self._size, 1.0))
        if malformed:
            yield Block(pd.DataFrame(columns=columns), malformed, 1.0)


DAMAGED_SPREADSHEET = (python_calamine.CalamineError, python_calamine.ZipError, python_calamine.XmlError)
_DAY_SECONDS = 86_400


class ExcelSource:
    """One sheet, in memory: the format is limited to about a million rows."""

    delimiter = None
    meters: list[str] | None = None

    def __init__(
        self, raw: IO[bytes], form: FileFormat, is_header: Callable[[Sequence[str]], bool] | None
    ) -> None:
        book = python_calamine.CalamineWorkbook.from_filelike(raw)
        names = book.sheet_names
        if form.sheet is not None and form.sheet not in names:
            raise BadInputError(f"There is no sheet {form.sheet!r}.", hint=f"Sheets: {', '.join(names)}.")
        self.notes: list[str] = []
        if form.sheet is None and len(names) > 1:
            self.notes.append(f"sheet {names[0]!r}, the first of {', '.join(names)} (--sheet)")
        rows = book.get_sheet_by_name(form.sheet or names[0]).to_python(skip_empty_area=False)
        texts = [[str(_plain(cell)) for cell in row] for row in rows[:_MOST_LINES]]
        if not any(any(row) for row in texts):
            raise BadInputError("The sheet is empty.", hint="Say which one with --sheet.")
        if form.header is not None:
            line = form.header - 1
        else:
            first = next(index for index, row in enumerate(texts) if any(row))
            line = next((index for index, row in enumerate(texts) if is_header and is_header(row)), first)
            if line:
                self.notes.append(f"header in line {line + 1}, {line} line(s) before it skipped (--header)")
        width = len(rows[0])
        self.columns = [str(i + 1) for i in range(width)] if line < 0 else texts[line]
        self.preamble = texts[: max(line, 0)]
        self._rows = rows[line + 1 :]
        self._first_line = line + 2

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """Rows that are not blank, by their line in the sheet."""
        positions = [self.columns.index(name) for name in columns]
        for start in range(0, len(self._rows), BLOCK_ROWS):
            rows = self._rows[start : start + BLOCK_ROWS]
            lines = [self._first_line + start + i for i, row in enumerate(rows) if any(c != "" for c in row)]
            values = [[_plain(row[i]) for i in positions] for row in rows if any(cell != "" for cell in row)]
            cells = pd.DataFrame(values, columns=columns, index=pd.Index(lines, name="line"), dtype=object)
            yield Block(cells, [], min((start + len(rows)) / max(len(self._rows), 1), 1.0))


def _plain(cell: Any) -> Any:
    """Dates and times as text, rounded to the second: a sheet stores them as fractions of days."""
    if isinstance(cell, datetime):
        return (cell + timedelta(milliseconds=500)).replace(microsecond=0).isoformat(sep=" ")
    if isinstance(cell, time):
        return (datetime.combine(date(2000, 1, 1), cell) + timedelta(milliseconds=500)).strftime("%H:%M:%S")
    if isinstance(cell, timedelta):
        seconds = round(cell.total_seconds())
        if 0 <= seconds <= _DAY_SECONDS:
            return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    if isinstance(cell, date):
        return cell.isoformat()
    return cell
