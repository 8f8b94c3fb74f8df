"""What could not be ingested is kept with the reason, as it was written: in a file and in the database."""

from __future__ import annotations

import csv
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Self

from ai_hub.errors import BadInputError
from ai_hub.ingest.quarantine import Quarantine
from ai_hub.ingest.tables import original_cells

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import pandas as pd

    from ai_hub.ingest.report import Report
    from ai_hub.ingest.tables import Malformed

#: Number of rows that a dry run shows.
SAMPLE = 10


class RejectFile:
    """A CSV file of rejected rows; it appears under its name at the end of the run, if there are any.

    Its columns are `line`, `reason`, those of the input, and `row` for a line that could not be split. Once
    corrected it can be ingested like the original.
    """

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        """`columns` gives the input's column of each field."""
        self.path = path
        self.reasons: Counter[str] = Counter()
        self._fields = list(columns)
        self._columns = list(columns.values())
        self._part = path.with_name(path.name + ".part")
        self._file: IO[str] | None = None
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        self._file.close()
        if kind is None:
            self._part.replace(self.path)
        else:
            with suppress(FileNotFoundError):
                self._part.unlink()

    def add(self, cells: pd.DataFrame, reasons: pd.Series[str]) -> None:
        """Keep these rows with their reasons."""
        lines, rows = original_cells(cells, self._fields)
        self._write((line, reason, *row, "") for line, reason, row in zip(lines, reasons, rows, strict=True))
        self.reasons.update(reasons.tolist())

    def add_malformed(self, lines: Iterable[Malformed]) -> None:
        """Keep lines that do not have the header's number of fields."""
        for bad in lines:
            self._write([(bad.line, bad.reason, *[""] * len(self._columns), bad.text)])
            self.reasons[bad.reason] += 1

    def _write(self, rows: Iterable[Sequence[Any]]) -> None:
        if self._file is None:
            try:
                self._file = self._part.open("w", newline="", encoding="utf-8")
            except OSError as error:
                raise BadInputError(
                    f"Rejected rows cannot be written to {self.path}: {error.strerror}.",
                    hint="Name another place with --reject-file and run it again; rows stored so far stay.",
                ) from error
            self._writer = csv.writer(self._file)
            self._writer.writerow(["line", "reason", *self._columns, "row"])
        self._writer.writerows(rows)


@dataclass(frozen=True)
class Rejects:
    """Writes rejected rows to the file and to the quarantine."""

    file: RejectFile
    quarantine: Quarantine

    def add(self, cells: pd.DataFrame, reasons: pd.Series[str]) -> None:
        """Keep these rows with their reasons."""
        self.file.add(cells, reasons)
        self.quarantine.add(cells, reasons)

    def add_malformed(self, lines: Sequence[Malformed]) -> None:
        """Keep lines that do not have the header's number of fields."""
        self.file.add_malformed(lines)
        self.quarantine.add_malformed(lines)

    def flush(self) -> None:
        """Write buffered rows to the database."""
        self.quarantine.flush()

    def note_in(self, report: Report) -> None:
        """Set the counts of rejected rows and their file in the report."""
        report.reasons = dict(self.file.reasons.most_common())
        report.reject_file = str(self.file.path) if self.file.reasons else None


class RejectsSample:
    """Counts the rejected rows of a dry run by reason and keeps the first ones."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        """`fields` gives the input's column of each field."""
        self._fields = fields
        self._reasons: Counter[str] = Counter()
        #: Line, reason and cells as text.
        self.first: list[tuple[int, str, str]] = []

    def add(self, cells: pd.DataFrame, reasons: pd.Series[str]) -> None:
        """Count these rows by reason."""
        self._reasons.update(reasons.tolist())
        lines, rows = original_cells(cells.head(SAMPLE), list(self._fields))
        for line, reason, row in zip(lines, reasons, rows, strict=False):
            shown = ", ".join(
                f"{column}={cell}" for column, cell in zip(self._fields.values(), row, strict=True)
            )
            self._keep(int(line), reason, shown)

    def add_malformed(self, lines: Sequence[Malformed]) -> None:
        """Count malformed lines."""
        self._reasons.update(bad.reason for bad in lines)
        for bad in lines[:SAMPLE]:
            self._keep(bad.line, bad.reason, bad.text[:200])

    def _keep(self, line: int, reason: str, text: str) -> None:
        if len(self.first) < SAMPLE:
            self.first.append((line, reason, text))

    def flush(self) -> None:
        """Nothing is written."""

    def note_in(self, report: Report) -> None:
        """Set the counts of rejected rows in the report."""
        report.reasons = dict(self._reasons.most_common())
