"""Rows of a request: as Redis has them, what replaces stale ones, and features as they are sent."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC
from functools import lru_cache
from itertools import repeat
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType

from ai_hub.features.online.query import HOUR_NS, KEYS, AsOf, Columns, OutputKey, Query
from ai_hub.times import from_nanos
from feast_plugins.online import encoding, reading
from feast_plugins.online.encoding import encode_column
from feast_plugins.online.reading import NOT_FOUND, NULL_VALUE, OUTSIDE_MAX_AGE, PRESENT
from feast_plugins.online.writing import stamp_of, times_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from ai_hub.features.online.loader import Row

REDIS, TIMESCALEDB, CALENDAR = "redis", "timescaledb", "calendar"
OUTSIDE_LOOKBACK, UNAVAILABLE = "OUTSIDE_LOOKBACK", "UNAVAILABLE"
_STATUS_NAMES: dict[int, str] = {value.number: value.name for value in FieldStatus.DESCRIPTOR.values}


@dataclass(slots=True)
class Origin:
    """Where an asset's rows came from. Sets of views are integers with a bit for each index."""

    source: str = REDIS
    #: oldest event time of its rows (ns); None: there is none
    oldest: int | None = None
    #: reason why the answer is degraded, for metrics
    degraded: str | None = None
    #: False: the database knows no such asset
    asset_exists: bool = True
    #: views whose rows could not be read, of which only the calendar is known
    lost: int = 0
    #: views without a row, and views whose row is past its time to live
    without_row: int = 0
    too_old: int = 0


class Payload(NamedTuple):
    """Features of an asset as they are sent: their values and their statuses in JSON."""

    features: bytes
    feature_count: int
    status: bytes


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
            times: list[int | None] = []
            current: list[bool] = []
            for reply in self.replies:
                if (judged := by_stamp.get(stamp := reply[index])) is None:
                    event, computed = times_of(stamp)
                    judged = by_stamp[stamp] = event, view.is_current(self.as_of, event, computed)
                times.append(judged[0])
                current.append(judged[1])
            self.times.append(times)
            self._current.append(current)
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
        if all(map(all, self._current)):
            return {}
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

    def partial(self, view: int, asset: int) -> dict[bytes, bytes | None] | None:
        """The fields of such a row as Redis has them; None: it is another row."""
        if not self.is_partial(view, asset):
            return None
        return {name: self.replies[asset][index] for index, name in self.query.field_indexes[view]}

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
        origin.lost |= 1 << view
        hour = from_nanos(self.as_of.hour)
        fields = {self.query.views[view].stored.stamp_field: stamp_of(hour)[1]}
        if (local_time := self.query.views[view].local_time) is not None:
            local_s = hour.astimezone(_zone(zone)).replace(tzinfo=UTC).timestamp()
            if zone is None:
                local_s += self._offset_s(view, asset, local_time)
            (fields[local_time],) = reading.encode_outputs([round(local_s)], ValueType.INT64)
        self._set(view, asset, fields, self.as_of.hour)

    def complete_origins(self) -> list[Origin]:
        """Origin of each asset's rows, with their oldest time and which are missing or too old."""
        for index, (view, times) in enumerate(zip(self.query.views, self.times, strict=True)):
            ttl = view.stored.ttl
            since = None if ttl is None else self.as_of.nanos - ttl
            for origin, time in zip(self.origins, times, strict=True):
                if time is None:
                    origin.without_row |= 1 << index
                    continue
                origin.asset_exists = True
                if origin.oldest is None or time < origin.oldest:
                    origin.oldest = time
                if since is not None and time < since:
                    origin.too_old |= 1 << index
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


