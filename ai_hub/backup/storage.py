"""Storage of a backup: a folder, or a bucket with a prefix in the S3 store of the settings."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError

from ai_hub.backup.manifest import checksum
from ai_hub.errors import BadInputError, NotFoundError, ServiceDownError
from ai_hub.servers import s3_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

    from ai_hub.backup.manifest import File
    from ai_hub.settings import Settings

_GONE = {"404", "NoSuchKey", "NotFound", "NoSuchBucket"}


class FolderStorage:
    """A folder that only its owner may read: password hashes are in it."""

    bucket = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, path: str, source: Path) -> None:
        """Move it, in one step."""
        target = self._folder / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        source.chmod(0o600)
        source.replace(target)

    def get(self, path: str, scratch: Path) -> Path:
        """The file itself."""
        del scratch
        return self._folder / path

    def has(self, path: str) -> bool:
        """As `Storage.has`."""
        return (self._folder / path).is_file()

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Beside the files, so that finished ones are moved."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=self._folder) as name:
            yield Path(name)


class S3Storage:
    """Objects below a prefix; dumps pass through a local temporary folder."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self.bucket: str | None = bucket
        self._client = client
        self._name = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def put(self, path: str, source: Path) -> None:
        """Upload it."""
        with self._readable_errors():
            self._client.upload_file(str(source), self._name, self._prefix + path)
        source.unlink()

    def get(self, path: str, scratch: Path) -> Path:
        """Download it."""
        descriptor, name = tempfile.mkstemp(dir=scratch)
        os.close(descriptor)
        with self._readable_errors():
            self._client.download_file(self._name, self._prefix + path, name)
        return Path(name)

    def has(self, path: str) -> bool:
        """As `Storage.has`."""
        try:
            with self._readable_errors():
                self._client.head_object(Bucket=self._name, Key=self._prefix + path)
        except NotFoundError:
            return False
        return True

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """In the system's folder of temporary files (TMPDIR)."""
        with tempfile.TemporaryDirectory(prefix="ai-hub-backup-") as name:
            yield Path(name)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except (ClientError, S3UploadFailedError) as error:
            # of an upload, boto3 keeps the cause as the context alone
            cause = error if isinstance(error, ClientError) else error.__context__
            code = cause.response.get("Error", {}).get("Code", "") if isinstance(cause, ClientError) else ""
            if code in _GONE:
                raise NotFoundError(
                    f"s3://{self._name}/{self._prefix} has no such file, or no such bucket."
                ) from error
            raise ServiceDownError("S3", f"s3://{self._name}", str(error)) from error
        except BotoCoreError as error:
            raise ServiceDownError("S3", f"s3://{self._name}", str(error)) from error


def open_storage(place: str, settings: Settings) -> FolderStorage | S3Storage:
    """The storage at a folder or `s3://bucket/prefix`.

    Raises:
        BadInputError: it is neither.
        SettingMissingError: the S3 store is not configured.
    """
    if "://" not in place:
        folder = Path(place).absolute()
        if folder.exists() and not folder.is_dir():
            raise BadInputError(
                f"{folder} is not a folder.", hint="Name a new folder, or s3://bucket/prefix."
            )
        return FolderStorage(folder)
    parts = urlsplit(place)
    if parts.scheme != "s3" or not parts.netloc:
        raise BadInputError(
            f"{place!r} is no place for a backup.", hint="Use a folder, or s3://bucket/prefix."
        )
    return S3Storage(s3_client(settings), parts.netloc, parts.path.strip("/"))


def fetch(storage: FolderStorage | S3Storage, file: File, scratch: Path) -> Path:
    """A local file whose checksum is that of the manifest.

    Raises:
        BadInputError: it is damaged or missing.
    """
    try:
        path = storage.get(file.path, scratch)
        actual = checksum(path)
    except (NotFoundError, FileNotFoundError) as error:
        raise BadInputError(f"{file.path} is missing in the backup.", hint="Take another backup.") from error
    if actual != (file.size, file.sha256):
        raise BadInputError(
            f"{file.path} is damaged: its checksum is not that of the manifest.", hint="Take another backup."
        )
    return path


def copy(source: Path, target: Path) -> None:
    """Copy a file in one step: `target` appears complete, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name[:100]}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)
