"""Rows of a request: as Redis has them, what replaces stale ones, and features as they are sent."""

from __future__ import annotations

from base64 import b64encode
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


class Times(NamedTuple):
    """Event times of an asset's rows, and what follows from them. Sets of views have a bit for each index."""

    #: (ns) by view; None: there is no row
    by_view: tuple[int | None, ...]
    #: the oldest of them (ns), as a time, and the start of its hour; None: there is no row
    oldest: int | None
    event_timestamp: datetime | None
    hour: datetime | None
    #: views without a row, and views whose row is past its time to live
    without_row: int
    too_old: int


class AssetRows:
    """An asset's rows, one a view, and where they came from. Sets of views have a bit for each index."""

    source = REDIS
    #: reason why the answer is degraded, for metrics
    degraded: str | None = None
    #: False: the database knows no such asset
    is_known = True
    #: views whose rows could not be read, of which only the calendar is known
    lost = 0
    #: views whose row lacks a feature, because it was written before the view had it
    partial = 0

    def __init__(self, cells: list[Any], times: Times, stale: int) -> None:
        #: one reply of Redis; rows that are loaded replace its values
        self.cells = cells
        self.times = times
        #: views whose row is not current
        self.stale = stale


class CachedRows:
    """Rows of a request's assets; views and assets are given by index."""

    def __init__(self, query: Query, as_of: AsOf, replies: Sequence[list[Any]]) -> None:
        """Take one reply of Redis an asset."""
        self.query = query
        self.as_of = as_of
        self.assets: list[AssetRows] = []
        self._stale = 0
        # most rows of a request have the same times
        judged: dict[tuple[bytes | None, ...], tuple[Times, int]] = {}
        for reply in replies:
            stamps = query.stamps(reply)
            if (found := judged.get(stamps)) is None:
                found = judged[stamps] = self._judge(stamps)
            asset = AssetRows(reply, *found)
            if None in reply:
                self._find_partial(asset)
            self._stale |= asset.stale
            self.assets.append(asset)

    @classmethod
    def empty(cls, query: Query, as_of: AsOf, count: int) -> CachedRows:
        """No rows of any of `count` assets."""
        return cls(query, as_of, [[None] * len(query.fields) for _ in range(count)])

    def stale(self) -> dict[int, list[int]]:
        """By view, the assets whose rows are not current."""
        return {
            index: [number for number, asset in enumerate(self.assets) if asset.stale >> index & 1]
            for index, view in enumerate(self.query.views if self._stale else ())
            # a view without a source has rows in Redis alone
            if view.source is not None and self._stale >> index & 1
        }

    def time(self, view: int, asset: int) -> int | None:
        """Event time of a row (ns); None: there is none."""
        return self.assets[asset].times.by_view[view]

    def stamp(self, view: int, asset: int) -> bytes | None:
        """Time of a row as Redis stores it."""
        stamp: bytes | None = self.query.stamps(self.assets[asset].cells)[view]
        return stamp

    def is_partial(self, view: int, asset: int) -> bool:
        """Whether the row lacks a feature, because it was written before the view had it."""
        return bool(self.assets[asset].partial >> view & 1)

    def partial(self, view: int, asset: int) -> dict[bytes, bytes | None] | None:
        """The fields of such a row as Redis has them; None: it is another row."""
        if not self.is_partial(view, asset):
            return None
        cells = self.assets[asset].cells
        return {name: cells[index] for index, name in self.query.field_indexes[view]}

    def is_usable(self, view: int, asset: int) -> bool:
        """Whether there is a row of that time that is within its view's time to live."""
        time = self.time(view, asset)
        is_too_old = self.assets[asset].times.too_old >> view & 1
        return time is not None and self.as_of.is_visible(time) and not is_too_old

    def is_visible(self, view: int, asset: int) -> bool:
        """Whether there is no row, or one that existed at the time asked for."""
        time = self.time(view, asset)
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
        time = self.time(view, asset)
        is_visible = self.is_visible(view, asset)
        if row is None:
            if time is None or not is_visible:
                self.assets[asset].source = TIMESCALEDB
                self._set(view, asset, {}, None)
        elif time is None or row.nanos >= time or not is_visible:
            self.assets[asset].source = TIMESCALEDB
            self._set(view, asset, row.fields, row.nanos)

    def keep_stale(self, asset: int, reason: str) -> None:
        """Use the asset's rows although one is not current; the answer is degraded for `reason`."""
        self.assets[asset].degraded = reason

    def use_calendar(self, view: int, asset: int, reason: str, zone: str | None) -> None:
        """Use nothing but the calendar of the hour in the asset's time zone (None: unknown)."""
        rows = self.assets[asset]
        rows.degraded, rows.source = reason, CALENDAR
        rows.lost |= 1 << view
        hour = from_nanos(self.as_of.hour)
        fields = {self.query.views[view].stored.stamp_field: stamp_of(hour)[1]}
        if (local_time := self.query.views[view].local_time) is not None:
            local_s = hour.astimezone(_zone(zone)).replace(tzinfo=UTC).timestamp()
            if zone is None:
                local_s += self._offset_s(view, asset, local_time)
            (fields[local_time],) = reading.encode_outputs([round(local_s)], ValueType.INT64)
        self._set(view, asset, fields, self.as_of.hour)

    def _judge(self, stamps: Sequence[bytes | None]) -> tuple[Times, int]:
        """Times of rows with these stamps, and the views whose row is not current."""
        events: list[int | None] = []
        stale = 0
        for index, stamp in enumerate(stamps):
            event, computed = (None, None) if stamp is None else times_of(stamp)
            if not self.query.views[index].is_current(self.as_of, event, computed):
                stale |= 1 << index
            events.append(event)
        return self._times(events), stale

    def _times(self, by_view: Sequence[int | None]) -> Times:
        without_row = too_old = 0
        oldest = None
        for index, time in enumerate(by_view):
            ttl = self.query.views[index].stored.ttl
            if time is None:
                without_row |= 1 << index
                continue
            if oldest is None or time < oldest:
                oldest = time
            if ttl is not None and time < self.as_of.nanos - ttl:
                too_old |= 1 << index
        if oldest is None:
            return Times(tuple(by_view), None, None, None, without_row, too_old)
        hour = _time(oldest - oldest % HOUR_NS)
        return Times(tuple(by_view), oldest, _time(oldest), hour, without_row, too_old)

    def _find_partial(self, asset: AssetRows) -> None:
        for view, indexes in enumerate(self.query.field_indexes):
            # a feature without a value is stored as an empty value
            if not asset.stale >> view & 1 and any(asset.cells[index] is None for index, _ in indexes):
                asset.stale |= 1 << view
                asset.partial |= 1 << view

    def _offset_s(self, view: int, asset: int, local_time: bytes) -> int:
        """Seconds that local time was ahead of UTC in the hour of a row, however old it is."""
        time = self.time(view, asset)
        local = self.assets[asset].cells[self.query.fields.index(local_time)]
        if time is None or local is None:
            return 0
        return int(Value.FromString(local).int64_val) - time // 10**9

    def _set(self, view: int, asset: int, fields: Mapping[bytes, bytes], time: int | None) -> None:
        rows = self.assets[asset]
        for index, name in self.query.field_indexes[view]:
            rows.cells[index] = fields.get(name)
        events = list(rows.times.by_view)
        events[view] = time
        rows.times = self._times(events)


