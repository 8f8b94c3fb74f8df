"""Idempotent writes of typed rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from uuid import UUID

    from psycopg import Connection

# large enough to hide the round trip, small enough that other writers wait well under a second
CHUNK_ROWS = 10_000

_TYPES = {
    **dict.fromkeys(("asset_id", "series", "zone"), "text"),
    **dict.fromkeys(("timestamp", "available_at"), "bigint"),
}


@dataclass(frozen=True)
class Written:
    """Counts of one chunk."""

    inserted: int
    updated: int
    unchanged: int


def upsert(
    connection: Connection[Any],
    table: str,
    tenant: str,
    rows: pd.DataFrame,
    *,
    key: tuple[str, ...],
    measures: Mapping[str, str],
    note_checks: bool,
    import_id: UUID,
) -> Iterator[Written]:
    """Insert new rows and update changed ones, in one short transaction per chunk; yields the counts of each.

    With `note_checks` they are of assets, and the same statement records the changed time ranges in
    `data_checks_due`, and in `import_hours` that they are of this import.

    Rows are sent as arrays rather than by COPY: the embedded server has no COPY FROM STDIN, and an upsert
    needs a statement anyway. The connection must be in autocommit mode, and keys must be unique in `rows`.
    """
    types = {name: _TYPES[name] for name in key} | dict(measures)
    statement = _statement(table, key, types, note_checks=note_checks)
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows.iloc[start : start + CHUNK_ROWS]
        parameters: dict[str, Any] = {"tenant": tenant, "import": import_id}
        for name, kind in types.items():
            column = chunk[name]
            if kind == "text":
                column, parameters[f"{name} texts"] = _coded(column)
            parameters[name] = _array(column)
        row = connection.execute(statement, parameters).fetchone()
        inserted, updated = row if row is not None else (0, 0)
        yield Written(inserted, updated, len(chunk) - inserted - updated)


def _coded(column: pd.Series[Any]) -> tuple[pd.Series[Any], list[str]]:
    """The place of each text, from 1, among the distinct ones; none for a missing one."""
    codes, texts = pd.factorize(column)
    return pd.Series(codes + 1, dtype="Int64").mask(codes < 0), texts.tolist()


def _array(column: pd.Series[Any]) -> str:
    """An array of numbers as PostgreSQL writes it: psycopg takes ten times as long for a list."""
    if column.dtype.kind == "M":
        missing = column.isna()
        column = column.astype("int64")
        column = column.astype("Int64").mask(missing) if missing.any() else column
    values = (
        column.tolist()
        if column.notna().all()
        else column.astype(object).where(column.notna(), "NULL").tolist()
    )
    return f"{{{','.join(map(str, values))}}}"


_NOTE = sql.SQL(
    ", due AS ("
    " INSERT INTO data_checks_due AS due (tenant_id, asset_id, first_timestamp, last_timestamp)"
    ' SELECT %(tenant)s, asset_id, min("timestamp"), max("timestamp") FROM written'
    " GROUP BY asset_id ORDER BY asset_id"
    " ON CONFLICT (tenant_id, asset_id) DO UPDATE SET change_id = excluded.change_id,"
    " first_timestamp = least(due.first_timestamp, excluded.first_timestamp),"
    " last_timestamp = greatest(due.last_timestamp, excluded.last_timestamp))"
    # assets with the same hours, as of a file of one hour of all, are one row
    ", noted AS ("
    " INSERT INTO import_hours (import_id, tenant_id, assets, hours, written_at)"
    " SELECT %(import)s, %(tenant)s, array_agg(asset_id ORDER BY asset_id), hours, now()"
    " FROM (SELECT asset_id, range_agg(tstzrange(hour, hour + INTERVAL '1 hour')) AS hours"
    " FROM written, time_bucket(INTERVAL '1 hour', \"timestamp\") AS hour GROUP BY asset_id) AS of_asset"
    " GROUP BY hours)"
)


#: Of a reading that said when it was available, a new value was not available then.
_CORRECTED_NOW = sql.SQL(
    "available_at = CASE"
    " WHEN stored.available_at IS NOT NULL AND stored.value IS DISTINCT FROM excluded.value"
    " THEN greatest(stored.available_at, excluded.ingested_at) ELSE stored.available_at END"
)


def _new_value(name: str) -> sql.Composable:
    """The new value of a column; a stored interval is kept where the file has none."""
    offered = sql.Identifier("excluded", name)
    if name != "interval_seconds":
        return offered
    return sql.SQL("coalesce({}, {})").format(offered, sql.Identifier("stored", name))


def _field(name: str, kind: str) -> sql.Composable:
    column = sql.Identifier(name)
    if kind == "text":
        return sql.SQL("({}::text[])[{}]").format(sql.Placeholder(f"{name} texts"), column)
    if _TYPES.get(name) == "bigint":
        return sql.SQL("'epoch'::timestamptz + {} * interval '1 microsecond'").format(column)
    return column


def _statement(
    table: str, key: tuple[str, ...], types: Mapping[str, str], *, note_checks: bool
) -> sql.Composed:
    """The upsert of one table with columns of these types; `xmax = 0` is true for a new row."""
    measures = [name for name in types if name not in key]
    arrays = [
        sql.SQL("{}::{}[]").format(sql.Placeholder(name), sql.SQL("integer" if kind == "text" else kind))
        for name, kind in types.items()
    ]
    fields = [_field(name, kind) for name, kind in types.items()]
    comma = sql.SQL(", ")
    assignments: list[sql.Composable] = [
        sql.SQL("{} = {}").format(sql.Identifier(name), _new_value(name)) for name in measures
    ]
    if note_checks and "available_at" not in types:
        assignments.append(_CORRECTED_NOW)
    return sql.SQL(
        "WITH written AS ("
        " INSERT INTO {table} AS stored (tenant_id, {names})"
        " SELECT %(tenant)s, {fields} FROM unnest({arrays}) AS new_rows ({names})"
        " ON CONFLICT (tenant_id, {key}) DO UPDATE SET {assignments}, ingested_at = excluded.ingested_at"
        " WHERE ({stored}) IS DISTINCT FROM ({offered})"
        " RETURNING (stored.xmax = 0) AS is_new, {keys})"
        "{note}"
        " SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM written"
    ).format(
        table=sql.Identifier(table),
        note=_NOTE if note_checks else sql.SQL(""),
        names=comma.join(map(sql.Identifier, types)),
        fields=comma.join(fields),
        arrays=comma.join(arrays),
        key=comma.join(map(sql.Identifier, key)),
        keys=comma.join(sql.Identifier("stored", name) for name in key),
        assignments=comma.join(assignments),
        stored=comma.join(sql.Identifier("stored", name) for name in measures),
        offered=comma.join(map(_new_value, measures)),
    )
