"""Feast offline store for TimescaleDB and plain Postgres.

Named in `feature_store.yaml` as `type: feast_plugins.offline_store.TimescaleOfflineStore`. History is joined
outside the database: one range read of each feature view, then an as-of join by key and time. Its cost grows
with the rows read, not with their square, and keys are compared one by one, so no two tenants share a row.
Rows can be read as they were known earlier, for all rows at one time (`known_at`) or for each at its own
(Feast's `filter_by_created_timestamp`), from the versions that a source's tag names.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import pyarrow as pa
from feast.errors import FeastEntityDFMissingColumnsError, InvalidEntityType
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.utils.postgres.connection_utils import _get_conn
from feast.on_demand_feature_view import OnDemandFeatureView
from pydantic import AfterValidator, Field

from feast_plugins.as_of import newest_rows
from feast_plugins.errors import HistoryNotKnownError
from feast_plugins.offline_writes import upsert
from feast_plugins.postgres_reads import Knowledge, ViewRead, fetch
from feast_plugins.retrieval_job import AsOfRetrievalJob

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast.data_source import DataSource
    from feast.feature_view import FeatureView
    from feast.infra.offline_stores.offline_store import RetrievalJob
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.repo_config import RepoConfig


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class TimescaleOfflineStoreConfig(PostgreSQLOfflineStoreConfig):
    """Options of the stock Postgres store, under this store's type."""

    type: str = "feast_plugins.offline_store.TimescaleOfflineStore"  # type: ignore[assignment]  # names the class

    late_seconds: int = Field(10_800, ge=0)
    """How far behind its start a materialization looks for rows that late readings changed."""

    known_at: Annotated[datetime, AfterValidator(_aware)] | None = None
    """Read features as they were known at this time (UTC if naive); None: as they are now."""


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

        Raises:
            HistoryNotKnownError: the store is open as of an earlier time.
        """
        if config.offline_store.known_at is not None:
            raise HistoryNotKnownError(
                "This store shows features as known at an earlier time, which are nothing to serve. "
                "Materialize without `known_at`."
            )
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
        """History for a frame or an SQL query of entity rows; without entity rows, the stock join.

        With `filter_by_created_timestamp` each entity row sees what was known at its own time. Sources
        without a time of creation have no versions and are read as they are, as everywhere in Feast.

        Raises:
            HistoryNotKnownError: an earlier state is asked for without entity rows, or by `known_at` of a
                source that does not tell when its rows were created.
        """
        knowledge = Knowledge(config.offline_store.known_at, filter_by_created_timestamp)
        if entity_df is None:
            if knowledge.is_limited:
                raise HistoryNotKnownError(
                    "What was known at an earlier time can be asked with entity rows only: "
                    "give entity_df, or neither known_at nor filter_by_created_timestamp."
                )
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
        tags = _source_tags(feature_views)
        reads = [ViewRead.of(context, tags[context.name], knowledge) for context in contexts]
        if unknown := [read.view for read in reads if read.created is None and knowledge.at is not None]:
            raise HistoryNotKnownError(
                f"The source of {', '.join(unknown)} has no created_timestamp_column, "
                "so nothing says what was known of it at an earlier time."
            )

        def compute() -> pa.Table:
            joined = entities
            with _get_conn(config.offline_store) as connection:
                connection.read_only = True
                for read in reads:
                    rows = read.execute(connection, entities, span, knowledge)
                    as_known = knowledge.by_row and read.created is not None
                    found = newest_rows(entities, times, rows, read, as_known=as_known)
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

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows into the table of the view's batch source; writing them again changes nothing.

        Raises:
            WriteColumnsError: the columns are not those of the table.
            WriteTargetError: the source is no table, or keys and time are not unique in it.
        """
        with _get_conn(config.offline_store) as connection:
            upsert(connection, feature_view, table)
        if progress:
            progress(table.num_rows)


def _source_tags(feature_views: list[FeatureView]) -> dict[str, dict[str, str]]:
    """Tags of each view's source by the name the view has in this request."""
    return {
        view.projection.name_to_use(): view.batch_source.tags if view.batch_source else {}  # type: ignore[no-untyped-call]
        for view in feature_views
    }


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
