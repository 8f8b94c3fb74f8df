"""Reading of an export: its plan by Feast, and its rows as Arrow tables that fit into memory."""

# mypy: allow-untyped-calls
# Feast declares half of its types
from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import dbapi
from feast import OnDemandFeatureView, utils
from feast.infra.offline_stores import offline_utils
from feast.repo_config import RepoConfig
from feast.types import from_feast_to_pyarrow_type
from psycopg import sql

from ai_hub.db.tenant_scope import ENTER
from ai_hub.errors import BadInputError
from ai_hub.exports.export import Request, months
from ai_hub.features.online.query import Lookup, lookup_of
from ai_hub.features.store import feature_names, feature_references, get_service
from ai_hub.names import check_tenant
from feast_plugins.offline import history
from feast_plugins.offline.as_of import microseconds
from feast_plugins.offline.entities import Entities
from feast_plugins.offline.on_demand import once_per_input
from feast_plugins.offline.unstored import count_unstored
from feast_plugins.offline.views import AsOfFilter, ViewRead
from feast_plugins.postgres import session
from feast_plugins.windows.declarations import HORIZON_TAG, STEP_TAG, declared_name
from feast_plugins.windows.features import HOUR, STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from feast import FeatureService, FeatureStore


TIME: Final = "event_timestamp"
TENANT: Final = "tenant_id"
ASSET: Final = "asset_id"
CREATED: Final = "created_timestamp"
_VERSION_LENGTH: Final = 16


@dataclass(frozen=True)
class Computed:
    """On-demand features of one view, computed from stored ones."""

    view: OnDemandFeatureView
    inputs: tuple[str, ...]
    outputs: dict[str, pa.DataType]


@dataclass(frozen=True)
class Plan:
    """A feature service, its rows, and its features in order."""

    service: str
    #: changes when the definition of the service or of one of its views does
    version: str
    features: tuple[str, ...]
    #: its rows are the rows of the export
    base: ViewRead
    #: that the base has of an asset, at most
    rows_an_hour: int
    #: joined to them as of their time
    others: tuple[ViewRead, ...]
    #: where the keys of others are found that are neither tenant nor asset
    lookups: tuple[Lookup, ...]
    computed: tuple[Computed, ...]


def plan_of(store: FeatureStore, name: str, span: tuple[datetime, datetime]) -> Plan:
    """How service `name` is exported.

    Raises:
        NotFoundError: there is no such service.
        BadInputError: its rows are not those of assets of tenants, or two features have one name.
    """
    service = get_service(store, name)
    features = tuple(feature_names(service))
    if len({*features, TIME, TENANT, ASSET, CREATED}) != len(features) + 4:
        raise BadInputError(
            f"Features of {name} have a name twice, or that of a key or time.",
            hint="Rename them in the feature repository.",
        )
    stored, on_demand = _views(store, service)
    if issues := [view.name for view in stored if HORIZON_TAG in (view.tags or {})]:
        raise BadInputError(
            f"Feature service {name} cannot be exported: rows of {', '.join(issues)} are forecasts' issues.",
            hint="Read them by Feast's get_historical_features, with the times of issue.",
        )
    reads = _reads(store, stored, [each.view for each in on_demand], feature_references(service), span)
    complete = [read for read in reads if set(read.keys) == {TENANT, ASSET}]
    if not complete or not all(read.keys for read in reads):
        raise BadInputError(
            f"Feature service {name} cannot be exported: no view of it is keyed by tenant_id and asset_id.",
            hint="Give one view of it the entities tenant and asset: its rows are those of the export.",
        )
    base = complete[0]
    keys = {key for read in reads for key in read.keys} - {TENANT, ASSET}
    entities = {each.join_key: each for each in store.list_entities()} if keys else {}
    if unknown := keys - set(entities):
        raise BadInputError(
            f"Feature service {name} cannot be exported: it renames the key {min(unknown)}.",
            hint="Leave `with_join_key_map` out of the service.",
        )
    return Plan(
        service=name,
        version=_version(service, [*stored, *(each.view for each in on_demand)]),
        features=features,
        base=base,
        rows_an_hour=_rows_an_hour(stored, base.view),
        others=tuple(read for read in reads if read is not base),
        lookups=tuple(lookup_of(entities[key]) for key in sorted(keys)),
        computed=tuple(on_demand),
    )


