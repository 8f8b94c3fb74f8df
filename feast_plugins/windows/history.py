# ruff: noqa: E501 - SQL as it is sent
"""Stores long ranges of declared rows: reads what they look at, computes it in columns, writes it in bulk.

A batch is one transaction, as compute_declared_batch() is: its ranges are taken from the queue, so plans of
other refreshes wait for it, and what changes meanwhile is planned after it. What columns.py does not know or
decide is computed by the server.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.json import Jsonb
from typing_extensions import override

from feast_plugins.errors import DeclarationError
from feast_plugins.windows.columns import Series, UndecidedError, evaluate, knows
from feast_plugins.windows.declarations import (
    HOUR,
    READING,
    WEATHER_AGE,
    Declaration,
    _OfColumn,
    expression_of,
)
from feast_plugins.windows.expressions import remembered_steps, sql_type, weather_window
from feast_plugins.windows.statements import MARK, Statements, gap, merged

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from feast_plugins.windows.columns import Floats

    Times = npt.NDArray[np.int64]
    Positions = npt.NDArray[np.intp]
    Values = Mapping[str, Floats]

_logger: Final = logging.getLogger(__name__)
#: Ranges that are computed here: of hours of which some are stored, or of which none is.
LONG, HISTORY = "long", "history"
#: Positions of a batch, hours that rows look back to among them: about 100 bytes each.
_POSITIONS: Final = 150_000
#: Longest range of the queue.
_PIECE: Final = 744
_HOUR_S: Final = 3600
#: PostgreSQL's binary times are microseconds since 2000.
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_S: Final = int(_EPOCH.timestamp())
_HOUR_US: Final = _HOUR_S * 1_000_000
_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END: Final = b"\xff\xff"
_BINARY: Final[Mapping[str, str]] = {"double precision": ">f8", "bigint": ">i8", "timestamptz": ">i8"}
_OIDS: Final[Mapping[str, int]] = {"double precision": 701, "bigint": 20, "timestamptz": 1184}
_TAKE: Final = """\
SELECT (declared).view_name, (declared).declaration, starts_with((declared).statement, %s), (declared).step, (declared).generation, (declared).meanings,
    extract(epoch FROM weather_kept_since())::bigint, feature_stamp(), taken.*
