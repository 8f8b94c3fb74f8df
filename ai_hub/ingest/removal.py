"""Deletion of readings, and removal of assets, with everything derived from them."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql
from psycopg.types.json import Jsonb

from ai_hub.db import declared
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.ingest import assets
from ai_hub.ingest.checks import check

if TYPE_CHECKING:
    from psycopg import Connection

#: Readings deleted per transaction.
BATCH_ROWS: Final = 10_000
#: Tables with rows of one asset besides its readings, in the order of deletion.
_TABLES: Final = (
    *("weather_features", "register_readings", "data_findings", "forecasts", "forecast_runs"),
    *("forecast_scores", "forecast_scores_due", "import_hours", "served_features"),
    *(
        "covariates",
        "data_checks_due",
        "feature_changes",
        "declared_refresh_ranges",
        "declared_spans",
        "feature_demand",
        "asset_spans",
        "assets",
    ),
)
#: Which rows are the asset's, in tables without `asset_id`.
_CONDITIONS: Final = {
    "quarantined_rows": "cells ->> 'asset_id' = {asset}",
    # those of several assets stay, for the others
    "forecast_runs": "assets = ARRAY[{asset}]",
    "import_hours": "assets = ARRAY[{asset}]",
    # not where the name is that of a price zone, group or station of others as well
    "covariates": """zone = {asset} AND (zone = ANY (ARRAY(
        SELECT unnest(ARRAY[price_zone, "group", weather_station]) FROM assets
        WHERE tenant_id = {tenant} AND asset_id <> {asset}
    ))) IS NOT TRUE""",
}
_COUNT = """
SELECT asset_id, count(*), count(DISTINCT time_bucket(INTERVAL '1 hour', "timestamp"))
FROM (
    SELECT amounts.tenant_id, amounts.asset_id, amounts."timestamp"
    FROM timeseries_data AS amounts
    LEFT JOIN assets ON assets.tenant_id = amounts.tenant_id AND assets.asset_id = amounts.asset_id
    WHERE assets.reading IS DISTINCT FROM 'register'
    UNION ALL
    SELECT tenant_id, asset_id, "timestamp" FROM register_readings
) AS readings
WHERE tenant_id = %(tenant)s AND (%(assets)s::text[] IS NULL OR asset_id = ANY (%(assets)s))
    AND "timestamp" >= %(start)s AND "timestamp" < %(end)s
GROUP BY asset_id ORDER BY asset_id
"""
_ROWS = """
SELECT count(*) FROM ai_features_stored
WHERE tenant_id = %(tenant)s AND asset_id = ANY (%(assets)s) AND superseded_at IS NULL
    AND hour > %(start)s AND hour <= %(end)s::timestamptz + INTERVAL '24 hours'
"""
# times as text, because Python's end with the year 9999
_BATCH_END = """
SELECT max("timestamp")::text FROM (
    SELECT "timestamp" FROM {table}
    WHERE tenant_id = {tenant} AND asset_id = {asset} AND "timestamp" >= {start} AND "timestamp" < {end}
    ORDER BY "timestamp" LIMIT {limit}
) AS batch
"""
# literals, because with parameters the columnstore would decompress batches of other assets and times
_DELETE = """
DELETE FROM {table}
WHERE tenant_id = {tenant} AND asset_id = {asset} AND "timestamp" >= {start} AND "timestamp" <= {last}
"""
_CHECK_DUE = """
INSERT INTO data_checks_due AS due (tenant_id, asset_id, first_timestamp, last_timestamp)
SELECT {tenant}, {asset}, greatest({start}, TIMESTAMPTZ '1000-01-01Z'), {last}
WHERE {last} BETWEEN TIMESTAMPTZ '1000-01-01Z' AND TIMESTAMPTZ '9000-01-01Z'
ON CONFLICT (tenant_id, asset_id) DO UPDATE SET change_id = excluded.change_id,
    first_timestamp = least(due.first_timestamp, excluded.first_timestamp),
    last_timestamp = greatest(due.last_timestamp, excluded.last_timestamp)
