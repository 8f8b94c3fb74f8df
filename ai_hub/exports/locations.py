"""Locations of exports: a folder, or a bucket with a prefix (`s3`), with a part for each tenant.

The files of an attempt are written to a target there, unseen until all of them are complete. In a folder this
is a hidden file or folder beside the final one, which is renamed at the end.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from ai_hub.errors import BadInputError
from ai_hub.exports.export import OutputPathError, PathTakenError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from uuid import UUID

    from ai_hub.exports.export import Export, Request
    from ai_hub.settings import Settings


_S3: Final = "s3"


@dataclass(frozen=True)
class Bucket:
    """Objects of one tenant: those in `name` whose keys begin with `prefix`."""

    name: str
    prefix: str


def tenant_location(settings: Settings, tenant: str) -> Path | Bucket:
    """The tenant's part of EXPORT_STORAGE_PATH.

    Raises:
        BadInputError: the setting is neither a folder nor s3://bucket/prefix.
    """
    root = settings.export_storage_path
    if "://" not in root:
        return Path(root).absolute() / tenant
    parts = urlsplit(root)
    if parts.scheme != _S3 or not parts.netloc:
        raise BadInputError(
            f"EXPORT_STORAGE_PATH {root!r} is no place for exports.",
            hint="Use a folder, or s3://bucket/prefix.",
        )
    return Bucket(parts.netloc, "/".join(filter(None, [parts.path.strip("/"), tenant])) + "/")


def local_path(folder: Path, path: str) -> Path:
    """`path` below the tenant's `folder`.

    Raises:
        OutputPathError: links on the way lead out of it.
    """
    location = folder / path
    try:
        # the root may be a link, the tenant's folder in it may not
        home = folder.parent.resolve() / folder.name
        inside = location.resolve().is_relative_to(home) and not location.is_symlink()
    except (OSError, RuntimeError) as error:
        raise OutputPathError(path, "cannot be looked up") from error
    if not inside:
        raise OutputPathError(path, "leads out of the tenant's folder by a link")
    return location


def is_gone(settings: Settings, storage_path: str) -> bool:
    """Whether the files of an export are gone, as far as this process can see."""
    if not storage_path.startswith(f"{_S3}://"):
        return not os.path.lexists(storage_path)
    from ai_hub.exports import s3  # noqa: PLC0415  # most installations need none

    return s3.is_gone(settings, storage_path)


def check_location(settings: Settings, request: Request) -> None:
    """Make sure that the request's path is in the tenant's part.

    Raises:
        OutputPathError: it is not.
        BadInputError: EXPORT_STORAGE_PATH is unusable.
    """
    place = tenant_location(settings, request.tenant)
    if isinstance(place, Path) and request.output_path is not None:
        local_path(place, request.output_path)


class Sink(Protocol):
    """Takes the bytes of one file, in order."""

    def write(self, data: memoryview) -> object:
        """Add bytes."""


class Target(Protocol):
    """A file or a folder of files, in a folder or a bucket."""

    def clean(self) -> None:
        """Remove what this attempt and earlier ones have there; they cannot publish it any more.

        What a later one has there stays: this process may have been asleep.
        """

    def create(self, path: str) -> AbstractContextManager[Sink]:
        """A new file; `path` is below the export's folder, and empty where the export is one file."""

    def publish(self, manifest: bytes | None) -> str:
        """Make all files appear, and return where.

        Raises:
            PathTakenError: something is there already.
        """


def target_of(settings: Settings, export: Export) -> Target:
    """Where this attempt at a job is written.

    Raises:
        OutputPathError: links lead out of the tenant's folder.
        BadInputError: EXPORT_STORAGE_PATH is unusable.
        SettingMissingError: the S3 store is not configured.
    """
    # imported here: most installations need one of them only
    place = tenant_location(settings, export.tenant_id)
    if isinstance(place, Path):
        return LocalTarget(place, export)
    from ai_hub.exports.s3 import S3Target  # noqa: PLC0415

    return S3Target(settings, place, export)


#: Names of the export and its fence in the metadata of each file.
EXPORT_ID: Final = b"ai_hub.export_id"
_FENCE: Final = b"ai_hub.fence"
_PARTIAL: Final = ".partial"
_FILE_MODE, _FOLDER_MODE = 0o640, 0o750
_TAKEN: Final = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}


class LocalTarget:
    """See `Target`."""

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
    """Whether the file was written by this export."""
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
