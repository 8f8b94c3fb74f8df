"""Objects of a bucket and files of a folder, each kept once under the SHA-256 of its content."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path  # a field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from ai_hub.backup.manifest import Entry, File, Objects, describe
from ai_hub.backup.storage import copy, fetch
from ai_hub.errors import BadInputError, ConflictError, ServiceDownError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mypy_boto3_s3 import S3Client  # noqa: TC004  # the annotation of a field is never evaluated

    from ai_hub.backup.storage import FolderStorage, S3Storage

    Progress = Callable[[int, int], None]

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE: Final = 8
_BLOCK: Final = 1 << 20
_SHOWN: Final = 5
_GONE: Final = {"404", "NoSuchKey", "NotFound"}


class Place(Protocol):
    """Where objects are: a bucket or a folder."""

    @property
    def source(self) -> str:
        """Address without secrets, for people."""

    def keys(self) -> list[str]:
        """Every object there is."""

    def read(self, key: str, target: Path) -> Entry | None:
        """Write an object's content to `target`; None if it was deleted meanwhile."""

    def checksum(self, key: str) -> tuple[int, str]:
        """Size and SHA-256 of an object's content."""

    def write(self, entry: Entry, source: Path) -> None:
        """Make the object, in one step."""


@dataclass(frozen=True)
class BucketPlace:
    """Objects of a bucket below a prefix."""

    client: S3Client
    bucket: str
    prefix: str = ""

    @property
    def source(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self.prefix}"

    def keys(self) -> list[str]:
        """Every key; none where there is no bucket yet."""
        found = []
        try:
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix
            ):
                found += [item["Key"] for item in page.get("Contents", [])]
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == "NoSuchBucket":
                return []
            raise ServiceDownError("S3", self.source, str(error)) from error
        except BotoCoreError as error:
            raise ServiceDownError("S3", self.source, str(error)) from error
        return found

    def read(self, key: str, target: Path) -> Entry | None:
        """As `Place.read`, with its type and metadata."""
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _GONE:
                return None
            raise
        digest, size = hashlib.sha256(), 0
        with target.open("wb") as file:
            for block in answer["Body"].iter_chunks(_BLOCK):
                digest.update(block)
                size += file.write(block)
        if size != answer["ContentLength"]:
            raise ServiceDownError(
                "S3", self.source, f"{key} ended after {size} of {answer['ContentLength']} bytes"
            )
        return Entry(
            key=key,
            size=size,
            sha256=digest.hexdigest(),
            content_type=answer.get("ContentType"),
            metadata=answer.get("Metadata", {}),
        )

    def checksum(self, key: str) -> tuple[int, str]:
        """As `Place.checksum`."""
        digest, size = hashlib.sha256(), 0
        for block in self.client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(_BLOCK):
            digest.update(block)
            size += len(block)
        return size, digest.hexdigest()

    def write(self, entry: Entry, source: Path) -> None:
        """As `Place.write`."""
        extra: dict[str, object] = {"Metadata": entry.metadata}
        if entry.content_type:
            extra["ContentType"] = entry.content_type
        if entry.key.endswith("/") and not entry.size:  # a folder's mark, which the transfer manager refuses
            self.client.put_object(Bucket=self.bucket, Key=entry.key, Body=b"", Metadata=entry.metadata)
        else:
            self.client.upload_file(str(source), self.bucket, entry.key, ExtraArgs=extra)

    def prepare(self) -> None:
        """Make the bucket unless it is there."""
        try:
            self.client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in {*_GONE, "NoSuchBucket"}:
                raise ServiceDownError("S3", self.source, str(error)) from error
            self.client.create_bucket(Bucket=self.bucket)


