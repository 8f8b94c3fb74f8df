"""Exports: what is requested (rows, window, a path below the tenant's folder), and what becomes of it.

The view `feature_exports` of the table `jobs` has them.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from psycopg.rows import class_row

from ai_hub.errors import AiHubError, BadInputError, ConflictError, NotFoundError
from ai_hub.jobs.queue import UNFINISHED, describe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg


class OutputPathError(BadInputError):
    """The output path cannot be used."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(
            f"output_path {path!r} {problem}.",
            hint="Name a file below your tenant's folder, such as 'training/2026-10.parquet'.",
        )


class RangeError(BadInputError):
    """The file has no such part."""


class TooManyExportsError(AiHubError):
    """The tenant has as many unfinished exports as it may."""

    retryable = True

    def __init__(self, tenant: str, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"Tenant {tenant} has {limit} unfinished exports, which is the most it may have.",
            hint="Wait for one to finish, or cancel one.",
        )


class PathTakenError(ConflictError):
    """Something else is at the output path."""

    def __init__(self, path: str, by: str) -> None:
        super().__init__(f"output_path {path!r} is taken by {by}.", hint="Choose another output_path.")


_LONGEST_WINDOW: Final = timedelta(days=3653)
#: Not `month`, which is a feature.
_PARTITION: Final = "year_month"
_STAMP: Final = "%Y%m%dT%H%M"
SUFFIX: Final = ".parquet"
#: Folder of exports that nobody has named a path for; nobody can name one in it.
UNNAMED: Final = "unnamed"
#: Of a part, in bytes: file systems take 255, and temporary names are longer.
_LONGEST_PART: Final = 160
#: Of all: keys in S3 take 1,024 bytes, with the tenant's prefix before and the name of a part behind.
_LONGEST_PATH: Final = 512
_CONTROL: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_DRIVE: Final = re.compile(r"^[A-Za-z]:")


@dataclass(frozen=True)
class Request:
    """A feature service's rows in [start, end) of some assets of a tenant; None: of all it has."""

    tenant: str
    feature_set: str
    start: datetime
    end: datetime
    #: each once, in order
    assets: tuple[str, ...] | None = None
    #: as it was asked for; see `path`
    output_path: str | None = None
    partition_by: Literal["month"] | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            object.__setattr__(self, name, getattr(self, name).astimezone(UTC))
        if self.assets is not None:
            object.__setattr__(self, "assets", tuple(sorted(set(self.assets))))

    def check(self) -> None:
        """Make sure that window and path can be used.

        Raises:
            BadInputError: they cannot.
        """
        window = f"start_time {self.start.isoformat()}, end_time {self.end.isoformat()}"
        if self.end <= self.start:
            raise BadInputError(f"The window is empty: {window}.", hint="end_time must be after start_time.")
        if self.start > datetime.now(UTC):
            raise BadInputError(
                f"The window begins in the future: {window}.", hint="Features have a past only."
            )
        if self.end - self.start > _LONGEST_WINDOW:
            raise BadInputError(
                f"The window is longer than ten years: {window}.", hint="Export it in several parts."
            )
        if self.output_path is not None:
            check_output_path(self.output_path, partitioned=self.partition_by is not None)

    @property
    def hash(self) -> str:
        """SHA-256 that equal requests have in common."""
        facts = (
            self.tenant,
            self.feature_set,
            self.start.isoformat(),
            self.end.isoformat(),
            self.assets,
            self.output_path,
            self.partition_by,
        )
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def path(self, export_id: UUID) -> str:
        """Where the export goes, below the tenant's folder."""
        if self.output_path is not None:
            return self.output_path
        window = f"{self.start:{_STAMP}}_{self.end:{_STAMP}}"
        suffix = "" if self.partition_by else SUFFIX
        return f"{UNNAMED}/{self.feature_set}/{window}_{export_id.hex}{suffix}"


def file_of_month(month: str) -> str:
    """Where the rows of a month are, below the folder of the export."""
    return f"{_PARTITION}={month}/part-0.parquet"


def files_by_month(start: datetime, end: datetime) -> list[str]:
    """Every file that [start, end) can have below the folder of the export."""
    return [file_of_month(f"{first:%Y-%m}") for first, _ in months(start, end)]


def months(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """[start, end) month by month."""
    while start < end:
        following = (
            start.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)
        ).replace(day=1)
        yield start, min(following, end)
        start = following


def check_output_path(path: str, *, partitioned: bool) -> None:
    """Make sure that `path` is a plain relative name.

    Raises:
        OutputPathError: it could lead elsewhere, or does not suit every file system.
    """
    if _CONTROL.search(path):
        raise OutputPathError(path, "has control or invisible characters")
    if len(path.encode()) > _LONGEST_PATH:
        raise OutputPathError(path, f"is longer than {_LONGEST_PATH} bytes")
    if "\\" in path or _DRIVE.match(path) or ":" in path:
        raise OutputPathError(path, "has a drive letter, colon or backslash")
    if path.startswith(("/", "~")):
        raise OutputPathError(path, "is absolute")
    parts = path.split("/")
    if ".." in parts:
        raise OutputPathError(path, "leads upwards")
    # some file systems take upper and lower case for the same
    if parts[0].casefold() == UNNAMED:
        raise OutputPathError(path, f"is in {UNNAMED}/, where exports without an output_path go")
    if problem := next(filter(None, map(_problem, parts)), None):
        raise OutputPathError(path, problem)
    if not partitioned and not path.endswith(SUFFIX):
        raise OutputPathError(path, f"does not end in {SUFFIX}")


