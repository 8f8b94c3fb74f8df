"""Newest rows of a feature view, read from TimescaleDB, as the bytes that Redis would hold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import structlog
from psycopg import sql

from ai_hub.concurrency import FullError, Patience, Places
from ai_hub.features.online.as_of import HOUR_NS
from ai_hub.features.online.breaker import UnavailableError
from ai_hub.features.online.database import SERVER
from ai_hub.times import from_nanos
from feast_plugins.online.reading import encode_outputs
from feast_plugins.online.writing import stamp_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ai_hub.features.lookups import Lookup
    from ai_hub.features.online.as_of import Moment
    from ai_hub.features.online.cache import Place, PutBack
    from ai_hub.features.online.database import Connection, Database
    from ai_hub.features.online.query import View
    from feast_plugins.postgres.sources import Source

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
_log = structlog.get_logger(__name__)
_MOST = 1000
_LINGERS_S = 0.5


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


async def newest_rows(
    connection: Connection, view: View, tenant: str, assets: Sequence[str], at: int
) -> dict[str, Found]:
    """The newest row of each asset at or before `at` (ns) within the view's time to live.

    Raises:
        psycopg.Error: the view's source cannot be read.
    """
    query = _statement(view)
    asked: dict[str, Any] = {"tenant": tenant, "assets": list(assets), "at": from_nanos(at)}
    # most have a row of the hour itself; to read a longer time costs more
    asked["since"] = from_nanos(at - at % HOUR_NS)
    rows = await _read(connection, view, query, asked)
    rest = [asset for asset in assets if asset not in rows]
    known = set(rows)
    if rest:
        oldest = at - view.stored.ttl if view.stored.ttl else _EPOCH_NS
        asked |= {"assets": rest, "since": from_nanos(oldest)}
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
        (name, encode_outputs(values, kind))
        for (name, kind), values in zip(view.fields, columns, strict=True)
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


class _What(NamedTuple):
    """Rows that one query can read: of a tenant and a view, wanted for the same hour or time."""

    tenant: str
    view: str
    key: int


class _Batch:
    def __init__(self, view: View, moment: Moment, patience: Patience) -> None:
        self.view = view
        self.moment = moment
        self.patience = patience
        self.answers: dict[str, asyncio.Future[Found]] = {}
        self.places: dict[str, Place] = {}


class Loader:
    """Newest rows from TimescaleDB."""

    def __init__(self, database: Database, put_back: PutBack, *, patience_s: float, may_wait: int) -> None:
        """`patience_s`: how long requests wait, the turn and the query together; `may_wait`: how many do."""
        self._database = database
        self._put_back = put_back
        self._patience_s = patience_s
        self._waiting = Places(may_wait)
        self._open: dict[_What, _Batch] = {}
        self._under_way: dict[tuple[_What, str], asyncio.Future[Found]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(
        self, view: View, tenant: str, moment: Moment, places: Mapping[str, Place | None]
    ) -> list[Found]:
        """What the database knows of each asset at the moment, in their order.

        Where an asset has a place, its row is put there. Requests for the present hour share what is read at
        the time of the first.

        Raises:
            UnavailableError: it cannot be found out.
        """
        is_shared = moment.current_since is not None and not moment.is_given
        # a time that was given is its own key
        key = moment.nanos % view.window - moment.nanos if is_shared else moment.nanos
        what = _What(tenant, view.name, key)
        try:
            with self._waiting.held(tenant):
                futures = [self._join(what, view, moment, *each) for each in places.items()]
                # whoever goes away leaves the query to the others
                _, pending = await asyncio.wait(futures, timeout=self._patience_s)
        except FullError:
            raise UnavailableError(SERVER, "queue_full") from None
        if pending:
            raise UnavailableError(SERVER, "timeout")
        return [future.result() for future in futures]

    async def aclose(self) -> None:
        """Give up what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _join(
        self, what: _What, view: View, moment: Moment, asset: str, place: Place | None
    ) -> asyncio.Future[Found]:
        if (under_way := self._under_way.get((what, asset))) is not None:
            return under_way
        batch = self._open.get(what)
        if batch is None or len(batch.answers) >= _MOST or not batch.patience.renew():
            batch = self._open[what] = _Batch(view, moment, Patience(self._patience_s / 2))
            task = asyncio.create_task(self._run(what, batch), name="features")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        # nobody may be left to look at its error
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        batch.answers[asset] = self._under_way[what, asset] = future
        if place is not None:
            batch.places[asset] = place
        return future

    async def _run(self, what: _What, batch: _Batch) -> None:
        failure: BaseException | None = None
        found: dict[str, Found] = {}
        try:
            async with self._database.turn(what.tenant, batch.patience):
                self._close(what, batch)

                async def work(connection: Connection) -> dict[str, Found]:
                    return await newest_rows(
                        connection, batch.view, what.tenant, list(batch.answers), batch.moment.nanos
                    )

                found = await self._database.run(what.tenant, work)
        except psycopg.Error as error:
            # the view's source is wrong: what is in Redis is all there is
            _log.exception("feature_view_not_read", view=what.view)
            failure = UnavailableError(SERVER, "query_failed")
            failure.__cause__ = error
        except (UnavailableError, asyncio.CancelledError) as error:
            failure = error if isinstance(error, UnavailableError) else UnavailableError(SERVER, "stopped")
        except Exception:  # noqa: BLE001  # whatever it is, whoever waits gets an answer
            _log.exception("feature_rows_not_read", view=what.view)
            failure = UnavailableError(SERVER, "query_failed")
        finally:
            self._close(what, batch)
            self._end(what, batch, found, failure)
        if failure is None:
            self._put_back(batch.view, what.tenant, batch.moment, found, batch.places)

    def _end(
        self, what: _What, batch: _Batch, found: dict[str, Found], failure: BaseException | None
    ) -> None:
        for asset, future in batch.answers.items():
            if failure is not None:
                self._under_way.pop((what, asset), None)
                future.set_exception(failure)
            else:
                future.set_result(found[asset])
                # who looked into Redis before the row was put back asks here after the query has ended
                asyncio.get_running_loop().call_later(_LINGERS_S, self._under_way.pop, (what, asset), None)

    def _close(self, what: _What, batch: _Batch) -> None:
        if self._open.get(what) is batch:
            del self._open[what]