"""
_UNLIMITED = "SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0"


@dataclass(frozen=True)
class Selection:
    """Readings of a tenant: of `assets` (None: all) in [start, end), which are unbounded if None."""

    tenant: str
    assets: Sequence[str] | None
    start: datetime | None = None
    end: datetime | None = None

    def values(self) -> dict[str, Any]:
        """Parameters for statements."""
        return {
            "tenant": self.tenant,
            "assets": None if self.assets is None else list(self.assets),
            "start": self.start or "-infinity",
            "end": self.end or "infinity",
        }


@dataclass(frozen=True)
class Preview:
    """Counts of the rows to be deleted."""

    #: Number of readings and of their hours, by asset.
    readings: Mapping[str, tuple[int, int]]
    #: Rows by table.
    counts: Mapping[str, int]
    #: Paths of exports with the asset's rows, which are not deleted.
    exports: Sequence[str] = field(default=())


def preview_readings(connection: Connection[Any], selection: Selection) -> Preview:
    """Count what `delete_readings` would delete.

    Raises:
        BadInputError: the range is empty.
        NotFoundError: the tenant does not have one of the assets.
    """
    if selection.start and selection.end and selection.start >= selection.end:
        raise BadInputError("The range is empty: --from is not before --to.", hint="--to is not included.")
    for asset in selection.assets or ():
        _require(connection, selection.tenant, asset)
    values = selection.values()
    readings = {asset: (rows, hours) for asset, rows, hours in connection.execute(_COUNT.encode(), values)}
    (rows,) = _one(connection, _ROWS, values | {"assets": list(readings)})
    counts = {
        "readings": sum(count for count, _ in readings.values()),
        "hours": sum(hours for _, hours in readings.values()),
        "feature_rows": rows,
    }
    return Preview(readings, counts)


def delete_readings(connection: Connection[Any], selection: Selection, reason: str) -> Preview:
    """Delete readings in short transactions, then refresh features and findings; returns the counts.

    A repeated call resumes a killed one. The connection must be in autocommit mode.
    """
    _check_reason(reason)
    preview = preview_readings(connection, selection)
    _record(connection, ("readings", "started"), selection, reason, preview.counts)
    for asset in preview.readings:
        _delete(connection, selection, asset)
    refresh(dsn=_dsn(connection))
    # includes those of a killed call
    due_assets = connection.execute(
        "SELECT asset_id FROM data_checks_due WHERE tenant_id = %s", [selection.tenant]
    ).fetchall()
    check(connection, selection.tenant, [asset for (asset,) in due_assets])
    _record(connection, ("readings", "finished"), selection, reason, preview.counts)
    return preview


def preview_asset(connection: Connection[Any], tenant: str, asset: str) -> Preview:
    """Count what `remove_asset` would delete.

    Raises:
        NotFoundError: the tenant has no such asset.
        ConflictError: another asset takes its weather from it.
    """
    _require(connection, tenant, asset)
    users = connection.execute(
        "SELECT asset_id FROM assets WHERE tenant_id = %s AND weather_asset_id = %s AND asset_id <> %s"
        " ORDER BY asset_id LIMIT 5",
        [tenant, asset, asset],
    ).fetchall()
    if users:
        raise ConflictError(
            f"{asset} gives its weather to {', '.join(name for (name,) in users)}.",
            hint="Point them to another asset first: `ai-hub asset add ASSET --weather-from OTHER …`.",
        )
    counts = {
        table: _one(connection, _of_asset("SELECT count(*)", table), {"tenant": tenant, "asset": asset})[0]
        for table in ("timeseries_data", *_present(connection), "quarantined_rows")
    }
    exports = connection.execute(
        "SELECT storage_path FROM feature_exports WHERE tenant_id = %s AND status = 'completed'"
        " AND storage_path IS NOT NULL AND (asset_ids IS NULL OR %s = ANY (asset_ids)) ORDER BY created_at",
        [tenant, asset],
    ).fetchall()
    return Preview({}, counts, [path for (path,) in exports])


def remove_asset(connection: Connection[Any], tenant: str, asset: str, reason: str) -> Preview:
    """Remove an asset with all its rows; returns the counts.

    A repeated call resumes a killed one, as the asset's own row is deleted last. The connection must be in
    autocommit mode.
    """
    _check_reason(reason)
    preview = preview_asset(connection, tenant, asset)
    selection = Selection(tenant, [asset])
    _record(connection, ("asset", "started"), selection, reason, preview.counts)
    _delete(connection, selection, asset)
    refresh(dsn=_dsn(connection))
    for table in ("quarantined_rows", *_present(connection)):
        with connection.transaction():
            connection.execute(_UNLIMITED)
            statement = sql.SQL(_of_asset("DELETE", table)).format(
                tenant=sql.Literal(tenant), asset=sql.Literal(asset)
            )
            connection.execute(statement)
    _record(connection, ("asset", "finished"), selection, reason, preview.counts)
    return preview


def delete_all_readings(connection: Connection[Any], tenant: str, asset: str) -> None:
    """Delete every reading of an asset in short transactions; the caller refreshes features and findings."""
    _delete(connection, Selection(tenant, [asset]), asset)


def was_removed(connection: Connection[Any], tenant: str, asset: str) -> bool:
    """Whether an asset of this id was removed before."""
    row = connection.execute(
        "SELECT FROM removals WHERE tenant_id = %s AND kind = 'asset' AND asset_ids = ARRAY[%s] LIMIT 1",
        [tenant, asset],
    ).fetchone()
    return row is not None


def history(connection: Connection[Any], tenant: str) -> list[dict[str, Any]]:
    """Removals of a tenant, newest first, without those of a former tenant of the same name."""
    rows = connection.execute(
        "SELECT noted_at, kind, step, asset_ids, start_time::text, end_time::text, removed_by, reason, counts"
        " FROM removals WHERE tenant_id = %(tenant)s AND removal_id > coalesce((SELECT max(removal_id)"
        " FROM removals WHERE tenant_id = %(tenant)s AND kind = 'tenant' AND step = 'finished'), 0)"
        " ORDER BY removal_id DESC",
        {"tenant": tenant},
    ).fetchall()
    names = ("at", "kind", "step", "assets", "from", "to", "by", "reason", "counts")
    return [dict(zip(names, (row[0].isoformat(), *row[1:]), strict=True)) for row in rows]


def _delete(connection: Connection[Any], selection: Selection, asset: str) -> None:
    """Delete an asset's readings; of a register its `register_readings`: a trigger deletes the amounts."""
    values = selection.values()
    start: Any = values["start"]
    is_register = connection.execute(
        "SELECT FROM assets WHERE tenant_id = %s AND asset_id = %s AND reading = 'register'",
        [selection.tenant, asset],
    ).fetchone()
    parameters = {
        "table": sql.Identifier("register_readings" if is_register is not None else "timeseries_data"),
        "tenant": sql.Literal(selection.tenant),
        "asset": sql.Literal(asset),
        "end": sql.SQL("{}::timestamptz").format(sql.Literal(values["end"])),
        "limit": sql.Literal(BATCH_ROWS),
    }
    while True:
        position = sql.SQL("{}::timestamptz").format(sql.Literal(start))
        with connection.transaction():
            row = connection.execute(sql.SQL(_BATCH_END).format(start=position, **parameters)).fetchone()
            if row is None or row[0] is None:
                return
            last = sql.SQL("{}::timestamptz").format(sql.Literal(row[0]))
            connection.execute(_UNLIMITED)
            for statement in (_DELETE, _CHECK_DUE):
                connection.execute(sql.SQL(statement).format(start=position, last=last, **parameters))
        start = row[0]