def _problem(part: str) -> str | None:
    if not part.strip() or part != part.strip():
        return "has an empty part or spaces around one"
    if part.startswith((".", "_")):
        return "has a part that begins with '.' or '_', which readers skip"
    if len(part.encode()) > _LONGEST_PART:
        return f"has a part longer than {_LONGEST_PART} bytes"
    return None


#: Kind of these jobs.
KIND: Final = "export"

COLUMNS: Final = (
    "export_id, tenant_id, feature_set, start_time, end_time, asset_ids,"
    " asset_count, status, row_count, file_size_bytes,"
    " sha256, storage_path, error, created_at, started_at, completed_at, output_path, partition_by,"
    " idempotency_key, request_hash, progress, cancel_requested, attempts, fence, worker, service_version,"
    " expired_at, file_sha256, unstored_rows"
)


@dataclass(frozen=True)
class Export:
    """One row; see the migrations for the columns."""

    export_id: UUID
    tenant_id: str
    feature_set: str
    start_time: datetime
    end_time: datetime
    asset_ids: list[str] | None
    #: None: all
    asset_count: int | None
    status: str
    row_count: int | None
    file_size_bytes: int | None
    sha256: str | None
    storage_path: str | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    output_path: str
    partition_by: Literal["month"] | None
    idempotency_key: str | None
    request_hash: str
    progress: float
    cancel_requested: bool
    attempts: int
    #: fencing token, incremented on every acquisition
    fence: int
    worker: str | None
    service_version: str | None
    #: when its files were removed, some days after it was completed
    expired_at: datetime | None = None
    #: of a partitioned export, SHA-256 by path; None of one from before they were kept
    file_sha256: dict[str, str] | None = None
    #: rows that were computed as they were read; None of one from before they were counted
    unstored_rows: int | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the export has ended."""
        return self.status not in UNFINISHED

    @property
    def request(self) -> Request:
        """The request; `output_path` is the assigned path."""
        assets = None if self.asset_ids is None else tuple(self.asset_ids)
        return Request(
            self.tenant_id,
            self.feature_set,
            self.start_time,
            self.end_time,
            assets,
            self.output_path,
            self.partition_by,
        )

    @property
    def message(self) -> str:
        """Where it is, for a reader."""
        if self.expired_at is not None:
            return f"Expired: its files were removed on {self.expired_at:%Y-%m-%d}."
        if self.status == "completed":
            text = f"Completed: {self.row_count:,} rows."
            if not self.unstored_rows:
                return text
            return (
                f"{text} {self.unstored_rows:,} rows of features are not stored yet and were computed as they"
                " were read, without weather older than a year; `ai-hub features backfill` stores them."
            )
        return describe(self.status, self.error, self.progress, cancel_requested=self.cancel_requested)


def find_export(connection: psycopg.Connection[Any], tenant: str, export_id: UUID) -> Export:
    """A job of the tenant.

    Raises:
        NotFoundError: it has none with this id.
    """
    query = f"SELECT {COLUMNS} FROM feature_exports WHERE tenant_id = %s AND export_id = %s"  # noqa: S608
    with connection.cursor(row_factory=class_row(Export)) as cursor:
        export = cursor.execute(query, [tenant, export_id]).fetchone()
    if export is None:
        raise NotFoundError(
            f"Tenant {tenant} has no export {export_id}.", hint="GET /ai/features/exports lists those it has."
        )
    return export


def find_exports(connection: psycopg.Connection[Any], export_ids: Sequence[UUID]) -> list[Export]:
    """Jobs with these ids, of all tenants that the connection sees."""
    query = f"SELECT {COLUMNS} FROM feature_exports WHERE export_id = ANY(%s)"  # noqa: S608
    with connection.cursor(row_factory=class_row(Export)) as cursor:
        return cursor.execute(query, [list(export_ids)]).fetchall()


def newest_exports(
    connection: psycopg.Connection[Any],
    tenant: str,
    *,
    feature_set: str | None = None,
    status: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> tuple[list[Export], int]:
    """The tenant's exports, newest first, and how many there are without `limit`.

    They come without `asset_ids` and `file_sha256`, which can be long.
    """
    # only the given filters, so that the tenant alone is counted in its index
    filters = {"feature_set": feature_set, "status": status}
    where = " AND ".join(
        ["tenant_id = %(tenant)s", *(f"{name} = %({name})s" for name, value in filters.items() if value)]
    )
    parameters = {
        "tenant": tenant,
        "feature_set": feature_set,
        "status": status,
        "limit": limit,
        "offset": offset,
    }
    columns = COLUMNS.replace(" asset_ids,", " NULL::text[] AS asset_ids,")
    columns = columns.replace(" file_sha256", " NULL::jsonb AS file_sha256")
    query = (
        f"SELECT {columns} FROM feature_exports WHERE {where}"  # noqa: S608
        " ORDER BY created_at DESC, export_id LIMIT %(limit)s OFFSET %(offset)s"
    )
    count = f"SELECT count(*) FROM feature_exports WHERE {where}"  # noqa: S608
    with connection.cursor(row_factory=class_row(Export)) as cursor:
        exports = cursor.execute(query, parameters).fetchall()
    row = connection.execute(count, parameters).fetchone()
    return exports, row[0] if row else 0
