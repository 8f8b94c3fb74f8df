"""Rows of an export, as Arrow tables that each fit into memory."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import dbapi
from feast.repo_config import RepoConfig
from psycopg import sql

from ai_hub.database.tenant_scope import ENTER
from ai_hub.exports.plan import ASSET, CREATED, TENANT, TIME, Computed, Plan
from ai_hub.exports.request import Request, months
from ai_hub.names import check_tenant
from feast_plugins.offline import history
from feast_plugins.offline.as_of import microseconds
from feast_plugins.offline.entities import Entities
from feast_plugins.offline.views import AsOfFilter
from feast_plugins.postgres import session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ai_hub.features.online.query import Lookup

#: Rows read at once. Where sessions share one backend, others wait for as long.
CHUNK_ROWS: Final = 65_536
SHORT_CHUNK_ROWS: Final = 16_384
#: Where the offline store sets none: a statement that hangs would hold the worker for ever.
LONGEST_STATEMENT_S: Final = 3600.0
_ASSETS = """
SELECT
    asset_id,
    -- Python's times go no further
    CASE WHEN period IS NOT NULL THEN greatest(lower(period), TIMESTAMPTZ '1000-01-01Z') END AS first_hour,
    CASE
        WHEN period IS NOT NULL THEN least(upper(period) - INTERVAL '168 hours', TIMESTAMPTZ '9000-01-01Z')
    END AS last_hour
FROM assets
FULL JOIN asset_spans USING (tenant_id, asset_id)
LEFT JOIN LATERAL unnest(periods) AS period ON true
WHERE tenant_id = {tenant} ORDER BY period
"""
_HOUR: Final = timedelta(hours=1)
#: Feature rows go on for so long after the last reading.
_TAIL: Final = timedelta(hours=25)


@dataclass(frozen=True)
class Span:
    """An asset, and the hours of the first and last reading of each period; None: it has no readings."""

    asset: str
    periods: tuple[tuple[datetime, datetime], ...] | None

    def rows(self, start: datetime, end: datetime) -> int:
        """How many hourly rows in [start, end) it has at most; where that is not known, as for all hours."""
        if self.periods is None:
            return _hours(start, end)
        return sum(_hours(max(start, first), min(end, last + _TAIL)) for first, last in self.periods)


def _hours(start: datetime, end: datetime) -> int:
    """Hours that [start, end) touches."""
    return max(0, -((start - end) // _HOUR))


@dataclass(frozen=True)
class Chunk:
    """Rows of some assets, in order, in [start, end)."""

    assets: tuple[str, ...]
    start: datetime
    end: datetime

    @property
    def month(self) -> str:
        """Month that it begins in, in UTC."""
        return f"{self.start:%Y-%m}"


class Interrupt:
    """Ends the query under way from another thread."""

    def __init__(self) -> None:
        self._connection: dbapi.Connection | None = None
        self.requested = False

    def request(self) -> None:
        """End it, and every later one."""
        self.requested = True
        if self._connection is not None:
            self._connection.adbc_cancel()

    @contextmanager
    def watching(self, connection: dbapi.Connection) -> Iterator[None]:
        """What is asked of `connection` in this block can be ended."""
        self._connection = connection
        try:
            if self.requested:
                raise InterruptedError
            yield
        finally:
            self._connection = None


@dataclass
class Reader:
    """Reads what a request asks for, by a plan; see `open_reader`."""

    config: RepoConfig
    plan: Plan
    request: Request
    interrupt: Interrupt
    #: one for all chunks, or none: then each chunk has its own
    snapshot: dbapi.Connection | None
    schema: pa.Schema
    chunks: list[Chunk]

    def read(self, chunk: Chunk) -> pa.Table:
        """Rows of a chunk in the order of asset and time, with the columns of `schema`."""
        if self.snapshot is not None:
            return self._read(self.snapshot, chunk)
        with _connected(self.config, self.request, self.interrupt) as connection:
            return self._read(connection, chunk)

    def _read(self, connection: dbapi.Connection, chunk: Chunk) -> pa.Table:
        base = self.plan.base
        rows = session.fetch(connection, base.select(_conditions(self.plan, self.request, chunk)))
        rows = rows.combine_chunks()
        times = microseconds(rows[base.time])
        ranks = pc.index_in(rows[base.keys[ASSET]], value_set=pa.array(chunk.assets)).to_numpy()
        created = microseconds(rows[base.created]) if base.created else np.zeros(len(rows), np.int64)
        order = np.lexsort((created, times, ranks))
        # of rows with the same asset and time the one created last counts, as in Feast
        last = np.append(
            (np.diff(ranks[order]) != 0) | (np.diff(times[order]) != 0), [True] * (len(order) > 0)
        )
        rows = rows.take(pa.array(order[last.astype(bool)]))
        columns = _renamed(self.plan, self.request.tenant, rows)
        self._join(connection, columns)
        for each in self.plan.computed:
            columns |= computed(each, columns)
        return pa.table([columns[field.name].cast(field.type) for field in self.schema], self.schema)

    def _join(self, connection: dbapi.Connection, columns: dict[str, pa.ChunkedArray]) -> None:
        if not self.plan.others:
            return
        rows = {name: columns[name] for name in (TENANT, ASSET, TIME)}
        for lookup in self.plan.lookups:
            rows[lookup.key] = self._looked_up(connection, lookup, rows[ASSET])
        entities = Entities(pa.table(rows), TIME)
        joined = history.join(
            connection,
            entities,
            self.plan.others,
            AsOfFilter(),
            strategy=self.config.offline_store.join_strategy,
            full_feature_names=False,
        )
        columns |= {name: joined[name] for name in joined.column_names if name not in columns}

    def _looked_up(
        self, connection: dbapi.Connection, lookup: Lookup, assets: pa.ChunkedArray
    ) -> pa.ChunkedArray:
        """The key of each row's asset; null where it has none, or several."""
        wanted = sql.Literal(assets.unique().to_pylist())
        found = session.fetch(connection, lookup.query(sql.Literal(self.request.tenant), wanted))
        places = pc.index_in(assets, value_set=found[ASSET].combine_chunks())
        return pa.chunked_array([found[lookup.key].combine_chunks().take(places.combine_chunks())])


