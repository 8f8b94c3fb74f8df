"""What is read online is noted, and computed first by the next refresh."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.features.materialize import materialize, note_demand
from ai_hub.features.newest import Scope

if TYPE_CHECKING:
    from psycopg import Connection
    from support.energy import Energy

HOUR = timedelta(hours=1)
THIS_HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def read(connection: Connection, tenant: str, assets: str, hours: int) -> None:
    connection.execute(
        'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
        " SELECT %s, %s, asset, 1 FROM regexp_split_to_table(%s, '') AS asset",
        [THIS_HOUR - hours * HOUR, tenant, assets],
    )


def demanded(connection: Connection, tenant: str) -> set[str]:
    found = connection.execute("SELECT asset_id FROM feature_demand WHERE tenant_id = %s", [tenant])
    return {asset for (asset,) in found.fetchall()}


def test_note_demand__assets_whose_rows_were_used_since(energy: Energy, database: str, tenant: str) -> None:
    with connect(database) as connection:
        read(connection, tenant, "ab", 2)
    refresh(dsn=database)
    materialize(energy.store, Scope([tenant], ["a"]))
    with connect(database) as connection:
        note_demand(connection, energy.store, -1)
        assert demanded(connection, tenant) == set()
        note_demand(connection, energy.store, 3600)
        assert demanded(connection, tenant) == {"a"}  # nothing of b is in Redis
        note_demand(connection, energy.store, -1)
        assert demanded(connection, tenant) == {"a"}
        connection.execute("UPDATE feature_demand SET asked_at = asked_at - INTERVAL '25 hours'")
        note_demand(connection, energy.store, -1)
        assert demanded(connection, tenant) == set()


def test_plan__newest_hour_first_and_of_it_what_is_asked_for(database: str, tenant: str) -> None:
    with connect(database, autocommit=True) as connection:
        read(connection, tenant, "abcd", 200)
        refresh(dsn=database)
        connection.execute(
            "INSERT INTO feature_demand VALUES (%(t)s, 'd', now()), (%(t)s, 'b', now() - INTERVAL '1 hour')",
            {"t": tenant},
        )
        read(connection, tenant, "abcd", 1)
        read(connection, tenant, "d", 190)
        connection.execute("SELECT plan_feature_refresh()")
        planned = connection.execute(
            "SELECT asset_id, end_hour = max(end_hour) OVER () FROM declared_refresh_ranges"
            " WHERE tenant_id = %s AND view_name = 'ai_features' ORDER BY place",
            [tenant],
        ).fetchall()
        assert [asset for asset, is_newest in planned if is_newest] == ["d", "b", "a", "c"]
        assert [is_newest for _, is_newest in planned] == sorted(
            (is_newest for _, is_newest in planned), reverse=True
        )
    refresh(dsn=database)
