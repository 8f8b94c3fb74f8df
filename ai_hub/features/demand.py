"""Which assets are asked for: Redis knows when each row was read last. A refresh computes theirs first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisClusterException, ResponseError

from ai_hub.features.redis_keys import asset_key, online_client

if TYPE_CHECKING:
    from feast import FeatureStore
    from psycopg import Connection

#: Rows asked about at once.
_BATCH: Final = 5_000
_ASSETS: Final = "SELECT tenant_id, asset_id FROM asset_spans"
_FORGET: Final = "DELETE FROM feature_demand WHERE asked_at < now() - INTERVAL '1 day'"
_NOTE: Final = """
INSERT INTO feature_demand (tenant_id, asset_id, asked_at)
SELECT tenant_id, asset_id, now() - idle * INTERVAL '1 second'
FROM unnest(%s::text[], %s::text[], %s::integer[]) AS asked (tenant_id, asset_id, idle)
ORDER BY tenant_id, asset_id
ON CONFLICT (tenant_id, asset_id) DO UPDATE SET asked_at = excluded.asked_at
"""


def note_demand(connection: Connection[Any], store: FeatureStore, within_s: float) -> None:
    """Note the assets whose rows in Redis were read in the last `within_s` seconds.

    Rows must not have been written since then. Notes nothing where Redis counts uses instead
    (`maxmemory-policy` with LFU).
    """
    assets = connection.execute(_ASSETS).fetchall()
    connection.commit()  # the embedded server makes others wait for an open transaction
    client = online_client(store)
    asked: list[tuple[str, str, int]] = []
    for first in range(0, len(assets), _BATCH):
        part = assets[first : first + _BATCH]
        with client.pipeline(transaction=False) as pipe:
            for asset in part:
                pipe.object("IDLETIME", asset_key(store, *asset))
            try:
                idle = pipe.execute()
            except (ResponseError, RedisClusterException):
                return
        asked += [
            (*asset, seconds)
            for asset, seconds in zip(part, idle, strict=True)
            if seconds is not None and seconds <= within_s
        ]
    connection.execute(_FORGET)
    connection.execute(_NOTE, [list(column) for column in zip(*asked, strict=True)] or [[], [], []])
    connection.commit()