FROM take_declared_ranges(%s, %s, %s, %s)
CROSS JOIN LATERAL (
    SELECT array_agg(ranges::text), array_agg(ranges.tenant_id), array_agg(ranges.asset_id),
        array_agg(coalesce(assets.weather_asset_id, ranges.asset_id)),
        array_agg(extract(epoch FROM first_hour)::bigint), array_agg(extract(epoch FROM end_hour)::bigint)
    FROM unnest(batch) AS ranges
    LEFT JOIN assets ON assets.tenant_id = ranges.tenant_id AND assets.asset_id = ranges.asset_id
) AS taken"""
_BY_SERVER: Final = """\
SELECT pieces.* FROM declared_views AS views
CROSS JOIN LATERAL compute_declared_pieces(views, %(ranges)s::text[]::declared_refresh_ranges[]) AS pieces
WHERE view_name = %(view)s"""
_END_REPLACED: Final = """\
SELECT end_replaced_versions(%s, %s::feature_key[], %s::timestamptz, %s::timestamptz, %s)"""
_COPY_READINGS: Final = """\
COPY (
SELECT parts.number, hourly.hour, coalesce(meaning.value, 'NaN'), coalesce(meaning.least_value, 'NaN'),
    coalesce(meaning.greatest_value, 'NaN'), coalesce(meaning.stats[1], 0), coalesce(meaning.stats[2], '-0'),
    coalesce(meaning.stats[3], 0), hourly.sample_count::double precision
FROM unnest(%(numbers)s::bigint[], %(tenants)s::text[], %(assets)s::text[], %(starts)s::bigint[], %(ends)s::bigint[])
    AS parts (number, tenant_id, asset_id, start_s, end_s)
LEFT JOIN assets ON assets.tenant_id = parts.tenant_id AND assets.asset_id = parts.asset_id
CROSS JOIN LATERAL (
    SELECT * FROM hourly_features AS hourly
    WHERE hourly.tenant_id = parts.tenant_id AND hourly.asset_id = parts.asset_id
        AND hourly.hour >= to_timestamp(parts.start_s) AND hourly.hour < to_timestamp(parts.end_s)
        AND hourly.hour >= %(lowest)s::timestamptz AND hourly.hour < %(highest)s::timestamptz
) AS hourly
CROSS JOIN LATERAL hour_value(
    assets.is_amount, assets.unit_factor, assets.interval_seconds, hourly.avg_value, hourly.min_value,
    hourly.max_value, hourly.value_stats, hourly.known_seconds, hourly.unknown_count, hourly.value_seconds
) AS meaning
) TO STDOUT (FORMAT binary)"""
# NaN is nothing known, so one that is known becomes another number that nobody can compute with
_COPY_WEATHER: Final = """\
COPY (
SELECT parts.number, weather."timestamp", weather.available_at, {columns}
FROM unnest(%(numbers)s::bigint[], %(tenants)s::text[], %(assets)s::text[], %(starts)s::bigint[], %(ends)s::bigint[])
    AS parts (number, tenant_id, asset_id, start_s, end_s)
CROSS JOIN LATERAL (
    SELECT * FROM weather_features AS weather
    WHERE weather.tenant_id = parts.tenant_id AND weather.asset_id = parts.asset_id
        AND weather."timestamp" > to_timestamp(parts.start_s) AND weather."timestamp" < to_timestamp(parts.end_s)
        AND weather."timestamp" >= %(lowest)s::timestamptz AND weather."timestamp" < %(highest)s::timestamptz
        AND weather.available_at < weather."timestamp" + INTERVAL '{age} hours'
) AS weather
) TO STDOUT (FORMAT binary)"""
_WEATHER_COLUMN: Final = "CASE WHEN {0} = 'NaN' THEN 'Infinity' ELSE coalesce({0}, 'NaN') END"


@dataclass(frozen=True)
class _Range:
    """Rows to compute of one asset; times in seconds since 1970."""

    #: as the server has it
    text: str
    tenant: str
    asset: str
    #: whose weather it uses
    station: str
    first: int
    end: int

    @property
    def rows(self) -> int:
        return (self.end - self.first) // _HOUR_S


@dataclass(frozen=True)
class _View:
    """A declared view as the catalog has it."""

    name: str
    #: None: it is computed by the server alone
    statements: Statements | None
    generation: int
    meanings: Mapping[str, int]
    weather_kept_since: int
    stamp: datetime

    @property
    def declaration(self) -> Declaration:
        assert self.statements is not None  # noqa: S101  # see _store
        return self.statements.declaration

    @property
    def earlier_until(self) -> float:
        """Rows before this time may remember what an earlier generation has; in seconds since 1970."""
        farthest = [
            reach
            for each in self.declaration.stored.values()
            if (reach := remembered_steps(each)) is not None
        ]
        if self.generation == 1 or not farthest:
            return -np.inf
        return self.weather_kept_since + max(farthest) * _HOUR_S


@dataclass(frozen=True)
class _Rows:
    """Computed rows, an element each, in the order of their ranges."""

    #: index of the range in the batch
    numbers: Positions
    #: in seconds since 1970
    hours: Times
    values: Values

    def where(self, is_kept: npt.NDArray[np.bool_]) -> _Rows:
        return _Rows(
            self.numbers[is_kept],
            self.hours[is_kept],
            {name: each[is_kept] for name, each in self.values.items()},
        )

    def __len__(self) -> int:
        return len(self.hours)


def compute_batch(
    connection: psycopg.Connection[Any], kind: str, session: int, sessions: int, *, copies: bool
) -> tuple[int, int]:
    """Compute and store due ranges of one declared view; returns rows computed and rows that changed.

    Args:
        connection: in autocommit mode; of the owner.
        kind: `LONG` or `HISTORY`, as declared_due has it.
        session: whose assets, from 0.
        sessions: how many share the assets.
        copies: whether the server survives COPY FROM STDIN, which the embedded one does not.
    """
    while True:
        with connection.transaction():
            row = connection.execute(
                _TAKE, [MARK, _batch_rows(connection), session, sessions, [kind]]
            ).fetchone()
            if row is None:
                return 0, 0
            name, declaration, is_ours, step, generation, meanings, kept_since, stamp, *ranges = row
            view = _View(
                name,
                _statements(name, declaration) if is_ours and step == HOUR else None,
                generation,
                meanings,
                kept_since,
                stamp,
            )
            batch = [_Range(*each) for each in zip(*ranges, strict=True)]
            computed, changed = _store(connection, view, batch, is_new=kind == HISTORY, copies=copies)
        if computed:  # else all have failed, and others may not
            return computed, changed


def _batch_rows(connection: psycopg.Connection[Any]) -> int:
    """Rows of a batch, so few that memory is bounded where they look far back."""
    row = connection.execute("SELECT coalesce(max(farthest), 0) FROM declared_reaches").fetchone()
    assert row is not None  # noqa: S101  # an aggregate
    return int(_POSITIONS * _PIECE / (_PIECE + row[0]))


def _statements(name: str, declaration: Mapping[str, Any]) -> Statements | None:
    """Statements of a view; None: it cannot be computed here."""
    try:
        found = Declaration(name, {key: expression_of(each) for key, each in declaration.items()})
    except DeclarationError:  # of a later version
        return None
    return Statements(found) if knows(found) else None


def _store(
    connection: psycopg.Connection[Any], view: _View, batch: Sequence[_Range], *, is_new: bool, copies: bool
) -> tuple[int, int]:
    """Compute and store a batch; ranges that cannot be are halved until they are alone, and left to the server."""
    if view.statements is not None:
        try:
            with connection.transaction():
                changed = _in_columns(connection, view, batch, is_new=is_new, copies=copies)
            return sum(each.rows for each in batch), changed
        except (UndecidedError, psycopg.DatabaseError) as error:
            if connection.broken:
                raise
            _logger.debug("%s rows are not computed in columns: %r", view.name, error)
            if len(batch) > 1:
                halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
                done = [_store(connection, view, half, is_new=is_new, copies=copies) for half in halves]
                return sum(computed for computed, _ in done), sum(changed for _, changed in done)
    row = connection.execute(
        _BY_SERVER, {"view": view.name, "ranges": [each.text for each in batch]}
    ).fetchone()
    assert row is not None  # noqa: S101  # the view's row is locked
    return row[0], row[1]


def _in_columns(
    connection: psycopg.Connection[Any], view: _View, batch: Sequence[_Range], *, is_new: bool, copies: bool
) -> int:
    """Rows that changed."""
    layout = _Layout.of(view.declaration, batch)
    columns = dict(_weather(connection, layout))
    if READING in layout.reaches:
        columns[READING] = _readings(connection, layout)
    rows = layout.rows
    values = evaluate(view.declaration, columns, rows)
    hours = layout.hours
    for name, each in view.declaration.stored.items():
        farthest = weather_window(each)
        if farthest is not None:
            values[name][hours < view.weather_kept_since + farthest * _HOUR_S] = np.nan
    found = _Rows(np.repeat(np.arange(len(batch)), [each.rows for each in batch]), hours, values)
    is_compared = hours < view.earlier_until if is_new else np.ones(len(hours), bool)
    changed = 0
    if is_compared.any():
        changed += _store_differing(connection, view, batch, found.where(is_compared))
    if not is_compared.all():
        new = found.where(~is_compared)
        (_copy if copies else _insert)(connection, view, batch, new)
        changed += len(new)
    connection.execute(
        "SELECT note_stored_ranges(%s::text[]::declared_refresh_ranges[])", [[each.text for each in batch]]
    )
    return changed


@dataclass(frozen=True)
class _Layout:
    """Where the hours of a batch are: those of each range behind those that it looks back to."""

    batch: Sequence[_Range]
    #: of each column: ranges of hours before a row that are looked at
    reaches: Mapping[str, Sequence[tuple[int, int]]]
    #: hours before the first row of each range
    before: int

    @classmethod
    def of(cls, declaration: Declaration, batch: Sequence[_Range]) -> _Layout:
        offsets: dict[str, list[tuple[int, int]]] = {}
        for each in declaration.stored.values():
            for leaf in each.leaves():
                assert isinstance(leaf, _OfColumn)  # noqa: S101  # all that are stored are
                offsets.setdefault(leaf.column, []).append(leaf.offsets())
        reaches = {column: merged(each, gap=gap(column)) for column, each in offsets.items()}
        return cls(batch, reaches, max(each[-1][1] for each in reaches.values()))

    @property
    def starts(self) -> npt.NDArray[np.intp]:
        """First position of each range, and the number of positions."""
        return np.cumsum([0, *(self.before + each.rows for each in self.batch)])

    @property
    def rows(self) -> npt.NDArray[np.intp]:
        """Positions of the rows."""
        return np.concatenate(
            [
                start + self.before + np.arange(each.rows)
                for start, each in zip(self.starts, self.batch, strict=False)
            ]
        )

    @property
    def hours(self) -> Times:
        """Time of each row in seconds since 1970."""
        return np.concatenate([np.arange(each.first, each.end, _HOUR_S) for each in self.batch])


def _readings(connection: psycopg.Connection[Any], layout: _Layout) -> Series:
    parts = [
        (number, each.tenant, each.asset, each.first - farthest * _HOUR_S, each.end - nearest * _HOUR_S)
        for number, each in enumerate(layout.batch)
        for nearest, farthest in layout.reaches[READING]
    ]
    numbers, hours, *values = _read(connection, _COPY_READINGS, parts, integers=2, doubles=7)
    starts = layout.starts
    origins = np.array([each.first // _HOUR_S - layout.before for each in layout.batch])
    positions = starts[numbers] + hours // _HOUR_US + _EPOCH_S // _HOUR_S - origins[numbers]
    empty = (np.nan, np.nan, np.nan, 0.0, -0.0, 0.0, 0.0)
    columns = []
    for nothing, found in zip(empty, values, strict=True):
        column = np.full(starts[-1], nothing)
        column[positions] = found
        columns.append(column)
    return Series(*columns)


def _weather(connection: psycopg.Connection[Any], layout: _Layout) -> Iterator[tuple[str, Series]]:
    """Of each hour the newest value that was available when it began, of at most six hours before."""
    names = [column for column in layout.reaches if column != READING]
    if not names:
        return
    before = max(layout.reaches[name][-1][1] for name in names)
    # many assets have the weather of one station
    places: dict[tuple[str, str, int, int], int] = {}
    of_range = [
        places.setdefault((each.tenant, each.station, each.first - before * _HOUR_S, each.end), len(places))
        for each in layout.batch
    ]
    parts = [
        (number, tenant, station, start - WEATHER_AGE * _HOUR_S, end)
        for (tenant, station, start, end), number in places.items()
    ]
    query = _COPY_WEATHER.format(
        age=WEATHER_AGE, columns=", ".join(_WEATHER_COLUMN.format(f"weather.{name}") for name in names)
    )
    numbers, times, available, *values = _read(connection, query, parts, integers=3, doubles=len(names))
    order = np.lexsort((available, times, numbers))
    numbers, times, available = numbers[order], times[order], available[order]
    sizes = np.array([(end - start) // _HOUR_S for _, _, start, end in places])
    firsts = np.array([(start - _EPOCH_S) // _HOUR_S for _, _, start, _ in places])
    starts = np.cumsum([0, *sizes])
    first_hours = -(-times // _HOUR_US)
    offset = layout.before - before
    for name, unordered in zip(names, values, strict=True):
        value = unordered[order]
        is_known = ~np.isnan(value)
        grid = np.full(starts[-1], np.nan)
        # hours that a value counts for; where several do, the last one written is the newest
        for later in reversed(range(WEATHER_AGE)):
            hours = first_hours + later
            counts = (
                is_known
                & (hours * _HOUR_US < times + WEATHER_AGE * _HOUR_US)
                & (hours * _HOUR_US >= available)
                & (hours >= firsts[numbers])
                & (hours < (firsts + sizes)[numbers])
            )
            of_value = numbers[counts]
            grid[starts[of_value] + hours[counts] - firsts[of_value]] = value[counts]
        column = np.full(layout.starts[-1], np.nan)
        for start, number, each in zip(layout.starts, of_range, layout.batch, strict=False):
            column[start + offset : start + layout.before + each.rows] = grid[
                starts[number] : starts[number + 1]
            ]
        is_empty = np.isnan(column)
        weight = (~is_empty).astype(np.float64)
        total = np.where(is_empty, -0.0, column)
        yield name, Series(column, column, column, weight, total, np.zeros(len(column)), weight)


def _read(
    connection: psycopg.Connection[Any],
    query: str,
    parts: Sequence[tuple[int, str, str, int, int]],
    *,
    integers: int,
    doubles: int,
) -> list[npt.NDArray[Any]]:
    """Columns of a COPY: so many of numbers or times in microseconds since 2000, and of doubles, none NULL.

    Not by ADBC, which has a connection of its own: on the embedded server it would wait for this transaction.
    """
    names = ("numbers", "tenants", "assets", "starts", "ends")
    parameters: dict[str, Any] = dict(zip(names, map(list, zip(*parts, strict=True)), strict=True))
    bounds = {"lowest": _time(min(parameters["starts"])), "highest": _time(max(parameters["ends"]))}
    with connection.cursor().copy(query.encode(), parameters | bounds) as copy:
        data = b"".join(bytes(each) for each in copy)
    kinds = [">i8"] * integers + [">f8"] * doubles
    fields = [field for at, kind in enumerate(kinds) for field in ((f"size{at}", ">i4"), (f"f{at}", kind))]
    row = np.dtype([("width", ">i2"), *fields])
    length = (len(data) - len(_COPY_HEADER) - len(_COPY_END)) // row.itemsize
    rows = np.ndarray(length, row, data, len(_COPY_HEADER))
    return [rows[f"f{at}"].astype(kind.replace(">", "=")) for at, kind in enumerate(kinds)]


def _time(seconds: int) -> str:
    """A time as PostgreSQL reads it, also beyond the years that Python knows."""
    return str(np.datetime64(seconds, "s")) + "+00"


def _copy(connection: psycopg.Connection[Any], view: _View, batch: Sequence[_Range], rows: _Rows) -> None:
    """Insert rows by COPY in its binary format, whose NULL is a size of -1 without a value."""
    stored = view.declaration.stored
    columns = ["hour", "tenant_id", "asset_id", "generation", *stored, "created_timestamp"]
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
        sql.Identifier("public", f"{view.name}_stored"), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    times = (rows.hours - _EPOCH_S) * 1_000_000
    stamp = (view.stamp - _EPOCH) // timedelta(microseconds=1)
    ends = np.searchsorted(rows.numbers, np.arange(len(batch)), side="right")
    start = 0
    with connection.cursor().copy(statement) as copy:
        copy.write(_COPY_HEADER)
        for each, end in zip(batch, ends, strict=True):
            part = slice(start, end)
            row = [
                (">i8", times[part]),
                *((f"S{len(text)}", text) for text in (each.tenant.encode(), each.asset.encode())),
                (">i4", view.generation),
                *((_BINARY[sql_type(of)], rows.values[name][part]) for name, of in stored.items()),
                (">i8", stamp),
            ]
            copy.write(_encoded(end - start, row, prefix=len(row).to_bytes(2, "big")))
            start = end
        copy.write(_COPY_END)


def _insert(connection: psycopg.Connection[Any], view: _View, batch: Sequence[_Range], rows: _Rows) -> None:
    """Insert rows where COPY cannot."""
    assert view.statements is not None  # noqa: S101  # see _store
    _execute(connection, view.statements.insert, view, batch, rows)


def _encoded(rows: int, columns: Sequence[tuple[str, Any]], *, prefix: bytes = b"") -> bytes:
    """Rows in PostgreSQL's binary format: of each value its size and its bytes; a size of -1 is NULL, of NaN."""
    fields = [
        field for at, (kind, _) in enumerate(columns) for field in ((f"s{at}", ">i4"), (f"f{at}", kind))
    ]
    found = np.empty(rows, np.dtype([("prefix", f"V{len(prefix)}"), *fields]))
    found["prefix"] = np.void(prefix)
    is_kept = np.ones((rows, found.itemsize), bool)
    for at, (kind, values) in enumerate(columns):
        size = np.dtype(kind).itemsize
        # counts are doubles, too, until they are written
        is_nan = isinstance(values, np.ndarray) and values.dtype.kind == "f" and np.isnan(values)
        is_empty = np.broadcast_to(is_nan, rows)
        found[f"s{at}"] = np.where(is_empty, -1, size)
        found[f"f{at}"] = np.where(is_empty, 0, values) if is_empty.any() else values
        if is_empty.any() and found.dtype.fields is not None:
            offset = found.dtype.fields[f"f{at}"][1]
            is_kept[is_empty, offset : offset + size] = False
    data = found.view(np.uint8).reshape(rows, found.itemsize)
    return (data if is_kept.all() else data[is_kept]).tobytes()


