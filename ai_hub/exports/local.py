"""Exports in a local folder: a hidden file or folder beside the final one takes its name at the end."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pyarrow.parquet as pq

from ai_hub.exports.errors import PathTakenError
from ai_hub.exports.locations import local_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from ai_hub.exports.export import Export
    from ai_hub.exports.locations import Sink

#: Names of the export and its fence in the metadata of each file.
EXPORT_ID: Final = b"ai_hub.export_id"
_FENCE: Final = b"ai_hub.fence"
_PARTIAL: Final = ".partial"
_FILE_MODE, _FOLDER_MODE = 0o640, 0o750
_TAKEN: Final = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}


class LocalTarget:
    """See `targets.Target`."""

    def __init__(self, folder: Path, export: Export) -> None:
        self._export = export
        self._final = local_path(folder, export.output_path)
        mark = f".{self._final.name}.{export.export_id.hex}."
        self._partial = self._final.with_name(f"{mark}{export.fence}{_PARTIAL}")
        self._partials = re.compile(rf"{re.escape(mark)}(\d+){re.escape(_PARTIAL)}")

    def clean(self) -> None:
        """Unfinished files, and a finished one that was not recorded any more."""
        for path in self._unfinished():
            _remove(path)
        if self._is_ours():
            _remove(self._final)

    @contextmanager
    def create(self, path: str) -> Iterator[Sink]:
        """On disk for good when the block ends."""
        place = self._partial / path if path else self._partial
        place.parent.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def publish(self, manifest: bytes | None) -> str:
        """One rename, or of a file one link, so that nothing is ever replaced."""
        try:
            if manifest is None:
                os.link(self._partial, self._final)
                self._partial.unlink()
            else:
                for folder in [self._partial, *filter(os.path.isdir, self._partial.iterdir())]:
                    _sync(folder)
                self._partial.rename(self._final)
        except OSError as error:
            if error.errno in _TAKEN:
                raise PathTakenError(
                    self._export.output_path, "something that is no export of the hub"
                ) from error
            raise
        _sync(self._final.parent)
        return str(self._final)

    def _unfinished(self) -> list[Path]:
        try:
            with os.scandir(self._final.parent) as entries:
                return [
                    self._final.with_name(each.name)
                    for each in entries
                    if (match := self._partials.fullmatch(each.name)) and int(match[1]) <= self._export.fence
                ]
        except FileNotFoundError:
            return []

    def _is_ours(self) -> bool:
        try:
            files = self._final.rglob("*.parquet") if self._final.is_dir() else [self._final]
            return any(map(self._wrote, files))
        except (OSError, ValueError):
            return False

    def _wrote(self, path: Path) -> bool:
        found: dict[bytes, bytes] = pq.read_metadata(path).metadata or {}
        mine = found.get(EXPORT_ID) == str(self._export.export_id).encode()
        return mine and int(found.get(_FENCE, 0)) <= self._export.fence


def is_of(path: Path, export_id: UUID) -> bool:
    """Whether this export has written the file."""
    try:
        found: dict[bytes, bytes] = pq.read_metadata(path).metadata or {}
    except (OSError, ValueError):
        return False
    return found.get(EXPORT_ID) == str(export_id).encode()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
