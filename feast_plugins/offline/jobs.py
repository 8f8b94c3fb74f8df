"""Retrieval jobs with Arrow results, and the files and tables they are saved to, atomically."""

from __future__ import annotations

import operator
from abc import abstractmethod
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    SavedDatasetPostgreSQLStorage,
)
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob
from pyarrow import fs
from pyarrow.dataset import dataset

from feast_plugins.errors import ExportLocationMissingError, SavedDatasetStorageError
from feast_plugins.postgres.session import connect, stream, text
from feast_plugins.postgres.writing import create_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import pandas as pd
    from adbc_driver_manager import dbapi
    from feast.infra.offline_stores.offline_store import RetrievalMetadata
    from feast.on_demand_feature_view import OnDemandFeatureView
    from feast.saved_dataset import SavedDatasetStorage

    from feast_plugins.offline_store import TimescaleOfflineStoreConfig
    from feast_plugins.postgres.session import Query


#: Rows per row group (about 16 MB of 16 columns), and per file of an export.
_GROUP = 1 << 17
_FILE = 1 << 20


def save_dataset(
    config: TimescaleOfflineStoreConfig,
    storage: SavedDatasetStorage,
    batches: pa.RecordBatchReader,
    *,
    overwrite: bool,
) -> None:
    """Write `batches` as the Parquet file or the table that `storage` names.

    Raises:
        SavedDatasetLocationAlreadyExists: the file or table exists, and `overwrite` is false.
        SavedDatasetStorageError: the storage is neither of the two.
    """
    if isinstance(storage, SavedDatasetPostgreSQLStorage):
        create_table(config, storage.postgres_options._table, batches, replace=overwrite)  # noqa: SLF001  # the option has no other name
        return
    if not isinstance(storage, SavedDatasetFileStorage):
        raise SavedDatasetStorageError(type(storage))
    options = storage.file_options
    filesystem, path = _filesystem(options.uri, options.s3_endpoint_override)
    if not overwrite and filesystem.get_file_info(path).type != fs.FileType.NotFound:
        raise SavedDatasetLocationAlreadyExists(options.uri)
    with _file(filesystem, path, batches.schema) as file:
        for batch in batches:
            file.write_batch(batch, row_group_size=_GROUP)


def export_parquet(config: TimescaleOfflineStoreConfig, batches: pa.RecordBatchReader) -> list[str]:
    """Write `batches` as files of about a million rows into a new folder, and return their addresses.

    Raises:
        ExportLocationMissingError: the store has no `export_location`.
    """
    if config.export_location is None:
        raise ExportLocationMissingError
    folder = f"{config.export_location.rstrip('/')}/{uuid4().hex}"
    filesystem, path = _filesystem(folder, config.export_s3_endpoint)
    names: list[str] = []
    try:
        for number, part in enumerate(_parts(batches)):
            name = f"part-{number:05}.parquet"
            with _file(filesystem, f"{path}/{name}", batches.schema) as file:
                file.write_table(part, row_group_size=_GROUP)
            names.append(name)
    except BaseException:
        for name in names:
            filesystem.delete_file(f"{path}/{name}")
        raise
    return [f"{folder}/{name}" for name in names]


def read_saved_dataset(
    source: FileSource, columns: Sequence[str], time: str, bounds: tuple[datetime | None, datetime | None]
) -> pa.RecordBatchReader:
    """Columns of the rows of Parquet files between two times, both included."""
    filesystem, path = _filesystem(source.path, source.s3_endpoint_override)
    rows = dataset(path, filesystem=filesystem, format="parquet")
    kind, condition = rows.schema.field(time).type, pc.scalar(True)  # Arrow's constant
    for end, compare in zip(bounds, (operator.ge, operator.le), strict=True):
        if end is not None:
            naive = end if kind.tz else end.astimezone(UTC).replace(tzinfo=None)
            condition &= compare(pc.field(time), pa.scalar(naive, kind))
    return rows.scanner(columns=list(columns), filter=condition).to_reader()