def _rows_an_hour(stored: list[Any], name: str) -> int:
    """Rows of a view by its tag; where another step than those of declared views is said, or none, one."""
    tag = next(
        ((view.tags or {}).get(STEP_TAG) for view in stored if view.projection.name_to_use() == name), None
    )
    step = next((step for step, text in STEPS.items() if text == tag), HOUR)
    return max(1, HOUR // step)


def _views(store: FeatureStore, service: FeatureService) -> tuple[list[Any], list[Computed]]:
    """Stored views, those of inputs of on-demand features among them, and on-demand ones.

    As Feast's own history finds them.
    """
    refs = feature_references(service)
    try:
        known = utils._get_feature_views_to_use(store.registry, store.project, service)  # noqa: SLF001
    except ValueError as error:  # the registry has a view before the services of it
        raise BadInputError(
            f"Feature service {service.name} and its views do not fit together: `feast apply` has not ended.",
            hint="Run it to its end, then export again.",
        ) from error
    for view in known[1]:
        view.write_to_online_store = False
    grouped, on_demand = utils._group_feature_refs(refs, *known)  # noqa: SLF001
    computed = [
        Computed(
            once_per_input(view),
            tuple(
                feature.name
                for projection in view.source_feature_view_projections.values()
                for feature in projection.features
            ),
            {
                field.name: from_feast_to_pyarrow_type(field.dtype)
                for field in view.features
                if field.name in wanted
            },
        )
        for view, wanted in on_demand
    ]
    return [view for view, _ in grouped], computed


def _reads(
    store: FeatureStore,
    stored: list[Any],
    on_demand: list[OnDemandFeatureView],
    refs: list[str],
    span: tuple[datetime, datetime],
) -> list[ViewRead]:
    inputs = [
        f"{projection.name_to_use()}:{feature.name}"
        for view in on_demand
        for projection in view.source_feature_view_projections.values()
        for feature in projection.features
    ]
    features = list(dict.fromkeys([*refs, *inputs]))
    contexts = offline_utils.get_feature_view_query_context(
        features, stored, store.registry, store.project, span
    )
    declared = {view.projection.name_to_use(): declared_name(view) for view in stored}
    return [ViewRead.of(context, {}, AsOfFilter(), declared=declared[context.name]) for context in contexts]


def _version(service: FeatureService, views: list[Any]) -> str:
    """Beginning of the SHA-256 of all definitions."""
    digest = hashlib.sha256()
    for obj in [service, *sorted(views, key=lambda view: str(view.name))]:
        spec = obj.to_proto().spec
        if spec.DESCRIPTOR.fields_by_name.get("feature_transformation"):
            # the pickled function differs from process to process; its text stays
            spec.feature_transformation.user_defined_function.body = b""
        digest.update(spec.SerializeToString(deterministic=True))
    return digest.hexdigest()[:_VERSION_LENGTH]


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
#: Feature rows go on for so long after the last reading.
_TAIL: Final = timedelta(hours=25)


@dataclass(frozen=True)
class Span:
    """An asset, and the hours of the first and last reading of each period; None: it has no readings."""

    asset: str
    periods: tuple[tuple[datetime, datetime], ...] | None

    def rows(self, start: datetime, end: datetime) -> int:
        """Upper bound of its hourly rows in [start, end); where unknown, one row an hour."""
        if self.periods is None:
            return _hours(start, end)
        return sum(_hours(max(start, first), min(end, last + _TAIL)) for first, last in self.periods)


def _hours(start: datetime, end: datetime) -> int:
    """Hours that [start, end) touches."""
    return max(0, -((start - end) // HOUR))


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
        """Queries of `connection` in this block can be interrupted."""
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
    #: of its declared view with the most of them: rows that are computed as they are read
    unstored_rows: int

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
        # spans count hours
        rows = (SHORT_CHUNK_ROWS if shared_backend else CHUNK_ROWS) // plan.rows_an_hour
        parts = chunks(spans, request.start, request.end, rows=rows, by_month=by_month)
        unstored = _unstored_rows(connection, plan, request)
        reader = Reader(config, plan, request, interrupt, connection, schema, parts, unstored)
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
    rows = session.fetch(connection, query).to_pylist()
    requested = None if request.assets is None else set(request.assets)
    periods: dict[str, list[tuple[datetime, datetime]]] = {}
    for row in rows:
        hours = periods.setdefault(row["asset_id"], [])
        if row["first_hour"] is not None:
            hours.append((row["first_hour"], row["last_hour"]))
    return [
        Span(asset, tuple(hours) if hours else None)
        for asset, hours in sorted(periods.items())
        if requested is None or asset in requested
    ]


def _unstored_rows(connection: dbapi.Connection, plan: Plan, request: Request) -> int:
    keys = {TENANT: [request.tenant]} | ({} if request.assets is None else {ASSET: request.assets})
    span = request.start, request.end - timedelta(microseconds=1)
    return max(count_unstored(connection, [plan.base, *plan.others], span, keys).values(), default=0)


def _schema(connection: dbapi.Connection, plan: Plan) -> pa.Schema:
    """Columns of the export: time, keys, the features in the service's order, and when a row was created."""
    types: dict[str, pa.DataType] = {}
    for read in (plan.base, *plan.others):
        fields, _ = session.conform(session.schema(connection, read.select([sql.SQL("true")])))
        types |= {name: fields.field(column).type for column, name in read.outputs(False).items()}
    for view in plan.computed:
        types |= view.outputs
    fields = [(TIME, session.TIME), (TENANT, pa.string()), (ASSET, pa.string())]
    fields += [(name, types[name]) for name in plan.features]
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


def computed(view: Computed, columns: dict[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
    """On-demand features of rows with these columns, by Feast's own transformation."""
    outputs = view.view.transform_arrow(pa.table({name: columns[name] for name in view.inputs}))
    return {name: outputs[name].cast(kind) for name, kind in view.outputs.items()}


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
