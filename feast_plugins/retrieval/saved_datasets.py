"""Results written where others find them: complete or not at all."""

from __future__ import annotations

import operator
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
from pyarrow import fs
from pyarrow.dataset import dataset

from feast_plugins.errors import ExportLocationMissingError, SavedDatasetStorageError
from feast_plugins.postgres.tables import create_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from feast.saved_dataset import SavedDatasetStorage

    from feast_plugins.offline_store import TimescaleOfflineStoreConfig

#: Rows of a row group, about 16 MB of 16 columns, and of a file of an export.
_GROUP = 1 << 17
_FILE = 1 << 20


def write(
    config: TimescaleOfflineStoreConfig,
    storage: SavedDatasetStorage,
    batches: pa.RecordBatchReader,
    *,
    overwrite: bool,
) -> None:
    """Write `batches` as the Parquet file or the table that `storage` names.

    Raises:
        SavedDatasetLocationAlreadyExists: something is there, and `overwrite` is false.
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


def export(config: TimescaleOfflineStoreConfig, batches: pa.RecordBatchReader) -> list[str]:
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


def read(
    source: FileSource, columns: Sequence[str], time: str, bounds: tuple[datetime | None, datetime | None]
) -> pa.RecordBatchReader:
    """Columns of the rows of Parquet files between two times, both included."""
    filesystem, path = _filesystem(source.path, source.s3_endpoint_override)
    rows = dataset(path, filesystem=filesystem, format="parquet")
    kind, wanted = rows.schema.field(time).type, pc.scalar(True)  # Arrow's constant
    for end, compare in zip(bounds, (operator.ge, operator.le), strict=True):
        if end is not None:
            naive = end if kind.tz else end.astimezone(UTC).replace(tzinfo=None)
            wanted &= compare(pc.field(time), pa.scalar(naive, kind))
    return rows.scanner(columns=list(columns), filter=wanted).to_reader()


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
    """A Parquet file that appears under its name when it is complete."""
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
