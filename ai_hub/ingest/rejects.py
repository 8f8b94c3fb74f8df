"""Rejected rows with their reasons, as they were written: in a file, and in the database as quarantine."""

from __future__ import annotations

import csv
import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import IO, TYPE_CHECKING, Any, Self
from uuid import UUID

from psycopg.rows import class_row

from ai_hub.errors import BadInputError
from ai_hub.ingest.tables import original_cells

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import pandas as pd
    from psycopg import Connection

    from ai_hub.ingest.report import Report
    from ai_hub.ingest.tables import Malformed


CHUNK_ROWS = 1_000


@dataclass(frozen=True)
class QuarantinedRow:
    """One row of `quarantined_rows`."""

    table_name: str
    file_name: str
    line: int
    reason: str
    #: By column, or the whole line where it could not be split.
    cells: dict[str, str] | str
    quarantined_at: datetime

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "quarantined_at": self.quarantined_at.isoformat()}


class Quarantine:
    """Stores the rejected rows of one file; a repeated run of the same file adds none."""

    def __init__(
        self, connection: Connection[Any], tenant: str, table: str, file_name: str, columns: Mapping[str, str]
    ) -> None:
        """`columns` gives the input's column of each field."""
        self._connection = connection
        self._tenant = tenant
        self._table = table
        self._file = file_name
        self._fields = list(columns)
        self._columns = list(columns.values())
        self._rows: list[tuple[int, str, str]] = []

    def add(self, cells: pd.DataFrame, reasons: pd.Series[str]) -> None:
        """Keep these rows with their reasons."""
        lines, rows = original_cells(cells, self._fields)
        for line, reason, row in zip(lines, reasons, rows, strict=True):
            texts = ("" if cell is None else str(cell) for cell in row)
            self._append(int(line), reason, dict(zip(self._columns, texts, strict=True)))

    def add_malformed(self, lines: Iterable[Malformed]) -> None:
        """Keep lines that do not have the header's number of fields."""
        for bad in lines:
            self._append(bad.line, bad.reason, bad.text)

    def flush(self) -> None:
        """Write buffered rows, in one short transaction."""
        if not self._rows:
            return
        lines, reasons, cells = zip(*self._rows, strict=True)
        self._connection.execute(
            "INSERT INTO quarantined_rows"
            " (tenant_id, table_name, file_name, fingerprint, line, reason, cells)"
            " SELECT %s, %s, %s, new_rows.* FROM"
            " unnest(%s::uuid[], %s::bigint[], %s::text[], %s::jsonb[]) AS new_rows ON CONFLICT DO NOTHING",
            [
                self._tenant,
                self._table,
                self._file,
                [self._fingerprint(line, cell) for line, _, cell in self._rows],
                list(lines),
                list(reasons),
                list(cells),
            ],
        )
        self._rows.clear()

    def _append(self, line: int, reason: str, cells: dict[str, str] | str) -> None:
        # PostgreSQL's text cannot hold this character.
        text = json.dumps(cells).replace("\\u0000", "\\ufffd")
        self._rows.append((line, reason, text))
        if len(self._rows) >= CHUNK_ROWS:
            self.flush()

    def _fingerprint(self, line: int, cells: str) -> UUID:
        identity = json.dumps([self._table, self._file, line, cells])
        return UUID(bytes=blake2b(identity.encode(), digest_size=16).digest())


def find_quarantined(
    connection: Connection[Any], tenant: str, file_name: str | None = None
) -> Iterator[QuarantinedRow]:
    """A tenant's quarantined rows, by file and line."""
    after: tuple[str, int, UUID] = ("", -1, UUID(int=0))
    while True:
        with connection.cursor(row_factory=class_row(_Keyed)) as cursor:
            page = cursor.execute(
                "SELECT fingerprint, table_name, file_name, line, reason, cells, quarantined_at"
                " FROM quarantined_rows WHERE tenant_id = %s AND (%s::text IS NULL OR file_name = %s)"
                " AND (file_name, line, fingerprint) > (%s, %s, %s)"
                " ORDER BY file_name, line, fingerprint LIMIT %s",
                [tenant, file_name, file_name, *after, CHUNK_ROWS],
            ).fetchall()
        for row in page:
            yield QuarantinedRow(
                row.table_name, row.file_name, row.line, row.reason, row.cells, row.quarantined_at
            )
        if len(page) < CHUNK_ROWS:
            return
        after = (page[-1].file_name, page[-1].line, page[-1].fingerprint)


def summarize_quarantine(
    connection: Connection[Any], tenant: str, file_name: str | None = None
) -> list[tuple[str, str, int, datetime]]:
    """File, reason, number of rows and time of the last, by file."""
    return connection.execute(
        "SELECT file_name, reason, count(*), max(quarantined_at) FROM quarantined_rows"
        " WHERE tenant_id = %s AND (%s::text IS NULL OR file_name = %s) GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2",
        [tenant, file_name, file_name],
    ).fetchall()


def export_quarantine(
    connection: Connection[Any], tenant: str, path: Path, file_name: str | None = None
) -> int:
    """Write quarantined rows as a reject file, which can be corrected and ingested; returns their number.

    Raises:
        BadInputError: they come from files with different columns, or the file cannot be written.
    """
    headers = connection.execute(
        "SELECT DISTINCT table_name, ARRAY(SELECT jsonb_object_keys(cells) ORDER BY 1) FROM quarantined_rows"
        " WHERE tenant_id = %s AND (%s::text IS NULL OR file_name = %s) AND jsonb_typeof(cells) = 'object'",
        [tenant, file_name, file_name],
    ).fetchall()
    if len(headers) > 1:
        raise BadInputError(
            "The quarantined rows have different columns, so they cannot be one file.",
            hint="Export the rows of one file with --file NAME.",
        )
    columns = headers[0][1] if headers else []
    count = 0
    try:
        with path.open("w", newline="", encoding="utf-8") as text:
            writer = csv.writer(text)
            writer.writerow(["line", "reason", *columns, "row"])
            for row in find_quarantined(connection, tenant, file_name):
                raw_line = row.cells if isinstance(row.cells, str) else ""
                cells = row.cells if isinstance(row.cells, dict) else {}
                writer.writerow([row.line, row.reason, *(cells.get(name, "") for name in columns), raw_line])
                count += 1
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}.") from error
    return count


def clear_quarantine(connection: Connection[Any], tenant: str, file_name: str | None = None) -> int:
    """Delete quarantined rows; returns their number."""
    return connection.execute(
        "DELETE FROM quarantined_rows WHERE tenant_id = %s AND (%s::text IS NULL OR file_name = %s)",
        [tenant, file_name, file_name],
    ).rowcount


@dataclass(frozen=True)
class _Keyed(QuarantinedRow):
    fingerprint: UUID


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