@dataclass(frozen=True)
class FolderPlace:
    """Files below a folder."""

    folder: Path

    @property
    def source(self) -> str:
        """The folder."""
        return str(self.folder)

    def keys(self) -> list[str]:
        """Every file's path in the folder; links are left out."""
        return sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        )

    def read(self, key: str, target: Path) -> Entry | None:
        """As `Place.read`."""
        try:
            copy(self.folder / key, target)
        except FileNotFoundError:
            return None
        found = describe(target, key)
        return Entry(key=key, size=found.size, sha256=found.sha256)

    def checksum(self, key: str) -> tuple[int, str]:
        """As `Place.checksum`."""
        found = describe(self.folder / key, key)
        return found.size, found.sha256

    def write(self, entry: Entry, source: Path) -> None:
        """As `Place.write`."""
        target = self.folder / entry.key
        if not target.resolve().is_relative_to(self.folder.resolve()):
            raise BadInputError(f"{entry.key} of the backup leads out of {self.folder}.")
        copy(source, target)

    def prepare(self) -> None:
        """Make the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)


def backup(
    name: str, place: Place, storage: FolderStorage | S3Storage, scratch: Path, progress: Progress
) -> Objects:
    """Keep every object; those whose content is kept already are only listed."""

    def keep(key: str) -> Entry | None:
        partial = scratch / hashlib.sha256(f"{name} {key}".encode()).hexdigest()
        entry = place.read(key, partial)
        if entry is not None and not storage.has(content := _content(entry.sha256)):
            storage.put(content, partial)
        partial.unlink(missing_ok=True)
        return entry

    keys = place.keys()
    entries = [entry for entry in _all(keep, keys, progress) if entry is not None]
    listing = scratch / f"{name}.jsonl"
    listing.write_text("".join(f"{entry.model_dump_json()}\n" for entry in entries))
    index = describe(listing, f"{name}.jsonl")
    storage.put(index.path, listing)
    return Objects(
        source=place.source, index=index, count=len(entries), bytes=sum(entry.size for entry in entries)
    )


def read_index(kept: Objects, storage: FolderStorage | S3Storage, scratch: Path) -> list[Entry]:
    """The objects of a backup.

    Raises:
        BadInputError: the list is damaged.
    """
    return [
        Entry.model_validate_json(line)
        for line in fetch(storage, kept.index, scratch).read_text().splitlines()
    ]


def refuse_if_filled(name: str, place: Place, entries: Iterable[Entry]) -> None:
    """Make sure that nothing is there but what an interrupted restore of the same objects left.

    Raises:
        ConflictError: something else is.
    """
    keys_of_backup = {entry.key for entry in entries}
    if unexpected := sorted({*place.keys()} - keys_of_backup):
        more = f" and {len(unexpected) - _SHOWN} more" if len(unexpected) > _SHOWN else ""
        raise ConflictError(
            f"{place.source} ({name}) is not empty: it has {', '.join(unexpected[:_SHOWN])}{more}.",
            hint="A restore goes into empty servers only. Use a new bucket or folder, or empty this one.",
        )


def restore(
    place: Place, entries: list[Entry], storage: FolderStorage | S3Storage, scratch: Path, progress: Progress
) -> None:
    """Write every object that is not there as it was, and read all of them back.

    Raises:
        BadInputError: the backup is damaged.
        ServiceDownError: what was read back is not what was written.
    """
    present = set(place.keys())

    def bring(entry: Entry) -> None:
        if entry.key in present and place.checksum(entry.key) == (entry.size, entry.sha256):
            return
        content = File(path=_content(entry.sha256), size=entry.size, sha256=entry.sha256)
        source = fetch(storage, content, scratch)
        place.write(entry, source)
        if source.is_relative_to(scratch):
            source.unlink()
        if place.checksum(entry.key) != (entry.size, entry.sha256):
            raise ServiceDownError("Storage", place.source, f"{entry.key} came back changed")

    for _ in _all(bring, entries, progress):
        pass


def _content(sha256: str) -> str:
    return f"content/{sha256[:2]}/{sha256}"


def _all(work: Callable[[T], R], items: list[T], progress: Progress) -> Iterator[R]:
    progress(0, len(items))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for number, result in enumerate(pool.map(work, items), start=1):
            progress(number, len(items))
            yield result
