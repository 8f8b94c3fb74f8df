"""The time that a request asks about, and whether a stored row is current for it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from ai_hub.errors import BadInputError
from ai_hub.times import to_nanos

HOUR_NS = 3600 * 10**9
#: Clocks of callers may be ahead by this much.
_SKEW = timedelta(minutes=5)
#: How long into an hour a read waits for the follower to bring the hour's rows.
_FOLLOWER_GRACE_NS = HOUR_NS // 2


class AsOf(NamedTuple):
    """The time that features are read as of."""

    time: datetime
    #: `time` and the start of its hour in nanoseconds since 1970
    nanos: int
    hour: int
    #: rows stamped from here on (ns) are current; None: a time in the past, which only history answers
    current_since: int | None
    #: time of the request (ns); `nanos` differs from it where the request gives a time
    now: int
    #: rows written back are current if they were computed from here on (ns)
    written_back_since: int
    #: the request gives a time in the past, after which no row may be used
    is_past: bool

    def is_current(self, stamp: int | None, computed: int | None = None) -> bool:
        """Whether a row needs no look at TimescaleDB.

        Args:
            stamp: event time of the row (ns); None: there is no row.
            computed: when it was computed, if it was written back (ns); None: it was materialized.
        """
        since = self.current_since
        return (
            since is not None
            and stamp is not None
            and since <= stamp
            and (stamp <= self.nanos or not self.is_past)
            and (computed is None or self.written_back_since <= computed)
        )

    def awaits_successor(self, stamp: int, computed: int | None) -> bool:
        """Whether a row of the hour before is used until the follower brings the next one.

        Otherwise every read would go to TimescaleDB at the turn of the hour.
        """
        return (
            self.current_since is not None
            and self.now % HOUR_NS < _FOLLOWER_GRACE_NS
            and self.hour - HOUR_NS <= stamp
            and self.is_visible(stamp)
            and (computed is None or self.written_back_since <= computed)
        )

    def is_visible(self, stamp: int) -> bool:
        """Whether a row of this event time (ns) existed then."""
        return stamp <= self.nanos or not self.is_past


def as_of(timestamp: datetime | None, now: datetime, cache_s: int) -> AsOf:
    """The time that a request at `now` asks about; without `timestamp`, the present.

    A time up to five minutes ahead is the present, because clocks differ. A row that was materialized is
    current for its hour, one that was written back for `cache_s` seconds. During the first `cache_s` seconds
    of an hour the row of the hour before is current, too: materialization takes a while.

    Raises:
        BadInputError: `timestamp` lies further ahead.
    """
    is_present = timestamp is None or now < timestamp <= now + _SKEW
    time = now if timestamp is None or is_present else timestamp
    if time > now:
        raise BadInputError(
            f"timestamp {time.isoformat()} lies in the future; the service's clock says {now.isoformat()}.",
            hint="Leave timestamp out for the present, or give a time in the past.",
        )
    nanos, now_ns = to_nanos(time), to_nanos(now)
    hour, this_hour = nanos - nanos % HOUR_NS, now_ns - now_ns % HOUR_NS
    since = None
    if hour == this_hour:
        since = hour - HOUR_NS if now_ns - this_hour < cache_s * 10**9 else hour
    return AsOf(time, nanos, hour, since, now_ns, now_ns - cache_s * 10**9, not is_present)
