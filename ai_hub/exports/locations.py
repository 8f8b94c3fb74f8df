"""Where exports go: a folder, or a bucket with a prefix, with a part for each tenant.

The files of an attempt are written to a target there, unseen until all of them are complete.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from ai_hub.errors import BadInputError
from ai_hub.exports.errors import OutputPathError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ai_hub.exports.export import Export
    from ai_hub.exports.request import Request
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
    found = folder / path
    try:
        # the root may be a link, the tenant's folder in it may not
        home = folder.parent.resolve() / folder.name
        inside = found.resolve().is_relative_to(home) and not found.is_symlink()
    except (OSError, RuntimeError) as error:
        raise OutputPathError(path, "cannot be looked up") from error
    if not inside:
        raise OutputPathError(path, "leads out of the tenant's folder by a link")
    return found


def is_gone(settings: Settings, storage_path: str) -> bool:
    """Whether nothing is any more where an export was stored, as far as it can be told from here."""
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
        from ai_hub.exports.local import LocalTarget  # noqa: PLC0415

        return LocalTarget(place, export)
    from ai_hub.exports.s3 import S3Target  # noqa: PLC0415

    return S3Target(settings, place, export)
