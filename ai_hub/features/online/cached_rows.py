"""What was read of each asset and view, and what may be done with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType

from ai_hub.features.online.as_of import HOUR_NS, Moment
from ai_hub.features.online.payload import CALENDAR, TIMESCALEDB, Origin
from ai_hub.features.online.query import Query
from ai_hub.times import from_nanos
from feast_plugins.online.reading import encode_outputs
from feast_plugins.online.writing import stamp_of, times_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ai_hub.features.online.loader import Row


@dataclass(slots=True)
class Stored:
    """Replies of Redis, one an asset; rows found elsewhere are put into them."""

    query: Query
    moment: Moment
    replies: list[list[Any]]
    #: of each view, of each asset, in nanoseconds
    times: list[list[int | None]] = field(init=False)
    origins: list[Origin] = field(init=False)
    _current: list[list[bool]] = field(init=False)
    #: (view, asset) of rows that lack a feature which their view has got since
    _partial: set[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.times, self._current, self._partial = [], [], set()
        for view, place in zip(self.query.views, self.query.stamps, strict=True):
            known: dict[bytes | None, tuple[int | None, bool]] = {None: (None, False)}
            stamps = [reply[place] for reply in self.replies]
            for stamp in set(stamps) - known.keys():
                times = times_of(stamp)
                known[stamp] = times.event, view.is_current(self.moment, *times)
            self.times.append([known[stamp][0] for stamp in stamps])
            self._current.append([known[stamp][1] for stamp in stamps])
        for asset, reply in enumerate(self.replies):
            if None in reply:
                self._find_partial(asset, reply)
        self.origins = [Origin() for _ in self.replies]

    @classmethod
    def nothing(cls, query: Query, moment: Moment, count: int) -> Stored:
        """Nothing is known of any of `count` assets."""
        return cls(query, moment, [[None] * len(query.fields) for _ in range(count)])

    def wanting(self) -> dict[int, list[int]]:
        """Places of the views, and for each of the assets, whose rows are not current."""
        return {
            place: [asset for asset, is_current in enumerate(current) if not is_current]
            for place, (view, current) in enumerate(zip(self.query.views, self._current, strict=True))
            # where there is no source, Redis is all there is
            if view.source is not None and not all(current)
        }

    def stamp(self, view: int, asset: int) -> bytes | None:
        """Time of a row as it is stored."""
        stamp: bytes | None = self.replies[asset][self.query.stamps[view]]
        return stamp

    def is_partial(self, view: int, asset: int) -> bool:
        """Whether the row in Redis was written before its view had all its features."""
        return (view, asset) in self._partial

    def is_usable(self, view: int, asset: int) -> bool:
        """Whether there is a row that is no newer than the moment and no older than it may be."""
        time, ttl = self.times[view][asset], self.query.views[view].stored.ttl
        return (
            time is not None
            and self.moment.is_seen(time)
            and (ttl is None or time >= self.moment.nanos - ttl)
        )

    def is_seen(self, view: int, asset: int) -> bool:
        """Whether there is no row, or one that is no newer than the moment."""
        time = self.times[view][asset]
        return time is None or self.moment.is_seen(time)

    def awaits_successor(self, view: int, asset: int) -> bool:
        """Whether the row answers as it is while the follower brings the next one."""
        stamp = self.stamp(view, asset)
        return (
            stamp is not None
            and self.query.views[view].step == HOUR_NS
            and not self.is_partial(view, asset)
            and self.moment.awaits_successor(*times_of(stamp))
        )

    def put(self, view: int, asset: int, row: Row | None) -> None:
        """Use what TimescaleDB has, unless what is there is newer."""
        time, origin = self.times[view][asset], self.origins[asset]
        is_seen = self.is_seen(view, asset)
        if row is None:
            if time is None or not is_seen:
                origin.source = TIMESCALEDB
                self._set(view, asset, {}, None)
        elif time is None or row.nanos >= time or not is_seen:
            origin.source = TIMESCALEDB
            self._set(view, asset, row.fields, row.nanos)

    def keep_old(self, asset: int, reason: str) -> None:
        """Use the rows that are there, although one is not current."""
        self.origins[asset].degraded = reason

    def lose(self, view: int, asset: int, reason: str, zone: str | None) -> None:
        """Use nothing but the calendar of the moment's hour on the asset's wall clock."""
        origin = self.origins[asset]
        origin.degraded, origin.source = reason, CALENDAR
        origin.lost |= {view}
        hour = from_nanos(self.moment.hour)
        fields = {self.query.views[view].stored.stamp_field: stamp_of(hour)[1]}
        if (local_time := self.query.views[view].local_time) is not None:
            wall = hour.astimezone(_zone(zone)).replace(tzinfo=UTC).timestamp()
            if zone is None:
                wall += self._offset_s(view, asset, local_time)
            (fields[local_time],) = encode_outputs([round(wall)], ValueType.INT64)
        self._set(view, asset, fields, self.moment.hour)

    def judged(self) -> list[Origin]:
        """Where the rows of each asset came from, with their times."""
        for place, (view, times) in enumerate(zip(self.query.views, self.times, strict=True)):
            ttl = view.stored.ttl
            since = None if ttl is None else self.moment.nanos - ttl
            for origin, time in zip(self.origins, times, strict=True):
                if time is None:
                    origin.without_row |= {place}
                    continue
                origin.is_known = True
                if origin.oldest is None or time < origin.oldest:
                    origin.oldest = time
                if since is not None and time < since:
                    origin.too_old |= {place}
        return self.origins

    def _find_partial(self, asset: int, reply: Sequence[Any]) -> None:
        for view, places in enumerate(self.query.places):
            # an empty feature is there, without a value
            if self._current[view][asset] and any(reply[place] is None for place, _ in places):
                self._current[view][asset] = False
                self._partial.add((view, asset))

    def _offset_s(self, view: int, asset: int, local_time: bytes) -> int:
        """How far the wall clock was ahead of UTC in the hour of a row that is too old to be of other use."""
        time, local = self.times[view][asset], self.replies[asset][self.query.fields.index(local_time)]
        if time is None or local is None:
            return 0
        return int(Value.FromString(local).int64_val) - time // 10**9

    def _set(self, view: int, asset: int, fields: Mapping[bytes, bytes], time: int | None) -> None:
        reply = self.replies[asset]
        for place, name in self.query.places[view]:
            reply[place] = fields.get(name)
        self.times[view][asset] = time


def _zone(name: str | None) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")
