"""Feast offline store for TimescaleDB and plain Postgres.

Named in `feature_store.yaml` as `type: feast_plugins.offline_store.TimescaleOfflineStore`. Rows leave the
database as Arrow. History is joined where it is cheaper: in the database by one index probe per entity row,
or in Arrow after one range read per view. The cost is linear in the number of rows. Join keys are compared
column by column, so no two tenants share a row. Earlier versions of rows can be read: of one time for all
entity rows (`known_at`), or of each entity row's own time (Feast's `filter_by_created_timestamp`). The tag
`versions` of a source names the relation that holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from feast.feature_view import FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.utils import compute_non_entity_date_range
from pydantic import AfterValidator, Field

from feast_plugins.errors import HistoryNotKnownError
from feast_plugins.offline import date_range, history
from feast_plugins.offline.entities import Entities
from feast_plugins.offline.history import JoinStrategy
from feast_plugins.offline.jobs import JoinJob, QueryJob, SavedRowsJob
from feast_plugins.offline.on_demand import once_per_input
from feast_plugins.offline.unstored import warn_of_unstored
from feast_plugins.offline.views import AsOfFilter, ViewRead
from feast_plugins.postgres import sources
from feast_plugins.postgres.serving import lookup_table
from feast_plugins.postgres.session import connect, open_connection, use_in_sources
from feast_plugins.postgres.writing import upsert
from feast_plugins.windows.declarations import HORIZON_TAG, declaration_of, declared_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd
    import pyarrow as pa
    from feast.data_source import DataSource
    from feast.infra.offline_stores.offline_store import RetrievalJob

    from feast_plugins.postgres.session import Query


use_in_sources()

#: Tag of a source: columns, separated by commas, that the database fills when rows are written.
FILLED_TAG: Final = "filled_by_database"


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class TimescaleOfflineStoreConfig(PostgreSQLOfflineStoreConfig):
    """Options of the stock Postgres store, under this store's type, and some of its own.

    `entity_select_mode` has no effect: entity rows need no table.
    """

    type: str = "feast_plugins.offline_store.TimescaleOfflineStore"  # type: ignore[assignment]  # names the class

    late_seconds: int = Field(10_800, ge=0)
    """Seconds before its start from which a materialization reads rows: late readings may change them."""

    known_at: Annotated[datetime, AfterValidator(_aware)] | None = None
    """Read features as they were known at this time (UTC if naive); None: as they are now."""

    join_strategy: JoinStrategy = JoinStrategy.AUTO
    """Where history for entity rows is joined; `auto` compares the planner's estimates."""

    statement_timeout_s: float | None = Field(None, gt=0)
    """Seconds after which the database cancels a statement of a read; None: never."""

    transaction_start: str | None = None
    """Statement that each transaction of a read begins with, such as one that sets a role; None: none."""

    export_location: str | None = None
    """Folder or `s3://` address that `to_remote_storage` writes Parquet files to."""

    export_s3_endpoint: str | None = None
    """URL of the S3 server of `export_location`; None: Amazon's."""


