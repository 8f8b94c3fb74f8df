"""Rows as Redis has them for a request: which are current, and what replaces the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType

from ai_hub.features.online.as_of import HOUR_NS, AsOf
from ai_hub.features.online.payload import CALENDAR, TIMESCALEDB, Origin
from ai_hub.features.online.query import Query
from ai_hub.times import from_nanos
from feast_plugins.online.reading import encode_outputs
from feast_plugins.online.writing import stamp_of, times_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ai_hub.features.online.loader import Row


@dataclass(slots=True)
class CachedRows:
    """One reply of Redis an asset; rows that are loaded replace its values.

    Views and assets are given by index.
    """

    query: Query
    as_of: AsOf
    replies: list[list[Any]]
    #: event time (ns) by view and asset
    times: list[list[int | None]] = field(init=False)
    origins: list[Origin] = field(init=False)
    _current: list[list[bool]] = field(init=False)
    #: (view, asset) of rows that lack a feature, which was added to their view later
    _partial: set[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.times, self._current, self._partial = [], [], set()
        for view, index in zip(self.query.views, self.query.stamp_indexes, strict=True):
            by_stamp: dict[bytes | None, tuple[int | None, bool]] = {None: (None, False)}
            stamps = [reply[index] for reply in self.replies]
            for stamp in set(stamps) - by_stamp.keys():
                times = times_of(stamp)
                by_stamp[stamp] = times.event, view.is_current(self.as_of, *times)
            self.times.append([by_stamp[stamp][0] for stamp in stamps])
            self._current.append([by_stamp[stamp][1] for stamp in stamps])
        for asset, reply in enumerate(self.replies):
            if None in reply:
                self._find_partial(asset, reply)
        self.origins = [Origin() for _ in self.replies]

    @classmethod
    def empty(cls, query: Query, as_of: AsOf, count: int) -> CachedRows:
        """No rows of any of `count` assets."""
        return cls(query, as_of, [[None] * len(query.fields) for _ in range(count)])

    def stale(self) -> dict[int, list[int]]:
        """By view, the assets whose rows are not current."""
        return {
            index: [asset for asset, is_current in enumerate(current) if not is_current]
            for index, (view, current) in enumerate(zip(self.query.views, self._current, strict=True))
            # a view without a source has rows in Redis alone
            if view.source is not None and not all(current)
        }

    def stamp(self, view: int, asset: int) -> bytes | None:
        """Time of a row as Redis stores it."""
        stamp: bytes | None = self.replies[asset][self.query.stamp_indexes[view]]
        return stamp

    def is_partial(self, view: int, asset: int) -> bool:
        """Whether the row lacks a feature, because it was written before the view had it."""
        return (view, asset) in self._partial

    def is_usable(self, view: int, asset: int) -> bool:
        """Whether there is a row of that time that is within its view's time to live."""
        time, ttl = self.times[view][asset], self.query.views[view].stored.ttl
        return (
            time is not None
            and self.as_of.is_visible(time)
            and (ttl is None or time >= self.as_of.nanos - ttl)
        )

    def is_visible(self, view: int, asset: int) -> bool:
        """Whether there is no row, or one that existed at the time asked for."""
        time = self.times[view][asset]
        return time is None or self.as_of.is_visible(time)

    def awaits_successor(self, view: int, asset: int) -> bool:
        """Whether the row is used until the follower brings the next one."""
        stamp = self.stamp(view, asset)
        return (
            stamp is not None
            and self.query.views[view].step == HOUR_NS
            and not self.is_partial(view, asset)
            and self.as_of.awaits_successor(*times_of(stamp))
        )

    def replace(self, view: int, asset: int, row: Row | None) -> None:
        """Use the row of TimescaleDB, unless that of Redis is newer."""
        time, origin = self.times[view][asset], self.origins[asset]
        is_visible = self.is_visible(view, asset)
        if row is None:
            if time is None or not is_visible:
                origin.source = TIMESCALEDB
                self._set(view, asset, {}, None)
        elif time is None or row.nanos >= time or not is_visible:
            origin.source = TIMESCALEDB
            self._set(view, asset, row.fields, row.nanos)

    def keep_stale(self, asset: int, reason: str) -> None:
        """Use the asset's rows although one is not current; the answer is degraded for `reason`."""
        self.origins[asset].degraded = reason

    def use_calendar(self, view: int, asset: int, reason: str, zone: str | None) -> None:
        """Use nothing but the calendar of the hour in the asset's time zone (None: unknown)."""
        origin = self.origins[asset]
        origin.degraded, origin.source = reason, CALENDAR
        origin.lost |= {view}
        hour = from_nanos(self.as_of.hour)
        fields = {self.query.views[view].stored.stamp_field: stamp_of(hour)[1]}
        if (local_time := self.query.views[view].local_time) is not None:
            local_s = hour.astimezone(_zone(zone)).replace(tzinfo=UTC).timestamp()
            if zone is None:
                local_s += self._offset_s(view, asset, local_time)
            (fields[local_time],) = encode_outputs([round(local_s)], ValueType.INT64)
        self._set(view, asset, fields, self.as_of.hour)

    def complete_origins(self) -> list[Origin]:
        """Origin of each asset's rows, with their oldest time and which are missing or too old."""
        for index, (view, times) in enumerate(zip(self.query.views, self.times, strict=True)):
            ttl = view.stored.ttl
            since = None if ttl is None else self.as_of.nanos - ttl
            for origin, time in zip(self.origins, times, strict=True):
                if time is None:
                    origin.without_row |= {index}
                    continue
                origin.asset_exists = True
                if origin.oldest is None or time < origin.oldest:
                    origin.oldest = time
                if since is not None and time < since:
                    origin.too_old |= {index}
        return self.origins

    def _find_partial(self, asset: int, reply: Sequence[Any]) -> None:
        for view, indexes in enumerate(self.query.field_indexes):
            # a feature without a value is stored as an empty value
            if self._current[view][asset] and any(reply[index] is None for index, _ in indexes):
                self._current[view][asset] = False
                self._partial.add((view, asset))

    def _offset_s(self, view: int, asset: int, local_time: bytes) -> int:
        """Seconds that local time was ahead of UTC in the hour of a row, however old it is."""
        time, local = self.times[view][asset], self.replies[asset][self.query.fields.index(local_time)]
        if time is None or local is None:
            return 0
        return int(Value.FromString(local).int64_val) - time // 10**9

    def _set(self, view: int, asset: int, fields: Mapping[bytes, bytes], time: int | None) -> None:
        reply = self.replies[asset]
        for index, name in self.query.field_indexes[view]:
            reply[index] = fields.get(name)
        self.times[view][asset] = time


def _zone(name: str | None) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")