def render(
    rows: CachedRows, tenant: str, assets: Sequence[str], origins: Sequence[Origin], *, lookback_hours: int
) -> list[Payload]:
    """The payload of each asset, in their order."""
    query = rows.query
    found = []
    for origin, values in zip(
        origins, _values(rows, tenant, assets, origins, lookback_hours=lookback_hours), strict=True
    ):
        if not _are_finite(values):
            values = tuple(value if _is_finite(value) else None for value in values)  # noqa: PLW2901  # what is sent
        missing = tuple([value is None for value in values]) if None in values else ()
        features = orjson.dumps(
            dict(zip(query.names, values, strict=True)), default=_base64, option=orjson.OPT_UTC_Z
        )
        gaps = origin.lost, origin.without_row, origin.too_old
        status = _status_json(query, lookback_hours, missing, gaps)
        found.append(Payload(features, len(values) - missing.count(True), status))
    return found


def results(
    assets: Sequence[str], origins: Sequence[Origin], payloads: Sequence[Payload], *, computed_at: datetime
) -> list[dict[str, Any]]:
    """The result of each asset, in their order; features and statuses are fragments of JSON."""
    return [
        {
            "asset_id": asset,
            "features": orjson.Fragment(payload.features),
            "feature_count": payload.feature_count,
            "status": orjson.Fragment(payload.status),
            "hour": None if origin.oldest is None else _time(origin.oldest - origin.oldest % HOUR_NS),
            "event_timestamp": None if origin.oldest is None else _time(origin.oldest),
            "source": origin.source,
            "degraded": origin.degraded is not None,
            "computed_at": computed_at,
        }
        for asset, origin, payload in zip(assets, origins, payloads, strict=True)
    ]


#: Most rows of an hour have the same time.
_time = lru_cache(maxsize=4096)(from_nanos)


def _values(
    rows: CachedRows, tenant: str, assets: Sequence[str], origins: Sequence[Origin], *, lookback_hours: int
) -> list[tuple[Any, ...]]:
    """Values of each asset in the order of the query's features; None outside the look-back."""
    query = rows.query
    cells = _cells(rows, origins)
    if query.is_deterministic:
        outside = (None,)
        parts = zip(_decode(cells, query.sent_columns), _of_inputs(query, cells), strict=True)
        pick = query.picked(lookback_hours)
        return [pick(stored + computed + outside) for stored, computed in parts]
    by_view = [
        dict(zip([name for _, name, _ in columns], zip(*_decode(cells, columns), strict=True), strict=True))
        for columns in query.columns
    ]
    keys = {"tenant_id": [tenant] * len(assets), "asset_id": list(assets)}
    # inputs and other outputs of on-demand views may have the name of a feature of the answer
    columns = _compute(rows, keys, by_view) | {
        name: by_view[view][name] for name, view, _ in query.plan.results if view is not None
    }
    nothing = [None] * len(assets)
    return list(
        zip(
            *[
                nothing if feature.reach > lookback_hours else columns[feature.name]
                for feature in query.features
            ],
            strict=True,
        )
    )


def _cells(rows: CachedRows, origins: Sequence[Origin]) -> list[Sequence[bytes]]:
    """Each asset's reply without None: nothing where there is no value, no row, or one that is too old."""
    found: list[Sequence[bytes]] = []
    for reply, origin in zip(rows.replies, origins, strict=True):
        if gaps := origin.without_row | origin.too_old:
            blank = {
                index
                for view, indexes in enumerate(rows.query.field_indexes)
                if gaps >> view & 1
                for index, _ in indexes
            }
            found.append([b"" if index in blank else cell or b"" for index, cell in enumerate(reply)])
        else:
            found.append([cell or b"" for cell in reply] if None in reply else reply)
    return found


def _decode(cells: Sequence[Sequence[bytes]], columns: Columns) -> list[tuple[Any, ...]]:
    """Values of these columns of each asset: 64-bit floating-point numbers first, as they are sorted."""
    count = sum(kind == ValueType.DOUBLE for _, _, kind in columns)
    numbers = encoding.doubles([[row[index] for index, _, _ in columns[:count]] for row in cells])
    if numbers is None:
        numbers, count = [()] * len(cells), 0
    if count == len(columns):
        return numbers
    others = [
        encoding.python_values([row[index] for row in cells], kind) for index, _, kind in columns[count:]
    ]
    return [first + rest for first, rest in zip(numbers, zip(*others, strict=True), strict=True)]


