"""The files of completed exports: listed, opened to be sent, removed."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from botocore.exceptions import BotoCoreError, ClientError
from psycopg.rows import class_row

from ai_hub.db.transactions import transaction
from ai_hub.errors import AiHubError, BadInputError, ConflictError, NotFoundError, ServiceDownError
from ai_hub.exports.export import COLUMNS, Export, RangeError, find_export
from ai_hub.exports.locations import is_of, local_path, target_of, tenant_location
from ai_hub.jobs import queue
from ai_hub.jobs.worker import reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from ai_hub.settings import Settings

_log = structlog.get_logger(__name__)
#: Of HTTP: one part, from a byte on, up to another, or the last so many.
_RANGE: Final = re.compile(r"bytes=(\d{1,18}-\d{0,18}|-\d{1,18})", re.ASCII)
_LINK_S: Final = 300
_CHUNK: Final = 1 << 20
_GONE: Final = frozenset({"NoSuchKey", "404", "NotFound", "NoSuchBucket"})
_OUT_OF_RANGE: Final = frozenset({"InvalidRange", "416"})
# taken for ten minutes: a worker that dies with it leaves it to the next
_TAKE_EXPIRED: Final = f"""
UPDATE feature_exports SET clean_after = clock_timestamp() + INTERVAL '10 minutes'
WHERE export_id = (
    SELECT export_id FROM feature_exports AS old
    WHERE status = 'completed' AND expired_at IS NULL
        AND completed_at <= clock_timestamp() - %s * INTERVAL '1 day'
        AND (clean_after IS NULL OR clean_after <= clock_timestamp())
        AND NOT EXISTS (
            SELECT FROM feature_exports AS other
            WHERE other.tenant_id = old.tenant_id AND other.output_path = old.output_path
                AND other.status IN ('pending', 'running')
        )
    ORDER BY completed_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING {COLUMNS}
"""  # noqa: S608  # constants
# open uploads are known by their path alone: those of another job must stay
_AT_WORK: Final = """
SELECT export_id FROM feature_exports
WHERE tenant_id = %s AND output_path = %s AND status IN ('pending', 'running') LIMIT 1
"""
# the same request is a new export from now on, also with its key
_EXPIRE: Final = """
UPDATE jobs SET
    result = result - 'storage_path' || jsonb_build_object('expired_at', clock_timestamp()),
    clean_after = NULL, idempotency_key = NULL
WHERE job_id = %s
"""


@dataclass(frozen=True)
class File:
    """One file, by its path below the export; empty: the export is this file."""

    path: str
    size: int
    #: None: only that of all files together is known
    sha256: str | None


@dataclass(frozen=True)
class OpenedFile:
    """A file that can be sent: on disk, as an address, or as what the S3 store answers."""

    name: str
    etag: str
    local: Path | None = None
    url: str | None = None
    answer: Any = None


def list_files(settings: Settings, export: Export) -> list[File]:
    """Files of a completed export, by path.

    Raises:
        ConflictError: it is not completed.
        NotFoundError: it has none, or they are gone.
        ServiceDownError: the S3 store does not answer.
    """
    _check(export)
    place = tenant_location(settings, export.tenant_id)
    if isinstance(place, Path):
        sizes = _local_sizes(local_path(place, export.output_path), export)
    else:
        from ai_hub.exports import s3  # noqa: PLC0415  # most installations need none

        with _answering():
            sizes = s3.objects(settings, place, export.output_path)
            first = "/".join(filter(None, (export.output_path, next(iter(sizes), ""))))
            if sizes and not s3.is_of(settings, place, first, export.export_id):
                sizes = {}
    checksums = export.file_sha256 or {}
    if export.partition_by is None:
        checksums = {"": export.sha256 or ""}
        sizes = {path: size for path, size in sizes.items() if not path}
    if not sizes:
        raise _gone(export)
    return [File(path, size, checksums.get(path)) for path, size in sorted(sizes.items())]


def open_file(settings: Settings, export: Export, path: str, part: str | None) -> OpenedFile:
    """One file of a completed export.

    Args:
        settings: `EXPORT_DOWNLOAD_REDIRECT` says whether a file in S3 is sent, or its address.
        export: whose file.
        path: as `list_files` has it.
        part: HTTP's header Range; a wrong one counts as none, as HTTP has it.

    Raises:
        ConflictError: the export is not completed.
        NotFoundError: there is no such file.
        BadInputError: a partitioned export has no single one.
        RangeError: the file has no such part.
        ServiceDownError: the S3 store does not answer.
    """
    _check(export)
    if export.partition_by is not None and not path:
        raise BadInputError(
            f"Export {export.export_id} is a folder of files.",
            hint="GET …/files lists them; name one as ?path=….",
        )
    if path and (export.partition_by is None or _is_odd(path)):
        raise _gone(export, path)
    output = "/".join(filter(None, (export.output_path, path)))
    name = output.rpartition("/")[2] if not path else f"{export.export_id}-{path.replace('/', '-')}"
    etag = f'"{export.sha256}{"-" + path if path else ""}"'
    place = tenant_location(settings, export.tenant_id)
    if isinstance(place, Path):
        file = local_path(place, output)
        if not file.is_file() or not is_of(file, export.export_id):
            raise _gone(export, path)
        return OpenedFile(name, etag, local=file)
    return _in_store(settings, export, path, OpenedFile(name, etag), part=part)


def copy_files(settings: Settings, export: Export, to: Path) -> Iterator[Path]:
    """Copy the files of a completed export, one to `to`, those of a partitioned one below it; yields each.

    Raises:
        AiHubError: see `list_files`; or something is there already.
    """
    for file in list_files(settings, export):
        place = to / file.path if file.path else to
        if place.exists():
            raise ConflictError(f"{place} is there already.", hint="Choose another --output.")
        place.parent.mkdir(parents=True, exist_ok=True)
        opened = open_file(
            settings.model_copy(update={"export_download_redirect": False}), export, file.path, None
        )
        partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
        try:
            with partial.open("xb") as copy, _answering(), _reading(opened) as source:
                shutil.copyfileobj(source, copy, _CHUNK)
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)
        yield place


def delete(settings: Settings, tenant: str, export_id: UUID) -> tuple[Export, list[str]]:
    """Remove the files of an ended export, then the job; returns it and the paths of the files.

    Killed midway, it can be repeated.

    Raises:
        NotFoundError: the tenant has no such export.
        ConflictError: it has not ended.
        ServiceDownError: a server does not answer; the job is still there.
    """
    with transaction(settings, tenant) as connection:
        export = find_export(connection, tenant, export_id)
        other = connection.execute(_AT_WORK, [tenant, export.output_path]).fetchone()
    if export.is_finished and other is not None:
        raise ConflictError(
            f"Export {other[0]} is writing to the path of export {export_id}.",
            hint="Try again when it has ended.",
        )
    if not export.is_finished:
        raise ConflictError(
            f"Export {export_id} has not ended: it is {export.status}.",
            hint="Cancel it first (POST …/cancel).",
        )
    removed: list[str] = []
    if export.status == "completed" and export.expired_at is None:
        with suppress(NotFoundError):  # somebody has removed them already
            removed = [file.path or export.output_path for file in list_files(settings, export)]
    with _answering():
        target_of(settings, export).clean()
    with transaction(settings, tenant) as connection:
        queue.delete(connection, tenant, export_id, export.fence)
    return export, removed


def expire(settings: Settings) -> None:
    """Remove the files of exports that were completed longer ago than `EXPORT_EXPIRY_DAYS`; the jobs stay."""
    if settings.export_expiry_days is None:
        return
    while (export := _take_expired(settings, settings.export_expiry_days)) is not None:
        log = _log.bind(export_id=str(export.export_id), tenant=export.tenant_id)
        try:
            target_of(settings, export).clean()
        except (AiHubError, OSError, BotoCoreError, ClientError) as error:
            log.warning("export_not_expired", reason=reason(error))
            return
        with transaction(settings) as connection:
            connection.execute(_EXPIRE, [export.export_id])
        log.info("export_expired")


def _take_expired(settings: Settings, days: int) -> Export | None:
    with transaction(settings) as connection, connection.cursor(row_factory=class_row(Export)) as cursor:
        return cursor.execute(_TAKE_EXPIRED.encode(), [days]).fetchone()


def _in_store(
    settings: Settings, export: Export, path: str, opened: OpenedFile, *, part: str | None
) -> OpenedFile:
    from ai_hub.exports import s3  # noqa: PLC0415  # most installations need none

    bucket = tenant_location(settings, export.tenant_id)
    if isinstance(bucket, Path):
        raise TypeError("exports are in a folder")
    output = "/".join(filter(None, (export.output_path, path)))
    if settings.export_download_redirect:
        if path not in {file.path for file in list_files(settings, export)}:
            raise _gone(export, path)
        return OpenedFile(opened.name, opened.etag, url=s3.signed_url(settings, bucket, output, _LINK_S))
    part = part if part and _RANGE.fullmatch(part) else None
    with _answering():
        try:
            answer = s3.get(settings, bucket, output, part)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _GONE:
                raise _gone(export, path) from error
            if code in _OUT_OF_RANGE:
                raise RangeError(f"The file has no part {part}.", hint="Ask without Range.") from error
            raise
    if answer["Metadata"].get(s3.EXPORT_ID) != str(export.export_id):
        answer["Body"].close()
        raise _gone(export, path)
    return OpenedFile(opened.name, opened.etag, answer=answer)


@contextmanager
def _reading(opened: OpenedFile) -> Iterator[Any]:
    if opened.local is not None:
        with opened.local.open("rb") as file:
            yield file
    else:
        with closing(opened.answer["Body"]) as body:
            yield body


def _check(export: Export) -> None:
    if export.status != "completed":
        raise ConflictError(
            f"Export {export.export_id} has no file: it is {export.status}.",
            hint="Wait until it is completed." if not export.is_finished else "Its error says why.",
        )
    if export.expired_at is not None:
        raise NotFoundError(f"Export {export.export_id}: {export.message}", hint="Export it again.")


def _gone(export: Export, path: str = "") -> NotFoundError:
    what = f"file {path[:200]!r}" if path else "file any more"
    return NotFoundError(f"Export {export.export_id} has no {what}.", hint="GET …/files lists those it has.")


def _local_sizes(final: Path, export: Export) -> dict[str, int]:
    files = [final] if final.is_file() else [file for file in final.rglob("*.parquet") if file.is_file()]
    # another export may have taken the path of one whose files were removed
    if not files or not is_of(files[0], export.export_id):
        return {}
    return {"" if file == final else str(file.relative_to(final)): file.stat().st_size for file in files}


def _is_odd(path: str) -> bool:
    parts = path.split("/")
    return "\0" in path or "\\" in path or any(part in {"", ".", ".."} for part in parts)


@contextmanager
def _answering() -> Iterator[None]:
    """Say of the S3 store what the service says of a server that is down."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise ServiceDownError("The S3 store", "EXPORT_STORAGE_PATH", reason(error)) from error
    except OSError as error:
        raise ServiceDownError("The folder of exports", "EXPORT_STORAGE_PATH", reason(error)) from error
