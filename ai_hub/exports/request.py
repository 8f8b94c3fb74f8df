"""What an export is asked for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal

from ai_hub.errors import BadInputError
from ai_hub.exports.output_path import SUFFIX, UNNAMED, check_output_path

if TYPE_CHECKING:
    from uuid import UUID

_LONGEST: Final = timedelta(days=3653)
_STAMP: Final = "%Y%m%dT%H%M"


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
        if self.end - self.start > _LONGEST:
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
