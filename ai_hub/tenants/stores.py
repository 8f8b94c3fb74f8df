"""A tenant's rows in TimescaleDB, files of exports and keys in Redis: counted, and deleted."""

from __future__ import annotations

import getpass
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql
from psycopg.types.json import Jsonb

from ai_hub.access import sql_logins
from ai_hub.db import declared
from ai_hub.db.refresh import refresh
from ai_hub.db.retired import KEPT, REMOVED
from ai_hub.errors import NotFoundError
from ai_hub.exports.locations import tenant_location
from ai_hub.features.store import negative_pattern, online_client
from ai_hub.ingest import removal
from feast_plugins.online.writing import delete_of_value, keys_of_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from feast import FeatureStore
    from psycopg import Connection

    from ai_hub.exports.locations import Bucket
    from ai_hub.settings import Settings


#: Tables with rows of tenants, in the order of deletion, except `removals` and the logins. Those of assets
#: are last, so that a repeated removal finds the readings that a killed one left.
TABLES: Final = (
    *("timeseries_data", "register_readings", "jobs", "analyses", "weather_features"),
    *("covariates", "covariate_series"),
    *("forecasts", "forecast_runs", "forecast_scores", "forecast_scores_due", "model_findings"),
    *("retrain_requests", "retrain_policies"),
    *("data_findings", "data_checks_due", "quarantined_rows", "quality_policies", "import_hours", "imports"),
    "served_features",
    *(
        "backfill_files",
        "reading_bounds",
        "declared_refresh_ranges",
        "declared_spans",
        "feature_demand",
        "assets",
        "feature_changes",  # the end of a group's member is one
        "asset_spans",
    ),
)
_UNLIMITED: Final = "SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0"


def count_rows(connection: Connection[Any], tenant: str) -> dict[str, int]:
    """Number of rows by table, of valid `api_keys` and of `sql_logins`; zeros are omitted."""
    counts = {
        table: _count(connection, _ROWS.format(sql.Identifier(table)), tenant)
        for table in _present(connection)
    }
    counts["api_keys"] = _count(connection, sql.SQL(_KEYS), tenant)
    counts["sql_logins"] = _count(connection, _ROWS.format(sql.Identifier("sql_logins")), tenant)
    return {name: number for name, number in counts.items() if number}


def revoke_access(connection: Connection[Any], tenant: str, dsn: str) -> str:
    """Revoke every key and SQL login; keys of several tenants keep the others. Returns remaining steps."""
    with connection.transaction():
        connection.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE tenants = ARRAY[%s] AND revoked_at IS NULL",
            [tenant],
        )
        connection.execute(
            "UPDATE api_keys SET tenants = array_remove(tenants, %(tenant)s)"
            " WHERE tenants @> ARRAY[%(tenant)s] AND cardinality(tenants) > 1",
            {"tenant": tenant},
        )
    try:
        return sql_logins.revoke(tenant, dsn=dsn).left
    except NotFoundError:
        return ""


def delete_rows(connection: Connection[Any], tenant: str, dsn: str) -> None:
    """Delete every row. A repeated call resumes a killed one. The connection must be in autocommit mode."""
    assets = connection.execute(
        "SELECT asset_id FROM assets WHERE tenant_id = %(tenant)s"
        " UNION SELECT asset_id FROM asset_spans WHERE tenant_id = %(tenant)s ORDER BY 1",
        {"tenant": tenant},
    ).fetchall()
    for (asset,) in assets:
        removal.delete_all_readings(connection, tenant, asset)
    refresh(dsn=dsn)  # the aggregates follow
    for table in _present(connection):
        with connection.transaction():
            connection.execute(_UNLIMITED)
            # a literal lets the columnstore open the tenant's own batches only
            connection.execute(
                sql.SQL("DELETE FROM {} WHERE tenant_id = {}").format(
                    sql.Identifier(table), sql.Literal(tenant)
                )
            )


def record_step(
    connection: Connection[Any], tenant: str, step: str, reason: str, counts: Mapping[str, int], *, kept: bool
) -> None:
    """Record a step (`started`, `finished`) in `removals`."""
    connection.execute(
        "INSERT INTO removals (tenant_id, kind, step, start_time, end_time, reason, removed_by, counts)"
        " VALUES (%s, %s, %s, '-infinity', 'infinity', %s, %s, %s)",
        [tenant, KEPT if kept else REMOVED, step, reason, getpass.getuser(), Jsonb(dict(counts))],
    )


_ROWS: Final = sql.SQL("SELECT count(*) FROM {} WHERE tenant_id = %s")
_KEYS: Final = "SELECT count(*) FROM api_keys WHERE tenants @> ARRAY[%s::text] AND revoked_at IS NULL"


def _count(connection: Connection[Any], query: sql.SQL | sql.Composed, tenant: str) -> int:
    row = connection.execute(query, [tenant]).fetchone()
    assert row is not None  # noqa: S101  # a count
    return int(row[0])


def _present(connection: Connection[Any]) -> list[str]:
    present = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY (%s)",
        [list(TABLES)],
    )
    there = {name for (name,) in present}
    return [*declared.tables(connection), *(table for table in TABLES if table in there)]


_BATCH = 1000


def count_exports(settings: Settings, tenant: str) -> dict[str, int]:
    """Number of export files and their bytes."""
    location = tenant_location(settings, tenant)
    if isinstance(location, Path):
        sizes = (
            [path.stat().st_size for path in location.rglob("*") if path.is_file()]
            if location.is_dir()
            else []
        )
    else:
        sizes = list(_objects(settings, location).values())
    return {"export_files": len(sizes), "export_bytes": sum(sizes)}


def delete_exports(settings: Settings, tenant: str) -> None:
    """Delete the tenant's whole folder of EXPORT_STORAGE_PATH."""
    location = tenant_location(settings, tenant)
    if isinstance(location, Path):
        if location.is_symlink():
            location.unlink()
        elif location.is_dir():
            shutil.rmtree(location)
        return
    from ai_hub.exports import s3  # noqa: PLC0415  # most installations need none

    s3.delete_all(settings, location)


def count_online(store: FeatureStore, tenant: str) -> int:
    """Number of keys in Redis: rows of entities, and negative-cache entries."""
    return sum(1 for _ in _keys(store, tenant))


def delete_online(store: FeatureStore, tenant: str) -> None:
    """Delete every key of the tenant in Redis."""
    client = online_client(store)
    delete_of_value(client, store.project, _join_keys(store), "tenant_id", tenant)
    for key in list(client.scan_iter(match=negative_pattern(store.project, tenant), count=_BATCH)):
        client.unlink(key)


def _keys(store: FeatureStore, tenant: str) -> Iterator[bytes]:
    client = online_client(store)
    yield from keys_of_value(client, store.project, _join_keys(store), "tenant_id", tenant)
    yield from client.scan_iter(match=negative_pattern(store.project, tenant), count=_BATCH)


def _join_keys(store: FeatureStore) -> list[list[str]]:
    return [view.join_keys for view in store.list_feature_views()]


def _objects(settings: Settings, location: Bucket) -> dict[str, int]:
    from ai_hub.exports import s3  # noqa: PLC0415  # most installations need none

    return s3.all_objects(settings, location)
