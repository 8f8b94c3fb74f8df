"""Loads newest rows from TimescaleDB, in queries that requests share.

A request joins the query under way for its asset, else the one of its tenant and view that still waits for a
slot: many misses become few queries, and the longer they wait the fewer.

Requests stop waiting at their timeout, and what the query finds later is still written back to Redis. Half
of the timeout is for the slot: a query that begins later would end when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import structlog
from psycopg import sql

from ai_hub.concurrency import ConcurrencyLimiter, LimitReachedError, RenewableTimeout, UnavailableError
from ai_hub.features.online.database import SERVER
from ai_hub.features.online.query import HOUR_NS
from ai_hub.times import from_nanos
from feast_plugins.online.reading import encode_outputs
from feast_plugins.online.writing import stamp_of
from feast_plugins.postgres.sources import newest_of_each, newest_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ai_hub.features.online.cache import CacheKey, WriteBack
    from ai_hub.features.online.database import Connection, Database
    from ai_hub.features.online.query import AsOf, Lookup, View
    from feast_plugins.postgres.sources import Source

_EPOCH_NS = 0
# for views with other keys than the asset
_BY_KEYS = "SELECT asset_id, newest.* FROM {keys} CROSS JOIN LATERAL ({row}) AS newest"
_ASSETS = "SELECT asset_id FROM assets WHERE tenant_id = %(tenant)s AND asset_id = ANY(%(assets)s)"
_log = structlog.get_logger(__name__)
#: Assets of one query.
_BATCH_SIZE = 1000
#: A request that read Redis just before the row was written back asks here after the query has ended.
_LINGER_S = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a view."""

    #: event time (ns)
    nanos: int
    #: bytes by name in Redis, the time among them
    fields: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class RowLookup:
    """What the database has of an asset."""

    #: newest row; None: there is none
    row: Row | None
    asset_exists: bool


class _BatchKey(NamedTuple):
    """Rows that one query can read: those of a tenant and a view, for the same hour or time."""

    tenant: str
    view: str
    time: int


class _Batch:
    def __init__(self, view: View, as_of: AsOf, timeout: RenewableTimeout) -> None:
        self.view = view
        self.as_of = as_of
        self.timeout = timeout
        self.lookups: dict[str, asyncio.Future[RowLookup]] = {}
        self.cache_keys: dict[str, CacheKey] = {}


