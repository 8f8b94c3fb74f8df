"""Where the files of one attempt at a job are written, unseen until all of them are complete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ai_hub.exports.places import tenant_place

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ai_hub.exports.jobs import Export
    from ai_hub.settings import Settings


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


def target_of(settings: Settings, job: Export) -> Target:
    """Where this attempt at a job is written.

    Raises:
        OutputPathError: links lead out of the tenant's folder.
        BadInputError: EXPORT_STORAGE_PATH is unusable.
        SettingMissingError: the S3 store is not configured.
    """
    # imported here: most installations need one of them only
    place = tenant_place(settings, job.tenant_id)
    if isinstance(place, Path):
        from ai_hub.exports.local import LocalTarget  # noqa: PLC0415

        return LocalTarget(place, job)
    from ai_hub.exports.s3 import S3Target  # noqa: PLC0415

    return S3Target(settings, place, job)
