"""Entity rows: the join keys and times for which features are requested."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import pyarrow as pa
from adbc_driver_manager import dbapi
from feast.errors import FeastEntityDFMissingColumnsError, InvalidEntityType
from feast.infra.offline_stores import offline_utils
from psycopg import sql

from feast_plugins.offline.as_of import NO_TIME, AsOf, KeySpace, microseconds
from feast_plugins.postgres.session import TIME, connect, fetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    import numpy as np
    from feast.repo_config import RepoConfig
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Entities:
    """Table of entity rows; `time` names its column of event times, in UTC microseconds."""

    table: pa.Table
    time: str
    _resolved: dict[tuple[tuple[str, ...], tuple[pa.DataType, ...]], tuple[KeySpace, AsOf]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        config: RepoConfig,
        entity_df: pd.DataFrame | str,
        join_keys: Iterable[str],
        lookups: Mapping[str, str] = MappingProxyType({}),
    ) -> Entities:
        """Entity rows of a frame or of an SQL query, which runs read-only.

        `lookups` has tables by the join keys that a tenant's asset has one of there: those may be missing
        where `tenant_id` and `asset_id` are not, and are read from the table, as it is now.

        Raises:
            FeastEntityDFMissingColumnsError: a join key or the event time is missing.
            InvalidEntityType: `entity_df` is neither a frame nor a query.
        """
        if isinstance(entity_df, pd.DataFrame):
            table = pa.Table.from_pandas(entity_df, preserve_index=False).replace_schema_metadata()
        elif isinstance(entity_df, str):
            store = config.offline_store
            with connect(store, store.statement_timeout_s) as connection:
                table = fetch(connection, f"SELECT * FROM ({entity_df}) AS entity_rows")  # noqa: S608  # it is a query
        else:
            raise InvalidEntityType(type(entity_df))
        time = offline_utils.infer_event_timestamp_from_entity_df(
            dict(table.schema.empty_table().to_pandas().dtypes)
        )
        missing = {*join_keys, time} - set(table.column_names)
        if missing & lookups.keys() and set(_ASSET) <= set(table.column_names):
            for key in sorted(missing & lookups.keys()):
                # each its own transaction: one without such a column is aborted
                with connect(config.offline_store, config.offline_store.statement_timeout_s) as connection:
                    if (values := _look_up(connection, table, key, lookups[key])) is not None:
                        table = table.append_column(key, values)
                        missing.remove(key)
        if missing:
            raise FeastEntityDFMissingColumnsError({*join_keys, time}, missing)  # type: ignore[no-untyped-call]
        index = table.column_names.index(time)
        return cls(table.set_column(index, time, _utc(table[time])), time)

    @cached_property
    def times(self) -> NDArray[np.int64]:
        """Microseconds since 1970 of each row; `NO_TIME` for a row without a time."""
        return microseconds(self.table[self.time])

    @cached_property
    def span(self) -> tuple[datetime, datetime]:
        """Earliest and latest event time in UTC; now, if there is none."""
        times = self.times[self.times != NO_TIME]
        if not len(times):
            now = pd.Timestamp.now("UTC").to_pydatetime()
            return now, now
        ends = pd.to_datetime([times.min(), times.max()], unit="us", utc=True)
        return ends[0].to_pydatetime(), ends[1].to_pydatetime()

    def resolve_keys(self, names: tuple[str, ...], types: tuple[pa.DataType, ...]) -> tuple[KeySpace, AsOf]:
        """Key space of the join keys `names`, as values of `types`, and each row's key number and time."""
        if (names, types) not in self._resolved:  # views mostly have the same keys
            columns = [self.table[name].cast(kind) for name, kind in zip(names, types, strict=True)]
            space = KeySpace(columns, self.table.num_rows)
            self._resolved[names, types] = space, AsOf.of(space.rows, self.times)
        return self._resolved[names, types]

    def values(self, name: str) -> list[Any]:
        """Distinct values of a column."""
        values: list[Any] = self.table[name].unique().drop_null().to_pylist()
        return values


#: Join keys of an asset.
_ASSET: Final = ("tenant_id", "asset_id")
# an asset with two of them has none: either would be a guess
_KEYS: Final = """\
SELECT tenant_id::text AS tenant_id, asset_id::text AS asset_id, (array_agg({key}::text))[1] AS key
FROM {table}
WHERE tenant_id::text = ANY ({tenants}) AND asset_id::text = ANY ({assets})
GROUP BY tenant_id, asset_id HAVING count(DISTINCT {key}) = 1"""
_NOT_THERE: Final = {"42703", "42P01"}


def _look_up(connection: dbapi.Connection, table: pa.Table, key: str, source: str) -> pa.Array | None:
    """A key of the asset of each row, null where it has none; None: the source has no such key."""
    rows = pd.DataFrame({name: table[name].cast(pa.string()).to_pandas() for name in _ASSET})
    wanted = {name: sql.Literal(rows[name].dropna().unique().tolist()) for name in _ASSET}
    query = sql.SQL(_KEYS).format(
        key=sql.Identifier(key),
        table=sql.Identifier(source),
        tenants=sql.SQL("{}::text[]").format(wanted["tenant_id"]),
        assets=sql.SQL("{}::text[]").format(wanted["asset_id"]),
    )
    try:
        known = fetch(connection, query).to_pandas()
    except dbapi.ProgrammingError as error:
        if error.sqlstate not in _NOT_THERE:
            raise
        return None
    return pa.array(rows.merge(known, how="left", on=list(_ASSET))["key"], pa.string(), from_pandas=True)


def _utc(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """UTC microseconds of times, dates or texts; a time without a zone is UTC, as everywhere in Feast."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(TIME)
    times = pd.to_datetime(column.to_pandas(), utc=True).dt.as_unit("us")
    return pa.chunked_array([pa.array(times, TIME)])
