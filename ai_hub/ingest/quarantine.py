"""Rejected rows in the database, so that they outlast the machine the file was on."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from uuid import UUID

from psycopg.rows import class_row

from ai_hub.errors import BadInputError
from ai_hub.ingest.tables import original_cells

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    from psycopg import Connection

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


def find(connection: Connection[Any], tenant: str, file_name: str | None = None) -> Iterator[QuarantinedRow]:
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


def summary(
    connection: Connection[Any], tenant: str, file_name: str | None = None
) -> list[tuple[str, str, int, datetime]]:
    """File, reason, number of rows and time of the last, by file."""
    return connection.execute(
        "SELECT file_name, reason, count(*), max(quarantined_at) FROM quarantined_rows"
        " WHERE tenant_id = %s AND (%s::text IS NULL OR file_name = %s) GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2",
        [tenant, file_name, file_name],
    ).fetchall()


def export(connection: Connection[Any], tenant: str, path: Path, file_name: str | None = None) -> int:
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
            for row in find(connection, tenant, file_name):
                raw_line = row.cells if isinstance(row.cells, str) else ""
                cells = row.cells if isinstance(row.cells, dict) else {}
                writer.writerow([row.line, row.reason, *(cells.get(name, "") for name in columns), raw_line])
                count += 1
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}.") from error
    return count


def clear(connection: Connection[Any], tenant: str, file_name: str | None = None) -> int:
    """Delete quarantined rows; returns their number."""
    return connection.execute(
        "DELETE FROM quarantined_rows WHERE tenant_id = %s AND (%s::text IS NULL OR file_name = %s)",
        [tenant, file_name, file_name],
    ).rowcount


@dataclass(frozen=True)
class _Keyed(QuarantinedRow):
    fingerprint: UUID
