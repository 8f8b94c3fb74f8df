"""Newest rows of a feature view, read from TimescaleDB, as the bytes that Redis would hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from psycopg import sql

from ai_hub.serving.current import HOUR_NS, time_of
from feast_plugins.online.on_demand import encode
from feast_plugins.online.writing import stamp_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.features.lookups import Lookup
    from ai_hub.serving.database import Connection
    from ai_hub.serving.query import View
    from feast_plugins.postgres.pulls import Source

_EPOCH_NS = 0
_NEWEST = """\
SELECT DISTINCT ON (source.{asset}) source.{asset}, source.{time}, {features}
FROM {relation} AS source
WHERE source.{tenant} = %(tenant)s AND source.{asset} = ANY(%(assets)s)
    AND source.{time} >= %(since)s AND source.{time} <= %(at)s
ORDER BY source.{asset}, source.{time} DESC{created}"""
# of views with other keys than the asset: the newest row by the keys that each asset has
_NEWEST_BY_KEYS = """\
SELECT asset_id, source.{time}, {features}
FROM {keys} CROSS JOIN LATERAL (
    SELECT * FROM {relation} AS source
    WHERE {conditions} AND source.{time} >= %(since)s AND source.{time} <= %(at)s
    ORDER BY source.{time} DESC{created} LIMIT 1
) AS source"""
_ASSETS = "SELECT asset_id FROM assets WHERE tenant_id = %(tenant)s AND asset_id = ANY(%(assets)s)"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a view: its time in nanoseconds, and each field by its name in Redis, the time among them."""

    nanos: int
    fields: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Found:
    """What the database knows of an asset at a time."""

    row: Row | None
    #: whether there is such an asset, with or without a row
    is_known: bool


async def newest(
    connection: Connection, view: View, tenant: str, assets: Sequence[str], at: int
) -> dict[str, Found]:
    """The newest row of each asset at or before `at` (ns) within the view's time to live.

    Raises:
        psycopg.Error: the view's source cannot be read.
    """
    query = _statement(view)
    asked: dict[str, Any] = {"tenant": tenant, "assets": list(assets), "at": time_of(at)}
    # most have a row of the hour itself; to read a longer time costs more
    asked["since"] = time_of(at - at % HOUR_NS)
    rows = await _read(connection, view, query, asked)
    rest = [asset for asset in assets if asset not in rows]
    known = set(rows)
    if rest:
        oldest = at - view.stored.ttl if view.stored.ttl else _EPOCH_NS
        asked |= {"assets": rest, "since": time_of(oldest)}
        older = await _read(connection, view, query, asked)
        rows |= older
        known |= set(older)
        asked["assets"] = [asset for asset in rest if asset not in older]
        if asked["assets"]:
            cursor = await connection.execute(_ASSETS, asked, prepare=True)
            known.update(asset for (asset,) in await cursor.fetchall())
    return {asset: Found(rows.get(asset), asset in known) for asset in assets}


async def _read(
    connection: Connection, view: View, query: sql.Composed, asked: dict[str, Any]
) -> dict[str, Row]:
    cursor = await connection.execute(query, asked, prepare=True, binary=True)
    found = await cursor.fetchall()
    if not found:
        return {}
    assets, times, *columns = zip(*found, strict=True)
    encoded = [
        (name, encode(values, kind)) for (name, kind), values in zip(view.fields, columns, strict=True)
    ]
    rows = {}
    for place, (asset, time) in enumerate(zip(assets, times, strict=True)):
        nanos, stamp = stamp_of(time)
        fields = {name: values[place] for name, values in encoded}
        fields[view.stored.stamp_field] = stamp
        rows[asset] = Row(nanos, fields)
    return rows


def _statement(view: View) -> sql.Composed:
    plan = view.source
    if plan is None:
        raise TypeError(f"{view.name} has no source in TimescaleDB")
    features = tuple(plan.column(name) for name in plan.features)
    keys = tuple((name, plan.column(name)) for name in plan.keys)
    return _composed(plan.source, keys, features, view.lookups, view.is_of_asset)


@lru_cache(maxsize=256)
def _composed(
    source: Source,
    keys: tuple[tuple[str, str], ...],
    features: tuple[str, ...],
    lookups: tuple[Lookup, ...],
    is_of_asset: bool,
) -> sql.Composed:
    columns = dict(keys)
    newest_version = "" if source.created is None else ", source.{} DESC NULLS LAST"
    parts: dict[str, sql.Composable] = {
        # a relation or query of the feature repository
        "relation": sql.SQL(source.relation),
        "time": sql.Identifier(source.time),
        "created": sql.SQL(newest_version).format(sql.Identifier(source.created or "")),
        "features": sql.SQL(", ").join(
            [sql.SQL("source.{}").format(sql.Identifier(name)) for name in features]
        ),
    }
    if is_of_asset:
        keyed = {name: sql.Identifier(columns[f"{name}_id"]) for name in ("tenant", "asset")}
        return sql.SQL(_NEWEST).format(**keyed, **parts)
    tenant, assets = sql.SQL("%(tenant)s"), sql.SQL("%(assets)s")
    relations: list[sql.Composable] = [
        sql.SQL("({}) AS {}").format(lookup.query(tenant, assets), sql.Identifier(f"of_{lookup.key}"))
        for lookup in lookups
    ] or [sql.SQL("({}) AS assets").format(sql.SQL(_ASSETS))]
    values: dict[str, sql.Composable] = {"tenant_id": tenant, "asset_id": sql.SQL("asset_id")} | {
        lookup.key: sql.Identifier(f"of_{lookup.key}", lookup.key) for lookup in lookups
    }
    conditions = [
        sql.SQL("source.{} = {}").format(sql.Identifier(column), values[name]) for name, column in keys
    ]
    joined = sql.SQL(" NATURAL JOIN ").join(relations)
    return sql.SQL(_NEWEST_BY_KEYS).format(keys=joined, conditions=sql.SQL(" AND ").join(conditions), **parts)