def _parts(batches: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Tables of about `_FILE` rows; at least one."""
    pending: list[pa.RecordBatch] = []
    first = True
    for batch in batches:
        pending.append(batch)
        if sum(part.num_rows for part in pending) >= _FILE:
            yield pa.Table.from_batches(pending)
            pending, first = [], False
    if pending or first:
        yield pa.Table.from_batches(pending, batches.schema)


@contextmanager
def _file(filesystem: fs.FileSystem, path: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Writer of a Parquet file that gets its name when it is complete."""
    unfinished = f"{path}.{uuid4().hex}.unfinished"
    if isinstance(filesystem, fs.LocalFileSystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        with pq.ParquetWriter(unfinished, schema, filesystem=filesystem, compression="zstd") as file:
            yield file
        filesystem.move(unfinished, path)
    except BaseException:
        if filesystem.get_file_info(unfinished).type != fs.FileType.NotFound:
            filesystem.delete_file(unfinished)
        raise


def _filesystem(address: str, endpoint: str | None) -> tuple[fs.FileSystem, str]:
    """Filesystem and path of a local path or an `s3://` address, with the credentials of the environment."""
    filesystem, path = FileSource.create_filesystem_and_path(address, endpoint or "")
    return filesystem or fs.LocalFileSystem(), path.removeprefix("file://")


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
        """Write the result as a Parquet file or a table, atomically.

        Raises:
            SavedDatasetLocationAlreadyExists: the file or table exists, and `allow_overwrite` is false.
            SavedDatasetStorageError: the storage is neither of the two.
            QueryTimeoutError: the database did not finish in time.
        """
        with self._complete(timeout) as batches:
            save_dataset(self._config, storage, batches, overwrite=bool(allow_overwrite))

    def supports_remote_storage_export(self) -> bool:
        """Whether the store's `export_location` is set."""
        return self._config.export_location is not None

    def to_remote_storage(self) -> list[str]:
        """Write the result as Parquet files into a new folder of `export_location`, and return their paths.

        Raises:
            ExportLocationMissingError: the store has no `export_location`.
        """
        with self._complete() as batches:
            return export_parquet(self._config, batches)

    @contextmanager
    def _complete(self, timeout: int | None = None) -> Iterator[pa.RecordBatchReader]:
        """The rows with the on-demand features, which need all rows at once."""
        if self._on_demand_feature_views:
            yield self.to_arrow(timeout=timeout).to_reader()
        else:
            with self.batches(timeout) as batches:
                yield batches


class QueryJob(ArrowRetrievalJob):
    """Rows of one query; `before` is called in its transaction."""

    def __init__(
        self,
        config: TimescaleOfflineStoreConfig,
        query: Query,
        *,
        before: Callable[[dbapi.Connection], None] = lambda _: None,
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
        self._before = before

    def to_sql(self) -> str:
        """The query."""
        return text(self._query)

    @contextmanager
    def batches(self, timeout: float | None = None) -> Iterator[pa.RecordBatchReader]:
        """Rows as they arrive from the database."""
        with connect(self._config, timeout or self._config.statement_timeout_s) as connection:
            self._before(connection)
            with stream(connection, self._query) as batches:
                yield batches


class JoinJob(ArrowRetrievalJob):
    """Rows that a function of the statement time-out in seconds joins."""

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
        """A query that gives the same rows, joined in the database.

        Raises:
            NotImplementedError: there is none of several views without entity rows, nor of earlier versions.
        """
        if self._query is None:
            raise NotImplementedError(
                "No one query gives these rows: they are joined outside of the database. Use to_arrow()."
            )
        return text(self._query())

    @contextmanager
    def batches(self, timeout: float | None = None) -> Iterator[pa.RecordBatchReader]:
        """The joined rows, all of which are computed before the first is returned."""
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
        """Rows as they are read from the file; `timeout` has no effect."""
        del timeout
        yield read_saved_dataset(self._source, self._columns, self._time, self._bounds)