@contextmanager
def open_reader(
    config: RepoConfig,
    plan: Plan,
    request: Request,
    interrupt: Interrupt,
    *,
    by_month: bool,
    shared_backend: bool,
) -> Iterator[Reader]:
    """A reader for the block, of one state of the database.

    Where sessions share one backend, it is the state at each chunk, so that nobody waits for longer than one.
    """
    with _connected(config, request, interrupt) as connection:
        spans = _spans(connection, request)
        schema = _schema(connection, plan)
        rows = SHORT_CHUNK_ROWS if shared_backend else CHUNK_ROWS
        parts = chunks(spans, request.start, request.end, rows=rows, by_month=by_month)
        reader = Reader(config, plan, request, interrupt, connection, schema, parts)
        if not shared_backend:
            yield reader
            return
    reader.snapshot = None
    yield reader


@contextmanager
def _connected(config: RepoConfig, request: Request, interrupt: Interrupt) -> Iterator[dbapi.Connection]:
    """A transaction that sees the rows of the request's tenant only."""
    store = config.offline_store
    enter = sql.SQL(ENTER.replace("%s", "{}")).format(sql.Literal(check_tenant(request.tenant)))
    with (
        session.connect(store, store.statement_timeout_s or LONGEST_STATEMENT_S) as connection,
        interrupt.watching(connection),
    ):
        session.fetch(connection, enter)
        yield connection


def _spans(connection: dbapi.Connection, request: Request) -> list[Span]:
    """The assets in question, and which hours can have rows."""
    query = sql.SQL(_ASSETS).format(tenant=sql.Literal(request.tenant))
    found = session.fetch(connection, query).to_pylist()
    wanted = None if request.assets is None else set(request.assets)
    periods: dict[str, list[tuple[datetime, datetime]]] = {}
    for row in found:
        known = periods.setdefault(row["asset_id"], [])
        if row["first_hour"] is not None:
            known.append((row["first_hour"], row["last_hour"]))
    return [
        Span(asset, tuple(known) if known else None)
        for asset, known in sorted(periods.items())
        if wanted is None or asset in wanted
    ]


