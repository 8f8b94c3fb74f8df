"""When a request is about, and when a stored row still answers it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ai_hub.errors import BadInputError
from ai_hub.times import to_nanos

HOUR_NS = 3600 * 10**9
_SKEW = timedelta(minutes=5)
#: Nanoseconds after the hour for which the follower is waited for at most.
_FOLLOWER_NS = HOUR_NS // 2


@dataclass(frozen=True, slots=True)
class Moment:
    """The time that features are asked for."""

    time: datetime
    #: the same in nanoseconds since 1970, and the start of its hour
    nanos: int
    hour: int
    #: rows from this time on are current; None: the time is past, only history answers
    current_since: int | None
    #: of the request (ns), which differs from `nanos` where a time was given
    now: int
    #: rows put back count from when they were computed: before this time (ns) is too long ago
    put_back_since: int
    #: it was given: rows after it must not be seen
    is_given: bool

    def is_current(self, stamp: int | None, computed: int | None = None) -> bool:
        """Whether a row of this time (ns), None: no row, answers as it is.

        `computed`: when it was put back (ns); None: it was materialized, or just computed.
        """
        since = self.current_since
        return (
            since is not None
            and stamp is not None
            and since <= stamp
            and (stamp <= self.nanos or not self.is_given)
            and (computed is None or self.put_back_since <= computed)
        )

    def awaits_successor(self, stamp: int, computed: int | None) -> bool:
        """Whether a row is of the hour before and answers as it is while the follower brings the next ones.

        So herds of reads never fall on TimescaleDB for rows that come into Redis anyway.
        """
        return (
            self.current_since is not None
            and self.now % HOUR_NS < _FOLLOWER_NS
            and self.hour - HOUR_NS <= stamp
            and self.is_seen(stamp)
            and (computed is None or self.put_back_since <= computed)
        )

    def is_seen(self, stamp: int) -> bool:
        """Whether a row of this time (ns) was there already."""
        return stamp <= self.nanos or not self.is_given


def moment(asked: datetime | None, now: datetime, cache_s: int) -> Moment:
    """The moment that a request at `now` is about.

    A time in the hour of `now` is the present; so is one up to five minutes ahead, for clocks differ. A row
    that was put back is current for `cache_s`, one that was materialized for its hour. While the hour is
    younger than `cache_s`, the row of the hour before is current, too: whoever materializes needs a moment.

    Raises:
        BadInputError: it lies further ahead.
    """
    present = asked is None or now < asked <= now + _SKEW
    time = now if asked is None or present else asked
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
    return Moment(time, nanos, hour, since, now_ns, now_ns - cache_s * 10**9, not present)
