"""Sheets of Excel and OpenDocument files as rows of cells."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import IO, TYPE_CHECKING, Any

import pandas as pd
import python_calamine

from ai_hub.errors import BadInputError
from ai_hub.ingest.blocks import BLOCK_ROWS, Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ai_hub.ingest.formats import FileFormat

DAMAGED = (python_calamine.CalamineError, python_calamine.ZipError, python_calamine.XmlError)
_MOST_LINES = 60
_DAY_SECONDS = 86_400


class ExcelSource:
    """One sheet; it is held in memory, as its format allows no more than a million rows."""

    delimiter = None
    meters: list[str] | None = None

    def __init__(
        self, raw: IO[bytes], form: FileFormat, recognises: Callable[[Sequence[str]], bool] | None
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
            line = next((index for index, row in enumerate(texts) if recognises and recognises(row)), first)
            if line:
                self.notes.append(f"header in line {line + 1}, {line} line(s) before it skipped (--header)")
        width = len(rows[0])
        self.columns = [str(i + 1) for i in range(width)] if line < 0 else texts[line]
        self.preamble = texts[: max(line, 0)]
        self._rows = rows[line + 1 :]
        self._first_line = line + 2

    def blocks(self, columns: list[str]) -> Iterator[Block]:
        """Rows that are not blank, with their line in the sheet."""
        places = [self.columns.index(name) for name in columns]
        for start in range(0, len(self._rows), BLOCK_ROWS):
            rows = self._rows[start : start + BLOCK_ROWS]
            lines = [self._first_line + start + i for i, row in enumerate(rows) if any(c != "" for c in row)]
            kept = [[_plain(row[i]) for i in places] for row in rows if any(cell != "" for cell in row)]
            cells = pd.DataFrame(kept, columns=columns, index=pd.Index(lines, name="line"), dtype=object)
            yield Block(cells, [], min((start + len(rows)) / max(len(self._rows), 1), 1.0))


def _plain(cell: Any) -> Any:
    """Dates and times as text, to the second: a sheet holds them as fractions of days."""
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