class Loader:
    """Loads the newest rows of assets."""

    def __init__(
        self, database: Database, write_back: WriteBack, *, timeout_s: float, max_waiting: int
    ) -> None:
        """Let `max_waiting` requests wait `timeout_s` each, for the slot and the query together."""
        self._database = database
        self._write_back = write_back
        self._timeout_s = timeout_s
        self._waiting = ConcurrencyLimiter(max_waiting)
        #: batches that assets can still join
        self._open: dict[_BatchKey, _Batch] = {}
        self._lookups: dict[tuple[_BatchKey, str], asyncio.Future[RowLookup]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(
        self, view: View, tenant: str, as_of: AsOf, cache_keys: Mapping[str, CacheKey | None]
    ) -> list[RowLookup]:
        """What the database has of each asset, in order; rows that have a cache key are written back.

        Requests for the present hour share what is read at the time of the first.

        Raises:
            UnavailableError: it cannot be read now.
        """
        is_shared = as_of.current_since is not None and not as_of.is_past
        time = as_of.nanos % view.window - as_of.nanos if is_shared else as_of.nanos
        key = _BatchKey(tenant, view.name, time)
        try:
            with self._waiting.hold(tenant):
                futures = [self._join(key, view, as_of, *item) for item in cache_keys.items()]
                # a request that times out leaves the query to the others
                _, pending = await asyncio.wait(futures, timeout=self._timeout_s)
        except LimitReachedError:
            raise UnavailableError(SERVER, "queue_full") from None
        if pending:
            raise UnavailableError(SERVER, "timeout")
        return [future.result() for future in futures]

    async def aclose(self) -> None:
        """Cancel the queries under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _join(
        self, key: _BatchKey, view: View, as_of: AsOf, asset: str, cache_key: CacheKey | None
    ) -> asyncio.Future[RowLookup]:
        if (lookup := self._lookups.get((key, asset))) is not None:
            return lookup
        batch = self._open.get(key)
        if batch is None or len(batch.lookups) >= _BATCH_SIZE or not batch.timeout.renew():
            batch = self._open[key] = _Batch(view, as_of, RenewableTimeout(self._timeout_s / 2))
            task = asyncio.create_task(self._run(key, batch), name="features")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        future: asyncio.Future[RowLookup] = asyncio.get_running_loop().create_future()
        # retrieves the error where every request has left
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        batch.lookups[asset] = self._lookups[key, asset] = future
        if cache_key is not None:
            batch.cache_keys[asset] = cache_key
        return future

    async def _run(self, key: _BatchKey, batch: _Batch) -> None:
        failure: BaseException | None = None
        lookups: dict[str, RowLookup] = {}
        try:
            async with self._database.slot(key.tenant, batch.timeout):
                self._close(key, batch)

                async def work(connection: Connection) -> dict[str, RowLookup]:
                    return await newest_rows(
                        connection, batch.view, key.tenant, list(batch.lookups), batch.as_of.nanos
                    )

                lookups = await self._database.run(key.tenant, work)
        except psycopg.Error as error:
            # the view's source is wrong: rows in Redis are all there is
            _log.exception("feature_view.query_failed", view=key.view)
            failure = UnavailableError(SERVER, "query_failed")
            failure.__cause__ = error
        except (UnavailableError, asyncio.CancelledError) as error:
            failure = error if isinstance(error, UnavailableError) else UnavailableError(SERVER, "stopped")
        except Exception:  # noqa: BLE001  # whatever it is, the requests get an answer
            _log.exception("feature_rows.read_failed", view=key.view)
            failure = UnavailableError(SERVER, "query_failed")
        finally:
            self._close(key, batch)
            self._complete(key, batch, lookups, failure)
        if failure is None:
            self._write_back(batch.view, key.tenant, batch.as_of, lookups, batch.cache_keys)

    def _complete(
        self, key: _BatchKey, batch: _Batch, lookups: dict[str, RowLookup], failure: BaseException | None
    ) -> None:
        for asset, future in batch.lookups.items():
            if failure is not None:
                self._lookups.pop((key, asset), None)
                future.set_exception(failure)
            else:
                future.set_result(lookups[asset])
                asyncio.get_running_loop().call_later(_LINGER_S, self._lookups.pop, (key, asset), None)

    def _close(self, key: _BatchKey, batch: _Batch) -> None:
        if self._open.get(key) is batch:
            del self._open[key]


async def newest_rows(
    connection: Connection, view: View, tenant: str, assets: Sequence[str], at: int
) -> dict[str, RowLookup]:
    """The newest row of each asset at or before `at` (ns) within the view's time to live.

    Raises:
        psycopg.Error: the view's source cannot be read.
    """
    query = _statement(view)
    parameters: dict[str, Any] = {"tenant": tenant, "assets": list(assets), "at": from_nanos(at)}
    # most assets have a row of the hour itself; to read a longer time costs more
    parameters["since"] = from_nanos(at - at % HOUR_NS)
    rows = await _read(connection, view, query, parameters)
    rest = [asset for asset in assets if asset not in rows]
    existing = set(rows)
    if rest:
        oldest = at - view.stored.ttl if view.stored.ttl else _EPOCH_NS
        parameters |= {"assets": rest, "since": from_nanos(oldest)}
        older = await _read(connection, view, query, parameters)
        rows |= older
        existing |= set(older)
        parameters["assets"] = [asset for asset in rest if asset not in older]
        if parameters["assets"]:
            cursor = await connection.execute(_ASSETS, parameters, prepare=True)
            existing.update(asset for (asset,) in await cursor.fetchall())
    return {asset: RowLookup(rows.get(asset), asset in existing) for asset in assets}


async def _read(
    connection: Connection, view: View, query: sql.Composed, parameters: dict[str, Any]
) -> dict[str, Row]:
    cursor = await connection.execute(query, parameters, prepare=True, binary=True)
    records = await cursor.fetchall()
    if not records:
        return {}
    assets, times, *columns = zip(*records, strict=True)
    encoded = [
        (name, encode_outputs(values, kind))
        for (name, kind), values in zip(view.fields, columns, strict=True)
    ]
    rows = {}
    for index, (asset, time) in enumerate(zip(assets, times, strict=True)):
        nanos, stamp = stamp_of(time)
        fields = {name: values[index] for name, values in encoded}
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
    time = sql.Identifier("source", source.time)
    # a relation or query of the feature repository
    relation = sql.SQL(source.relation)
    wanted: list[sql.Composable] = [sql.Identifier("source", name) for name in (source.time, *features)]
    within = sql.SQL("{0} >= %(since)s AND {0} <= %(at)s").format(time)
    if is_of_asset:
        asset = columns["asset_id"]
        rows = sql.SQL(" FROM {} AS source WHERE {} = %(tenant)s AND {} = ANY(%(assets)s) AND {}").format(
            relation, *(sql.Identifier("source", name) for name in (columns["tenant_id"], asset)), within
        )
        selection = sql.SQL(", ").join([sql.Identifier("source", asset), *wanted])
        return newest_of_each([asset], selection, rows, source.time, source.created)
    tenant, assets = sql.SQL("%(tenant)s"), sql.SQL("%(assets)s")
    relations: list[sql.Composable] = [
        sql.SQL("({}) AS {}").format(lookup.query(tenant, assets), sql.Identifier(f"of_{lookup.key}"))
        for lookup in lookups
    ] or [sql.SQL("({}) AS assets").format(sql.SQL(_ASSETS))]
    values: dict[str, sql.Composable] = {"tenant_id": tenant, "asset_id": sql.SQL("asset_id")} | {
        lookup.key: sql.Identifier(f"of_{lookup.key}", lookup.key) for lookup in lookups
    }
    conditions = [
        sql.SQL("{} = {}").format(sql.Identifier("source", column), values[name]) for name, column in keys
    ]
    rows = sql.SQL(" FROM {} AS source WHERE {}").format(
        relation, sql.SQL(" AND ").join([*conditions, within])
    )
    row = newest_row(sql.SQL(", ").join(wanted), rows, source.time, source.created)
    return sql.SQL(_BY_KEYS).format(keys=sql.SQL(" NATURAL JOIN ").join(relations), row=row)
