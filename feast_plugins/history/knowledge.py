"""Which versions of a view's rows a request may see."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

#: Tag of a data source: the relation, or query, with every version of its rows that ever was. It has the
#: source's columns and `superseded_at`, the time from which the version was no longer known to be true.
VERSIONS_TAG = "versions"
SUPERSEDED = "superseded_at"


@dataclass(frozen=True)
class Knowledge:
    """Which versions of the rows a request may see."""

    #: those created up to this time; None: the rows as they are now
    at: datetime | None = None
    #: those created up to each entity row's own time
    by_row: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether rows may be seen in another state than now."""
        return self.by_row or self.at is not None

    def until(self, latest: datetime) -> datetime:
        """Time up to which versions may count for entity rows up to `latest`."""
        known = [time for time in (self.at, latest if self.by_row else None) if time is not None]
        return min(known)
