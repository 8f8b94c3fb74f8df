"""The newest feature row of each asset, or of each that has one created since a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from feast import PushSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from psycopg import sql

from ai_hub.features.store import JOIN_KEYS
from ai_hub.times import EPOCH
from feast_plugins.offline.history import newest_issues
from feast_plugins.postgres.session import stream
from feast_plugins.postgres.sources import newest_of_each, newest_row
from feast_plugins.windows.declarations import HORIZON_TAG, declaration_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime

    import pyarrow as pa
    from adbc_driver_manager import dbapi
    from feast import FeatureStore, FeatureView

# An asset has rows up to a day after its last reading, see docs/features.md.
_NEWEST = "SELECT newest.* FROM asset_spans AS spans CROSS JOIN LATERAL ({row}) AS newest WHERE {scope}"
# In the order in which they were created: a refresh computes first what is asked for most.
_CHANGED = "SELECT * FROM ({rows}) AS changed ORDER BY {created}"
_HAS_NEW = """\
(spans.tenant_id, spans.asset_id) IN (
    SELECT source.tenant_id, source.asset_id FROM {relation} AS source WHERE {created} >= {since}
)"""
#: The assets of rows.
_SPANS = "spans.tenant_id = source.tenant_id AND spans.asset_id = source.asset_id"


@dataclass(frozen=True)
class Scope:
    """Whose assets; None: everybody's, or all of them."""

    tenants: Sequence[str] | None = None
    assets: Sequence[str] | None = None


EVERYBODY = Scope()


def followed_views(store: FeatureStore) -> list[FeatureView]:
    """Online views over Postgres that are keyed by tenant and asset, by name.

    Views with other keys, if the repository has any, are left to `feast materialize-incremental`.
    """
    found = [
        view
        for view in store.list_feature_views(allow_cache=True)
        if view.online
        and set(view.join_keys) == set(JOIN_KEYS)
        and isinstance(view.batch_source, PostgreSQLSource)
    ]
    return sorted(found, key=lambda view: view.name)


def is_pushed(view: FeatureView) -> bool:
    """Whether rows of the view are readings themselves, not features of earlier ones."""
    return isinstance(view.stream_source, PushSource)


def newest_rows(
    connection: dbapi.Connection,
    view: FeatureView,
    now: datetime,
    *,
    since: datetime | None = None,
    scope: Scope = EVERYBODY,
) -> AbstractContextManager[pa.RecordBatchReader]:
    """Newest row of each asset within the view's time to live, with the columns of its source.

    With `since`, the newest of the rows created from then on. Of a view with a horizon the rows that are
    issued now; with `since` in the same step, of the assets that have a new row.
    """
    source = view.batch_source
    assert source is not None  # noqa: S101  # see `followed_views`
    if HORIZON_TAG in (view.tags or {}):
        return _issued(connection, view, now, since=since, scope=scope)
    original = {feature: column for column, feature in source.field_mapping.items()}
    names = [*view.join_keys, *(field.name for field in view.features)]
    stamps = [source.timestamp_field, *filter(None, [source.created_timestamp_column])]
    columns = [original.get(name, name) for name in (*names, *stamps)]
    time = original.get(source.timestamp_field, source.timestamp_field)
    at = sql.Identifier("source", time)
    conditions = [sql.SQL("{} <= {}").format(at, sql.Literal(now))]
    reach: list[sql.Composable] = [sql.SQL("true")]
    if view.ttl:
        oldest = sql.Literal(now - view.ttl)
        conditions.append(sql.SQL("{} >= {}").format(at, oldest))
        reach.append(sql.SQL("spans.last_hour >= {} - INTERVAL '25 hours'").format(oldest))
    reach += _within(scope)
    is_changed = since is not None and len(stamps) > 1
    if is_changed:
        created = sql.Identifier("source", columns[-1])
        conditions.append(sql.SQL("{} >= {}").format(created, sql.Literal(since)))
    selection = sql.SQL(", ").join(sql.Identifier("source", column) for column in columns)
    relation = sql.SQL(source.get_table_query_string())
    # of readings, which no index has by the time they came, each asset's newest are looked at
    if is_changed and not is_pushed(view):
        rows = sql.SQL(" FROM {} AS source JOIN asset_spans AS spans ON {} WHERE {}").format(
            relation, sql.SQL(_SPANS), sql.SQL(" AND ").join([*conditions, *reach])
        )
        found = newest_of_each(JOIN_KEYS, selection, rows, time, None)
        return stream(connection, sql.SQL(_CHANGED).format(rows=found, created=sql.Identifier(columns[-1])))
    rows = sql.SQL(" FROM {} AS source WHERE {}").format(
        relation, sql.SQL(" AND ").join([sql.SQL(_SPANS), *conditions])
    )
    row = newest_row(selection, rows, time, None)
    return stream(connection, sql.SQL(_NEWEST).format(row=row, scope=sql.SQL(" AND ").join(reach)))


@contextmanager
def _issued(
    connection: dbapi.Connection, view: FeatureView, now: datetime, *, since: datetime | None, scope: Scope
) -> Iterator[pa.RecordBatchReader]:
    """Rows of a view with a horizon that are issued now."""
    declaration, source = declaration_of(view), view.batch_source
    assert declaration is not None  # noqa: S101  # it has the tag of a horizon
    assert source is not None  # noqa: S101  # see `followed_views`
    conditions = [sql.SQL("true"), *_within(scope)]
    # the issues of another step are of everybody
    if since is not None and (since - EPOCH) // declaration.step == (now - EPOCH) // declaration.step:
        conditions.append(
            sql.SQL(_HAS_NEW).format(
                relation=sql.SQL(source.get_table_query_string()),
                created=sql.Identifier("source", source.created_timestamp_column),
                since=sql.Literal(since),
            )
        )
    yield newest_issues(connection, view, now, sql.SQL(" AND ").join(conditions))


def _within(scope: Scope) -> list[sql.Composed]:
    """Conditions on `spans`."""
    names = {"tenant_id": scope.tenants, "asset_id": scope.assets}
    return [
        sql.SQL("{} = ANY({})").format(sql.Identifier("spans", name), sql.Literal(list(values)))
        for name, values in names.items()
        if values is not None
    ]