def _schema(connection: dbapi.Connection, plan: Plan) -> pa.Schema:
    """Columns of the export: time, keys, the features in the service's order, and when a row was created."""
    known: dict[str, pa.DataType] = {}
    for read in (plan.base, *plan.others):
        fields, _ = session.conform(session.schema(connection, read.select([sql.SQL("true")])))
        known |= {name: fields.field(column).type for column, name in read.outputs(False).items()}
    for each in plan.computed:
        known |= each.outputs
    fields = [(TIME, session.TIME), (TENANT, pa.string()), (ASSET, pa.string())]
    fields += [(name, known[name]) for name in plan.features]
    if plan.base.created:
        fields.append((CREATED, session.TIME))
    return pa.schema(fields)


def _conditions(plan: Plan, request: Request, chunk: Chunk) -> list[sql.Composable]:
    keys, time = plan.base.keys, sql.Identifier(plan.base.time)
    return [
        sql.SQL("{} = {}").format(sql.Identifier(keys[TENANT]), sql.Literal(request.tenant)),
        sql.SQL("{} = ANY({})").format(sql.Identifier(keys[ASSET]), sql.Literal(list(chunk.assets))),
        sql.SQL("{} >= {}").format(time, sql.Literal(chunk.start)),
        sql.SQL("{} < {}").format(time, sql.Literal(chunk.end)),
    ]


def _renamed(plan: Plan, tenant: str, rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Columns under the names that the export has for them, and inputs of on-demand features."""
    base = plan.base
    columns: dict[str, Any] = {name: rows[column] for column, name in base.outputs(False).items()}
    columns |= {TIME: rows[base.time], ASSET: rows[base.keys[ASSET]]}
    columns[TENANT] = pa.chunked_array([pa.repeat(pa.scalar(tenant), len(rows))])
    if base.created:
        columns[CREATED] = rows[base.created]
    return columns


def computed(each: Computed, columns: dict[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
    """On-demand features of rows with these columns, by Feast's own transformation.

    Of a single input it is done once for each value that occurs: a feature depends on its row alone, offline
    as online.
    """
    if len(each.inputs) != 1:
        given = pa.table({name: columns[name] for name in each.inputs})
        found = each.view.transform_arrow(given)
        return {name: found[name].cast(kind) for name, kind in each.outputs.items()}
    (name,) = each.inputs
    encoded = columns[name].combine_chunks().dictionary_encode("encode")
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.unify_dictionaries().chunks)
    found = each.view.transform_arrow(pa.table({name: encoded.dictionary}))
    return {
        output: pa.chunked_array([found[output].combine_chunks().cast(kind).take(encoded.indices)])
        for output, kind in each.outputs.items()
    }


def chunks(
    spans: Sequence[Span], start: datetime, end: datetime, *, rows: int, by_month: bool
) -> list[Chunk]:
    """Chunks of about `rows` rows at most, in the order that the files have: month, asset.

    Args:
        spans: in the order of the assets.
        start: the first hour.
        end: not included.
        rows: of one asset there can be more.
        by_month: no chunk reaches over the end of a month in UTC.
    """
    return [
        Chunk(tuple(assets), first, last)
        for first, last in (months(start, end) if by_month else [(start, end)])
        for assets in _groups(spans, first, last, rows)
    ]


def _groups(spans: Sequence[Span], start: datetime, end: datetime, rows: int) -> Iterator[list[str]]:
    group: list[str] = []
    filled = 0
    for span in spans:
        # other sources can have rows where there are no readings
        count = max(1, span.rows(start, end))
        if group and filled + count > rows:
            yield group
            group, filled = [], 0
        group.append(span.asset)
        filled += count
    if group:
        yield group