def _of_asset(verb: str, table: str) -> str:
    brackets = "%({})s" if verb.startswith("SELECT") else "{{{}}}"
    tenant, asset = brackets.format("tenant"), brackets.format("asset")
    condition = _CONDITIONS.get(table, "asset_id = {asset}").format(tenant=tenant, asset=asset)
    return f"{verb} FROM {table} WHERE tenant_id = {tenant} AND {condition}"


def _present(connection: Connection[Any]) -> list[str]:
    there = [
        table
        for table in _TABLES
        if connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f"public.{table}"]).fetchone() == (True,)
    ]
    return [*declared.tables(connection), *there]


def _require(connection: Connection[Any], tenant: str, asset: str) -> None:
    row = connection.execute(
        "SELECT FROM assets WHERE tenant_id = %(t)s AND asset_id = %(a)s"
        " UNION ALL SELECT FROM asset_spans WHERE tenant_id = %(t)s AND asset_id = %(a)s LIMIT 1",
        {"t": tenant, "a": asset},
    ).fetchone()
    if row is None:
        similar = get_close_matches(asset, list(assets.find_all(connection, tenant)[0]), n=1)
        raise NotFoundError(
            f"Tenant {tenant} has no asset {asset}.",
            hint=f"Did you mean {similar[0]}?" if similar else "`ai-hub asset list` shows those it has.",
        )


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise BadInputError("--reason is empty.", hint="State why, for those who look for the data later.")


def _record(
    connection: Connection[Any],
    what: tuple[str, str],
    selection: Selection,
    reason: str,
    counts: Mapping[str, int],
) -> None:
    values = selection.values()
    connection.execute(
        "INSERT INTO removals"
        " (tenant_id, kind, step, asset_ids, start_time, end_time, reason, removed_by, counts)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            *(selection.tenant, *what, values["assets"], values["start"], values["end"]),
            *(reason.strip(), getpass.getuser(), Jsonb(dict(counts))),
        ],
    )


def _one(connection: Connection[Any], query: str, values: Mapping[str, Any]) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None  # noqa: S101  # a count
    return tuple(row)


def _dsn(connection: Connection[Any]) -> str:
    info = connection.info
    return f"{info.dsn} password='{info.password}'" if info.password else info.dsn