def _of_inputs(query: Query, cells: Sequence[Sequence[bytes]]) -> list[tuple[Any, ...]]:
    """Values of each asset's on-demand features; they are computed once for the same inputs."""
    if not query.output_names:
        return [()] * len(cells)
    kept, number = query.outputs.kept, query.computation
    keys: list[OutputKey] = [(number, *[row[index] for _, _, index, _ in query.inputs]) for row in cells]
    try:
        found = [kept[key] for key in keys]
    except KeyError:
        new = [key for key in dict.fromkeys(keys) if key not in kept]
        by_view: dict[int, dict[str, list[Any]]] = {}
        inputs = zip(*[key[1:] for key in new], strict=True)
        for (view, name, _, kind), column in zip(query.inputs, inputs, strict=True):
            by_view.setdefault(view, {})[name] = encoding.python_values(column, kind)
        outputs = reading.transform(query.plan, {}, lambda view: by_view.get(view, {}))
        columns = [reading.as_stored(*outputs[name]) for name in query.output_names]
        computed = dict(zip(new, zip(*columns, strict=True), strict=True))
        found = [computed[key] if key in computed else kept[key] for key in keys]
        query.outputs.add(computed)
    return found


def _compute(
    rows: CachedRows, keys: dict[str, list[Any]], decoded: Sequence[Mapping[str, Sequence[Any]]]
) -> dict[str, Sequence[Any]]:
    """Values of on-demand features, by name."""
    plan = rows.query.plan
    if reading.is_python(plan):
        by_view = [{name: list(values) for name, values in view.items()} for view in decoded]
        outputs = reading.transform(plan, keys, by_view.__getitem__)
        return {name: reading.as_stored(values, kind) for name, (values, kind) in outputs.items()}
    given = [(key, reading.given_column(encode_column(keys[key], plan.kind_of(key)).values)) for key in KEYS]
    columns = reading.compute_on_demand(plan, given, list(_columns(rows)))
    return {
        name: encoding.python_values(column.values, plan.feature_types.get(name))
        for name, column in columns.items()
    }


def _columns(rows: CachedRows) -> Iterator[list[reading.Column]]:
    """Columns of each view, as Feast's own code takes them."""
    fields = list(zip(*rows.replies, strict=True))
    for view, stamp, indexes in zip(
        rows.query.views, rows.query.stamp_indexes, rows.query.field_indexes, strict=True
    ):
        judged = reading.Rows(fields[stamp], view.stored.ttl, rows.as_of.nanos)
        yield [judged.column(fields[index]) for index, _ in indexes[:-1]]


@lru_cache(maxsize=1024)
def _status_json(
    query: Query, lookback_hours: int, missing: tuple[bool, ...], views: tuple[int, int, int]
) -> bytes:
    """Status of each feature in JSON.

    Args:
        query: of the features.
        lookback_hours: of the request.
        missing: which of them have no value; none: all have one.
        views: those lost, without a row, and too old.
    """
    lost, without_row, too_old = views
    statuses = {}
    for feature, is_missing in zip(query.features, missing or repeat(False), strict=bool(missing)):
        if feature.reach > lookback_hours:
            status = OUTSIDE_LOOKBACK
        elif not is_missing:
            status = _STATUS_NAMES[PRESENT]
        elif lost & feature.views:
            status = UNAVAILABLE
        # of a computed feature without a value its views tell why
        elif without_row & feature.views:
            status = _STATUS_NAMES[NOT_FOUND]
        elif too_old & feature.views:
            status = _STATUS_NAMES[OUTSIDE_MAX_AGE]
        else:
            status = _STATUS_NAMES[NULL_VALUE]
        statuses[feature.name] = status
    return orjson.dumps(statuses)


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or isfinite(value)


def _are_finite(values: Sequence[Any]) -> bool:
    """Whether all are numbers that JSON has, or None; most rows are, and their sum tells at once."""
    try:
        return isfinite(sum(filter(None, values)))
    except (TypeError, OverflowError):
        return False


def _base64(value: Any) -> str:
    """Encode a feature of the type Bytes as Feast's feature server does."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return b64encode(value).decode()
