"""Requests for exports: rows, window and a relative path below the folder of the tenant, and errors."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from ai_hub.errors import AiHubError, BadInputError, ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID


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