def _zone(name: str | None) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def results(
    rows: CachedRows, tenant: str, assets: Sequence[str], *, lookback_hours: int, computed_at: datetime
) -> list[dict[str, Any]]:
    """The result of each asset, in their order; features and statuses are fragments of JSON."""
    query = rows.query
    found = []
    for name, asset, values in zip(
        assets, rows.assets, _values(rows, tenant, assets, lookback_hours=lookback_hours), strict=True
    ):
        if not _are_finite(values):
            values = tuple(value if _is_finite(value) else None for value in values)  # noqa: PLW2901  # what is sent
        missing = tuple([value is None for value in values]) if None in values else ()
        features = dict(zip(query.names, values, strict=True))
        times = asset.times
        gaps = asset.lost, times.without_row, times.too_old
        found.append(
            {
                "asset_id": name,
                "features": orjson.Fragment(orjson.dumps(features, default=_base64, option=orjson.OPT_UTC_Z)),
                "feature_count": len(values) - missing.count(True),
                "status": _status_json(query, lookback_hours, missing, gaps),
                "hour": times.hour,
                "event_timestamp": times.event_timestamp,
                "source": asset.source,
                "degraded": asset.degraded is not None,
                "computed_at": computed_at,
            }
        )
    return found


#: Most rows of an hour have the same time.
_time = lru_cache(maxsize=4096)(from_nanos)