class TimescaleOfflineStore(PostgreSQLOfflineStore):
    """Postgres store with linear, key-exact point-in-time joins and Arrow end to end."""

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
        """Newest row of each entity from `late_seconds` before `start_date` to `end_date`.

        `feast materialize-incremental` starts where the last run ended. A late reading changes a row whose
        event time is before that.

        Raises:
            HistoryNotKnownError: the store has `known_at`.
        """
        store = config.offline_store
        if store.known_at is not None:
            raise HistoryNotKnownError(
                "This store reads features as known at an earlier time, which must not be served. "
                "Materialize without `known_at`."
            )
        since = _aware(start_date) - timedelta(seconds=store.late_seconds)
        source = sources.Source.of(
            data_source, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column
        )
        return QueryJob(store, sources.latest(source, since, _aware(end_date)))

    @staticmethod
    def pull_all_from_table_or_query(  # noqa: PLR0917  # Feast's signature
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row of a source, or of a saved dataset, from `start_date` to `end_date`, both included."""
        columns = (*join_key_columns, *feature_name_columns)
        bounds = (start_date and _aware(start_date), end_date and _aware(end_date))
        if isinstance(data_source, FileSource):
            return SavedRowsJob(config.offline_store, data_source, columns, timestamp_field, bounds)
        source = sources.Source.of(
            data_source, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column
        )
        return QueryJob(config.offline_store, sources.everything(source, *bounds))

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
        """History for a frame or an SQL query of entity rows or, without either, for a range of time.

        Entity rows of assets need no keys that the asset determines, see `lookup_table`, but where what was
        known earlier is asked for: the asset's keys of that time are not kept.

        With `filter_by_created_timestamp` each entity row reads the versions that existed at its own time.
        Sources without a created timestamp have no versions and are read as they are, as everywhere in Feast.

        Raises:
            HistoryNotKnownError: an earlier state is requested without entity rows, or by `known_at` of a
                source without a created timestamp.
            EntityKeysError: without entity rows, no view has the join keys of all others.
        """
        store = config.offline_store
        as_of_filter = AsOfFilter(store.known_at, filter_by_created_timestamp)
        request = _Request(config, feature_views, feature_refs, registry, project, full_feature_names)
        if entity_df is not None:
            keys = offline_utils.get_expected_join_keys(project, feature_views, registry)
            lookups = {
                entity.join_key: table
                for entity in registry.list_entities(project, allow_cache=True)
                # of an earlier time it is not known which keys an asset had
                if not as_of_filter.is_limited and (table := lookup_table(entity)) is not None
            }
            return request.for_entities(Entities.of(config, entity_df, keys, lookups), as_of_filter)
        if as_of_filter.is_limited:
            raise HistoryNotKnownError(
                "What was known at an earlier time can be requested with entity rows only: "
                "give entity_df, or neither known_at nor filter_by_created_timestamp."
            )
        span = compute_non_entity_date_range(feature_views, kwargs.get("start_date"), kwargs.get("end_date"))
        return request.for_range(*span)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Upsert rows into the table of the view's batch source; writing them again changes nothing.

        Raises:
            WriteColumnsError: the columns differ from those of the table.
            WriteTargetError: the source is no table, or has no unique key of join keys and event time.
        """
        with open_connection(config.offline_store) as connection:
            upsert(connection, feature_view, table)
        if progress:
            progress(table.num_rows)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """Columns that written rows must have: all but those of the tag `filled_by_database`."""
        filled = data_source.tags.get(FILLED_TAG, "").split(",")
        columns = super().get_table_column_names_and_types_from_data_source(config, data_source)
        return [(name, kind) for name, kind in columns if name not in filled]


@dataclass(frozen=True)
class _Request:
    """The features and views of a history request."""

    config: RepoConfig
    views: list[FeatureView]
    refs: list[str]
    registry: BaseRegistry
    project: str
    full_feature_names: bool

    def for_entities(self, entities: Entities, as_of_filter: AsOfFilter) -> JoinJob:
        """Features as of the time of each entity row."""
        reads = self._reads(entities.span, as_of_filter)
        if unknown := [read.view for read in reads if read.created is None and as_of_filter.at is not None]:
            raise HistoryNotKnownError(
                f"The source of {', '.join(unknown)} has no created_timestamp_column, "
                "so nothing says what was known of it at an earlier time."
            )
        store = self.config.offline_store

        def join(timeout_s: float | None) -> pa.Table:
            with connect(store, timeout_s) as connection:
                warn_of_unstored(connection, reads, entities.span, entities, as_of_filter)
                return history.join(
                    connection,
                    entities,
                    reads,
                    as_of_filter,
                    strategy=store.join_strategy,
                    full_feature_names=self.full_feature_names,
                )

        def query() -> Query:
            with connect(store, store.statement_timeout_s) as connection:
                return history.as_query(
                    connection, entities, reads, full_feature_names=self.full_feature_names
                )

        keys = [name for name in entities.table.column_names if name != entities.time]
        is_query = not as_of_filter.is_limited and all(read.declaration is None for read in reads)
        return self._job(join, query if is_query else None, keys, entities.span)

    def for_range(self, start: datetime, end: datetime) -> RetrievalJob:
        """Rows between two times.

        Raises:
            HistoryNotKnownError: a view has a horizon.
        """
        reads = self._reads((start, end), AsOfFilter())
        if issues := [read.view for read in reads if read.declaration is not None]:
            raise HistoryNotKnownError(
                f"A row of {', '.join(issues)} is an issue of forecasts: give entity_df, whose event "
                "timestamps are the times of issue."
            )
        keys = list(dict.fromkeys(name for read in reads for name in read.keys))
        full = self.full_feature_names
        store = self.config.offline_store
        if len(reads) == 1:
            return QueryJob(
                store,
                date_range.rows_of(reads[0], start, end, full_feature_names=full),
                before=lambda connection: warn_of_unstored(connection, reads, (start, end)),
                full_feature_names=full,
                on_demand_feature_views=self._on_demand(),
                metadata=self._metadata(keys, (start, end)),
            )

        def join(timeout_s: float | None) -> pa.Table:
            with connect(store, timeout_s) as connection:
                warn_of_unstored(connection, reads, (start, end))
                return date_range.join(connection, reads, start, end, full_feature_names=full)

        return self._job(join, None, keys, (start, end))

    def _reads(self, span: tuple[datetime, datetime], as_of_filter: AsOfFilter) -> list[ViewRead]:
        contexts = offline_utils.get_feature_view_query_context(
            self.refs, self.views, self.registry, self.project, span
        )
        # by the name that a view has in this request
        tags = {
            view.projection.name_to_use(): view.batch_source.tags if view.batch_source else {}  # type: ignore[no-untyped-call]
            for view in self.views
        }
        declared = {view.projection.name_to_use(): declared_name(view) for view in self.views}  # type: ignore[no-untyped-call]
        declarations = {
            view.projection.name_to_use(): declaration_of(view)  # type: ignore[no-untyped-call]
            for view in self.views
            if HORIZON_TAG in (view.tags or {})
        }
        return [
            ViewRead.of(
                context,
                tags[context.name],
                as_of_filter,
                declarations.get(context.name),
                declared[context.name],
            )
            for context in contexts
        ]

    def _job(
        self,
        join: Callable[[float | None], pa.Table],
        query: Callable[[], Query] | None,
        keys: list[str],
        span: tuple[datetime, datetime],
    ) -> JoinJob:
        return JoinJob(
            self.config.offline_store,
            join,
            query=query,
            full_feature_names=self.full_feature_names,
            on_demand_feature_views=self._on_demand(),
            metadata=self._metadata(keys, span),
        )

    def _on_demand(self) -> list[OnDemandFeatureView]:
        views = OnDemandFeatureView.get_requested_odfvs(self.refs, self.project, self.registry)
        return [once_per_input(view) for view in views]

    def _metadata(self, keys: list[str], span: tuple[datetime, datetime]) -> RetrievalMetadata:
        return RetrievalMetadata(
            features=self.refs, keys=keys, min_event_timestamp=span[0], max_event_timestamp=span[1]
        )
