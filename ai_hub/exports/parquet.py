"""Parquet files of an export, hashed while they are written."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from ai_hub.exports.reading import ASSET, TIME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_hub.exports.locations import Sink, Target


#: Of each row group but the last one of a file.
GROUP_ROWS: Final = 131_072
_LEVEL: Final = 3


@dataclass(frozen=True)
class File:
    """One complete file."""

    path: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Written:
    """Result of an export, with the names of its columns in `feature_exports`."""

    row_count: int
    file_size_bytes: int
    sha256: str
    storage_path: str
    #: of a partitioned export, that of each file by its path
    file_sha256: dict[str, str] | None = None


class _Hashed:
    """File for pyarrow: counts and hashes the bytes on the way to the sink."""

    closed = False

    def __init__(self, sink: Sink) -> None:
        self.sink: Sink | None = sink
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.digest.update(view)
        self.size += view.nbytes
        if self.sink is not None:
            self.sink.write(view)
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing: the sink is closed at the end."""

    def close(self) -> None:
        """Nothing: whoever opened the sink closes it."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


class Writer:
    """Gathers rows into row groups of one file."""

    def __init__(self, path: str, sink: Sink, schema: pa.Schema) -> None:
        self.rows = 0
        self._path = path
        self._hashed = _Hashed(sink)
        self._waiting: list[pa.Table] = []
        names = schema.names
        self._parquet = pq.ParquetWriter(
            pa.PythonFile(self._hashed, mode="w"),
            schema,
            compression="zstd",
            compression_level=_LEVEL,
            # numbers measured seldom repeat
            use_dictionary=[field.name for field in schema if not pa.types.is_floating(field.type)],
            sorting_columns=[pq.SortingColumn(names.index(name)) for name in (ASSET, TIME)],
            write_page_index=True,
        )

    def write(self, rows: pa.Table) -> None:
        """Add rows, which come in the order of asset and time."""
        self._waiting.append(rows)
        self.rows += len(rows)
        waiting = sum(map(len, self._waiting))
        if waiting >= GROUP_ROWS:
            self._flush(waiting - waiting % GROUP_ROWS)

    def finish(self) -> File:
        """Write what is left, and the footer."""
        self._flush(sum(map(len, self._waiting)))
        self._parquet.close()
        return File(self._path, self.rows, self._hashed.size, self._hashed.digest.hexdigest())

    def discard(self) -> None:
        """Forget the file: pyarrow insists on a footer, which goes nowhere."""
        self._hashed.sink = None
        self._parquet.close()

    def _flush(self, count: int) -> None:
        """Write so many rows, and keep the others."""
        if self._waiting:
            rows = pa.concat_tables(self._waiting)
            self._parquet.write_table(rows.slice(0, count), row_group_size=GROUP_ROWS)
            self._waiting = [rows.slice(count)] if count < len(rows) else []


@contextmanager
def file(target: Target, path: str, schema: pa.Schema, files: list[File]) -> Iterator[Writer]:
    """A writer of one file of the target; at the end it is complete, and in `files`."""
    with target.create(path) as sink:
        writer = Writer(path, sink, schema)
        try:
            yield writer
            files.append(writer.finish())
        except BaseException:
            writer.discard()
            raise


def manifest(files: list[File]) -> bytes:
    """Canonical list of the files of a partitioned export; its SHA-256 is that of the export."""
    listed = [
        {"path": file.path, "rows": file.rows, "sha256": file.sha256, "size": file.size}
        for file in sorted(files, key=lambda file: file.path)
    ]
    return json.dumps({"files": listed}, indent=1, sort_keys=True).encode() + b"\n"


def summary(files: list[File], storage_path: str, *, partitioned: bool) -> Written:
    """The files together."""
    rows, size = sum(file.rows for file in files), sum(file.size for file in files)
    if not partitioned:
        return Written(rows, size, files[0].sha256, storage_path)
    checksums = {file.path: file.sha256 for file in files}
    return Written(rows, size, hashlib.sha256(manifest(files)).hexdigest(), storage_path, checksums)