def _values(
    rows: CachedRows, tenant: str, assets: Sequence[str], *, lookback_hours: int
) -> list[tuple[Any, ...]]:
    """Values of each asset in the order of the query's features; None outside the look-back."""
    query = rows.query
    cells = [_cells(query, asset) for asset in rows.assets]
    if query.is_deterministic:
        pick = query.picked(lookback_hours)
        parts = zip(_decode(cells, query.sent_columns), _of_inputs(query, cells), strict=True)
        return [pick((*stored, *computed, None)) for stored, computed in parts]
    by_view = [
        dict(
            zip(
                [name for _, name, _ in columns.all],
                zip(*_decode(cells, columns), strict=True),
                strict=True,
            )
        )
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


def _cells(query: Query, asset: AssetRows) -> Sequence[bytes]:
    """An asset's cells without None: nothing where there is no value, no row, or one that is too old."""
    if gaps := asset.times.without_row | asset.times.too_old:
        blank = {
            index
            for view, indexes in enumerate(query.field_indexes)
            if gaps >> view & 1
            for index, _ in indexes
        }
        return [b"" if index in blank else cell or b"" for index, cell in enumerate(asset.cells)]
    return [cell or b"" for cell in asset.cells] if None in asset.cells else asset.cells


def _decode(cells: Sequence[Sequence[bytes]], columns: Columns) -> list[tuple[Any, ...]]:
    """Values of these columns of each asset."""
    numbers = encoding.doubles([columns.doubles(row) for row in cells])
    others = columns.others
    if numbers is None:  # they were stored when their features had another type
        numbers, others = [()] * len(cells), columns.all
    if not others:
        return numbers
    values = [encoding.python_values([row[index] for row in cells], kind) for index, _, kind in others]
    return [(*first, *rest) for first, rest in zip(numbers, zip(*values, strict=True), strict=True)]


def _of_inputs(query: Query, cells: Sequence[Sequence[bytes]]) -> list[tuple[Any, ...]]:
    """Values of each asset's on-demand features; they are computed once for the same inputs."""
    if not query.output_names:
        return [()] * len(cells)
    kept, number, pick = query.outputs.kept, query.computation, query.input_cells
    keys: list[OutputKey] = [(number, *pick(row)) for row in cells]
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
    fields = list(zip(*[asset.cells for asset in rows.assets], strict=True))
    stamps = rows.query.stamps(fields)
    for view, of_view, indexes in zip(rows.query.views, stamps, rows.query.field_indexes, strict=True):
        judged = reading.Rows(of_view, view.stored.ttl, rows.as_of.nanos)
        yield [judged.column(fields[index]) for index, _ in indexes[:-1]]


@lru_cache(maxsize=1024)
def _status_json(
    query: Query, lookback_hours: int, missing: tuple[bool, ...], views: tuple[int, int, int]
) -> orjson.Fragment:
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
    return orjson.Fragment(orjson.dumps(statuses))


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
