"""Retrieval jobs whose results are Arrow: of a query, or of a function that computes a table."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

from feast.infra.offline_stores.offline_store import RetrievalJob

from feast_plugins.postgres.reads import stream, text
from feast_plugins.postgres.session import connect
from feast_plugins.retrieval import saved_datasets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    import pandas as pd
    import pyarrow as pa
    from feast.infra.offline_stores.file_source import FileSource
    from feast.infra.offline_stores.offline_store import RetrievalMetadata
    from feast.on_demand_feature_view import OnDemandFeatureView
    from feast.saved_dataset import SavedDatasetStorage

    from feast_plugins.offline_store import TimescaleOfflineStoreConfig
    from feast_plugins.postgres.reads import Query


class ArrowRetrievalJob(RetrievalJob):
    """What the jobs of this store have in common."""

    def __init__(
        self,
        config: TimescaleOfflineStoreConfig,
        *,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._config = config
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = list(on_demand_feature_views)
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

    @abstractmethod
    def batches(self, timeout: float | None = None) -> AbstractContextManager[pa.RecordBatchReader]:
        """Rows as a stream, without the on-demand features; `timeout` in seconds.

        Raises:
            QueryTimeoutError: the database did not finish in time.
        """

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with self.batches(timeout) as batches:
            return batches.read_all()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool | None = False, timeout: int | None = None
    ) -> None:
        """Write the result as a Parquet file or a table, all of it or nothing.

        Raises:
            SavedDatasetLocationAlreadyExists: something is there and may not be overwritten.
            SavedDatasetStorageError: the storage is neither of the two.
            QueryTimeoutError: the database did not finish in time.
        """
        with self._complete(timeout) as batches:
            saved_datasets.write(self._config, storage, batches, overwrite=bool(allow_overwrite))

    def supports_remote_storage_export(self) -> bool:
        """Whether the store's `export_location` is set."""
        return self._config.export_location is not None

    def to_remote_storage(self) -> list[str]:
        """Write the result as Parquet files into a new folder of `export_location`, and return their paths.

        Raises:
            ExportLocationMissingError: the store has no `export_location`.
        """
        with self._complete() as batches:
            return saved_datasets.export(self._config, batches)

    @contextmanager
    def _complete(self, timeout: int | None = None) -> Iterator[pa.RecordBatchReader]:
        """The rows with the on-demand features, which need all rows at once."""
        if self._on_demand_feature_views:
            yield self.to_arrow(timeout=timeout).to_reader()
        else:
            with self.batches(timeout) as batches:
                yield batches


class QueryJob(ArrowRetrievalJob):
    """Rows of one query."""

    def __init__(
        self,
        config: TimescaleOfflineStoreConfig,
        query: Query,
        *,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        super().__init__(
            config,
            full_feature_names=full_feature_names,
            on_demand_feature_views=on_demand_feature_views,
            metadata=metadata,
        )
        self._query = query

    def to_sql(self) -> str:
        """The query."""
        return text(self._query)

    @contextmanager
    def batches(self, timeout: float | None = None) -> Iterator[pa.RecordBatchReader]:
        """Rows as they arrive from the database."""
        with (
            connect(self._config, timeout or self._config.statement_timeout_s) as connection,
            stream(connection, self._query) as batches,
        ):
            yield batches


class JoinJob(ArrowRetrievalJob):
    """Rows that a function joins, given seconds that a statement may take."""

    def __init__(
        self,
        config: TimescaleOfflineStoreConfig,
        join: Callable[[float | None], pa.Table],
        *,
        query: Callable[[], Query] | None,
        full_feature_names: bool,
        on_demand_feature_views: Sequence[OnDemandFeatureView],
        metadata: RetrievalMetadata,
    ) -> None:
        super().__init__(
            config,
            full_feature_names=full_feature_names,
            on_demand_feature_views=on_demand_feature_views,
            metadata=metadata,
        )
        self._join = join
        self._query = query

    def to_sql(self) -> str:
        """A query that gives the same rows, joined by the database alone.

        Raises:
            NotImplementedError: there is none: rows of several views without entity rows, or as they were
                known at another time, are joined here only.
        """
        if self._query is None:
            raise NotImplementedError(
                "No one query gives these rows: they are joined outside of the database. Use to_arrow()."
            )
        return text(self._query())

    @contextmanager
    def batches(self, timeout: float | None = None) -> Iterator[pa.RecordBatchReader]:
        """The joined rows, which are all there before the first is given."""
        yield self._join(timeout or self._config.statement_timeout_s).to_reader()


class SavedRowsJob(ArrowRetrievalJob):
    """Rows of a saved dataset in Parquet, between two times."""

    def __init__(
        self,
        config: TimescaleOfflineStoreConfig,
        source: FileSource,
        columns: Sequence[str],
        time: str,
        bounds: tuple[datetime | None, datetime | None],
    ) -> None:
        super().__init__(config)
        self._source = source
        self._columns = list(dict.fromkeys([*columns, time]))
        self._time = time
        self._bounds = bounds

    @contextmanager
    def batches(self, timeout: float | None = None) -> Iterator[pa.RecordBatchReader]:
        """Rows as they are read from the file; without a database there is no time-out."""
        del timeout
        yield saved_datasets.read(self._source, self._columns, self._time, self._bounds)
