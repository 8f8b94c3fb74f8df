"""Feast offline store for TimescaleDB and plain Postgres.

Named in `feature_store.yaml` as `type: feast_plugins.offline_store.TimescaleOfflineStore`. History is joined
outside the database: one range read of each feature view, then an as-of join by key and time. Its cost grows
with the rows read, not with their square, and keys are compared one by one, so no two tenants share a row.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from feast.errors import FeastEntityDFMissingColumnsError, InvalidEntityType
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.utils.postgres.connection_utils import _get_conn
from feast.on_demand_feature_view import OnDemandFeatureView
from pydantic import Field

from feast_plugins.as_of import newest_rows
from feast_plugins.postgres_reads import ViewRead, fetch

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from feast.data_source import DataSource
    from feast.feature_view import FeatureView
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.repo_config import RepoConfig
    from feast.saved_dataset import SavedDatasetStorage


class TimescaleOfflineStoreConfig(PostgreSQLOfflineStoreConfig):
    """Options of the stock Postgres store, under this store's type."""

    type: str = "feast_plugins.offline_store.TimescaleOfflineStore"  # type: ignore[assignment]  # names the class

    late_seconds: int = Field(10_800, ge=0)
    """How far behind its start a materialization looks for rows that late readings changed."""


class AsOfRetrievalJob(RetrievalJob):
    """History of some feature views for the rows of one entity table, in their order."""

    def __init__(
        self,
        compute: Callable[[], pa.Table],
        *,
        full_feature_names: bool,
        on_demand_feature_views: list[OnDemandFeatureView],
        metadata: RetrievalMetadata | None,
    ) -> None:
        self._compute = compute
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = on_demand_feature_views
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether features carry their view's name."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views computed from the joined features."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Requested features, keys and time range."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        del timeout
        return self._compute()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool | None = False, timeout: int | None = None
    ) -> None:
        """Saved datasets are not written here; use `to_arrow()` and write the table."""
        raise NotImplementedError(type(self).persist.__doc__)


class TimescaleOfflineStore(PostgreSQLOfflineStore):
    """Stock Postgres store with a linear, key-exact point-in-time join."""

    @staticmethod
    def pull_latest_from_table_or_query(  # noqa: PLR0917  # Feast's signature
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Newest row of each entity; rows stamped up to `late_seconds` before `start_date` count, too.

        `feast materialize-incremental` starts where the last run ended, and a row whose last reading came
        after that is stamped before it.
        """
        return PostgreSQLOfflineStore.pull_latest_from_table_or_query(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            start_date - timedelta(seconds=config.offline_store.late_seconds),
            end_date,
        )

    @staticmethod
    def get_historical_features(  # noqa: PLR0917  # Feast's signature
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """History for a frame or an SQL query of entity rows.

        Requests without entity rows and with `filter_by_created_timestamp` go to the stock join.
        """
        if entity_df is None or filter_by_created_timestamp:
            return PostgreSQLOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
                **kwargs,
            )
        entities = _entity_table(config, entity_df)
        time_column = offline_utils.infer_event_timestamp_from_entity_df(
            dict(entities.schema.empty_table().to_pandas().dtypes)
        )
        keys = offline_utils.get_expected_join_keys(project, feature_views, registry)
        if missing := (keys | {time_column}) - set(entities.column_names):
            raise FeastEntityDFMissingColumnsError(keys | {time_column}, missing)  # type: ignore[no-untyped-call]
        times = _utc(entities[time_column])
        span = (times.min(), times.max())
        contexts = offline_utils.get_feature_view_query_context(
            feature_refs, feature_views, registry, project, span
        )
        reads = [ViewRead.of(context) for context in contexts]

        def compute() -> pa.Table:
            joined = entities
            with _get_conn(config.offline_store) as connection:
                connection.read_only = True
                for read in reads:
                    rows = read.execute(connection, entities, span)
                    found = newest_rows(entities, times, rows, read)
                    for feature, name in read.outputs(full_feature_names).items():
                        joined = joined.append_column(name, rows[feature].take(found))
            return joined

        return AsOfRetrievalJob(
            compute,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.column_names if name != time_column],
                min_event_timestamp=span[0].to_pydatetime(),
                max_event_timestamp=span[1].to_pydatetime(),
            ),
        )


def _entity_table(config: RepoConfig, entity_df: pd.DataFrame | str) -> pa.Table:
    if isinstance(entity_df, pd.DataFrame):
        return pa.Table.from_pandas(entity_df, preserve_index=False)
    if isinstance(entity_df, str):
        with _get_conn(config.offline_store) as connection:
            connection.read_only = True
            return fetch(connection, entity_df)
    raise InvalidEntityType(type(entity_df))


def _utc(column: pa.ChunkedArray) -> pd.Series[pd.Timestamp]:
    """Microsecond UTC times; a time without zone is UTC, as everywhere in Feast."""
    times: pd.Series[pd.Timestamp] = pd.to_datetime(column.to_pandas(), utc=True).dt.as_unit("us")
    return times