def _store_differing(
    connection: psycopg.Connection[Any], view: _View, batch: Sequence[_Range], rows: _Rows
) -> int:
    """Store rows that differ from what is known; returns how many."""
    assert view.statements is not None  # noqa: S101  # see _store
    lowest, highest = _time(int(rows.hours.min())), _time(int(rows.hours.max()) + _HOUR_S)
    statement = view.statements.store.replace("%1$L", f"'{lowest}'").replace("%2$L", f"'{highest}'")
    connection.execute("SET LOCAL enable_mergejoin = off")  # as compute_declared_ranges()
    changed, replaced = _execute(connection, statement, view, batch, rows).fetchone() or (0, None)
    connection.execute(_END_REPLACED, [view.name, replaced, lowest, highest, view.stamp])
    return int(changed)


def _execute(
    connection: psycopg.Connection[Any], statement: str, view: _View, batch: Sequence[_Range], rows: _Rows
) -> psycopg.Cursor[Any]:
    """Run one of the view's statements that store rows."""
    parameters = [
        [each.text for each in batch],
        view.stamp,
        view.generation,
        Jsonb(view.meanings),
        _array("bigint", rows.numbers + 1),
        _array("timestamptz", (rows.hours - _EPOCH_S) * 1_000_000),
        *(_array(sql_type(of), rows.values[name]) for name, of in view.declaration.stored.items()),
    ]
    cursor = psycopg.RawCursor(connection)
    cursor.adapters.register_dumper(_Array, _ArrayDumper)
    return cursor.execute(statement.encode(), parameters, prepare=False)


class _Array(bytes):
    """An array in PostgreSQL's binary format."""


class _ArrayDumper(Dumper):
    """Sends one as it is; the statement says its type."""

    format = Format.BINARY

    @override
    def dump(self, obj: _Array) -> bytes:
        return obj


def _array(kind: str, values: npt.NDArray[Any]) -> _Array:
    """An array of this type, NULL where a value is NaN."""
    header = np.array([1, 1, _OIDS[kind], len(values), 1], ">i4").tobytes()
    return _Array(header + _encoded(len(values), [(_BINARY[kind], values)]))
