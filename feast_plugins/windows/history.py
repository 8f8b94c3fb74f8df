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
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.json import Jsonb
from typing_extensions import override

from feast_plugins.errors import DeclarationError
from feast_plugins.windows.columns import UndecidedError, evaluate, knows
from feast_plugins.windows.declarations import Declaration
from feast_plugins.windows.expressions import remembered_steps, sql_type, weather_window
from feast_plugins.windows.features import DAY, SERIES_KEYS, expression_of
from feast_plugins.windows.inputs import (
    EPOCH,
    EPOCH_US,
    POSITIONS,
    Inputs,
    Range,
    time_text,
)
from feast_plugins.windows.statements import MARK, Statements

if TYPE_CHECKING:
    import numpy.typing as npt

    from feast_plugins.windows.columns import Floats

    Integers = npt.NDArray[np.int64]
    Positions = npt.NDArray[np.intp]
    Values = Mapping[str, Floats]

_logger: Final = logging.getLogger(__name__)
#: Ranges that are computed here: of hours of which some are stored, or of which none is.
LONG, HISTORY = "long", "history"
_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END: Final = b"\xff\xff"
#: Longest range of the queue, in steps.
_PIECE: Final = 744
_BINARY: Final[Mapping[str, str]] = {"double precision": ">f8", "bigint": ">i8", "timestamptz": ">i8"}
_OIDS: Final[Mapping[str, int]] = {"double precision": 701, "bigint": 20, "timestamptz": 1184}
_TAKE: Final = """\
SELECT (declared).view_name, (declared).declaration, starts_with((declared).statement, %s), (declared).step, (declared).generation, (declared).meanings,
    extract(epoch FROM weather_kept_since())::bigint, feature_stamp(), batch::text[]
FROM take_declared_ranges(%s, %s, %s, %s)"""
#: As SERIES_KEYS has them.
_RANGES: Final = """\
SELECT k.text, k.tenant_id, k.asset_id, coalesce(assets.timezone, 'UTC'), assets.is_amount IS NULL,
    extract(epoch FROM k.first_hour)::bigint, extract(epoch FROM k.end_hour)::bigint,
    coalesce(assets.weather_asset_id, k.asset_id), '', k.asset_id, assets.price_zone, assets."group", assets.weather_station
FROM (
    SELECT text, number, (text::declared_refresh_ranges).* FROM unnest(%s::text[]) WITH ORDINALITY AS ranges (text, number)
) AS k
LEFT JOIN assets ON assets.tenant_id = k.tenant_id AND assets.asset_id = k.asset_id
ORDER BY k.number"""
_DAYS: Final = """\
SELECT k.number, extract(epoch FROM day)::bigint, (day AT TIME ZONE k.timezone)::date - DATE '1970-01-01'
FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) WITH ORDINALITY AS k (first_s, end_s, timezone, number)
CROSS JOIN LATERAL days_between(to_timestamp(k.first_s), to_timestamp(k.end_s), k.timezone, 0, 0) AS day
ORDER BY k.number, day"""
_BY_SERVER: Final = """\
SELECT pieces.* FROM declared_views AS views
CROSS JOIN LATERAL compute_declared_pieces(views, %(ranges)s::text[]::declared_refresh_ranges[]) AS pieces
WHERE view_name = %(view)s"""
_END_REPLACED: Final = """\
SELECT end_replaced_versions(%s, %s::feature_key[], %s::timestamptz, %s::timestamptz, %s)"""


@dataclass(frozen=True)
class _View:
    """A declared view as the catalog has it."""

    statements: Statements
    generation: int
    meanings: Mapping[str, int]
    weather_kept_since: int
    stamp: datetime

    @property
    def declaration(self) -> Declaration:
        return self.statements.declaration

    @property
    def name(self) -> str:
        return self.declaration.name

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
        return self.weather_kept_since + max(farthest) * self.step_s

    @property
    def step_s(self) -> int:
        """Seconds from one row to the next."""
        return self.declaration.step // timedelta(seconds=1)


@dataclass(frozen=True)
class _Rows:
    """Computed rows, an element each, in the order of their ranges."""

    #: index of the range in the batch
    numbers: Positions
    #: in seconds since 1970
    hours: Integers
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
            name, declaration, is_ours, step, generation, meanings, kept_since, stamp, texts = row
            statements = _statements(name, declaration, step) if is_ours else None
            if statements is None:
                computed, changed = _by_server(connection, name, texts)
            else:
                view = _View(statements, generation, meanings, kept_since, stamp)
                computed, changed = _store(connection, view, texts, is_new=kind == HISTORY, copies=copies)
        if computed:  # else all have failed, and others may not
            return computed, changed


def _batch_rows(connection: psycopg.Connection[Any]) -> int:
    """Rows of a batch, so few that memory is bounded where they look far back."""
    row = connection.execute("SELECT coalesce(max(farthest), 0) FROM declared_reaches").fetchone()
    assert row is not None  # noqa: S101  # an aggregate
    return int(POSITIONS * _PIECE / (_PIECE + row[0]))


def _statements(name: str, declaration: Mapping[str, Any], step: timedelta) -> Statements | None:
    """Statements of a view; None: it cannot be computed here."""
    try:
        found = Declaration(name, {key: expression_of(each) for key, each in declaration.items()}, step)
    except DeclarationError:  # of a later version
        return None
    return Statements(found) if knows(found) else None


def _store(
    connection: psycopg.Connection[Any], view: _View, batch: Sequence[str], *, is_new: bool, copies: bool
) -> tuple[int, int]:
    """Compute and store a batch; ranges that cannot be are halved until they are alone, and left to the server."""
    try:
        with connection.transaction():
            return _in_columns(connection, view, batch, is_new=is_new, copies=copies)
    except (UndecidedError, psycopg.DatabaseError) as error:
        if connection.broken:
            raise
        _logger.debug("%s rows are not computed in columns: %r", view.name, error)
    if len(batch) == 1:
        return _by_server(connection, view.name, batch)
    halves = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    done = [_store(connection, view, half, is_new=is_new, copies=copies) for half in halves]
    return sum(computed for computed, _ in done), sum(changed for _, changed in done)


def _by_server(connection: psycopg.Connection[Any], view: str, batch: Sequence[str]) -> tuple[int, int]:
    row = connection.execute(_BY_SERVER, {"view": view, "ranges": list(batch)}).fetchone()
    assert row is not None  # noqa: S101  # the view's row is locked
    return row[0], row[1]


def _in_columns(
    connection: psycopg.Connection[Any], view: _View, texts: Sequence[str], *, is_new: bool, copies: bool
) -> tuple[int, int]:
    """Rows of these ranges, and how many of them changed."""
    batch = _ranges(connection, view.declaration, texts)
    lengths = [len(each.times) for each in batch]
    numbers, hours = np.repeat(np.arange(len(batch)), lengths), np.concatenate([each.times for each in batch])
    is_plain = np.repeat([each.is_plain for each in batch], lengths)
    values = evaluate(view.declaration, Inputs(connection, view.declaration, batch).read(), is_plain)
    for name, each in view.declaration.stored.items():
        farthest = weather_window(each)
        if farthest is not None:
            values[name][hours < view.weather_kept_since + farthest * view.step_s] = np.nan
    found = _Rows(numbers, hours, values)
    is_compared = hours < view.earlier_until if is_new else np.ones(len(hours), bool)
    changed = 0
    if is_compared.any() or not is_new:
        changed += _store_differing(connection, view, batch, found.where(is_compared))
    if not is_compared.all():
        new = found.where(~is_compared)
        (_copy if copies else _insert)(connection, view, batch, new)
        changed += len(new)
    connection.execute("SELECT note_stored_ranges(%s::text[]::declared_refresh_ranges[])", [list(texts)])
    # as rows_in_ranges(), so that a range of days without a row counts as done
    return -(-sum(each.end_s - each.first_s for each in batch) // view.step_s), changed


def _ranges(
    connection: psycopg.Connection[Any], declaration: Declaration, texts: Sequence[str]
) -> list[Range]:
    """The rows of ranges of the queue, with what is known of their assets."""
    rows = connection.execute(_RANGES, [list(texts)]).fetchall()
    step_s = declaration.step // timedelta(seconds=1)
    days: dict[int, list[tuple[int, int]]] = {}
    if declaration.step == DAY:
        columns = ([row[5] for row in rows], [row[6] for row in rows], [row[3] for row in rows])
        for number, time, day in connection.execute(_DAYS, columns):
            days.setdefault(number - 1, []).append((time, day))
    found = []
    for number, (text, tenant, asset, timezone, is_plain, first_s, end_s, *zones) in enumerate(rows):
        if declaration.step == DAY:
            times = np.array([time for time, _ in days.get(number, [])], np.int64)
            dates = [day for _, day in days.get(number, [])]
            if dates != list(range(*dates[:1], *(dates[0] + len(dates) for _ in dates[:1]))):
                raise UndecidedError  # a calendar that leaves out a day
            first = dates[0] if dates else 0
        else:
            times, first = np.arange(first_s, end_s, step_s), first_s // step_s
            if first_s % step_s or end_s % step_s:
                raise UndecidedError
        of = dict(zip(("weather", *SERIES_KEYS), zones, strict=True))
        found.append(Range(text, tenant, asset, timezone, is_plain, of, first, times, first_s, end_s))
    return found


def _copy(connection: psycopg.Connection[Any], view: _View, batch: Sequence[Range], rows: _Rows) -> None:
    """Insert rows by COPY in its binary format, whose NULL is a size of -1 without a value."""
    stored = view.declaration.stored
    columns = ["hour", "tenant_id", "asset_id", "generation", *stored, "created_timestamp"]
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
        sql.Identifier("public", f"{view.name}_stored"), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    times = rows.hours * 1_000_000 - EPOCH_US
    stamp = (view.stamp - EPOCH) // timedelta(microseconds=1)
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


def _insert(connection: psycopg.Connection[Any], view: _View, batch: Sequence[Range], rows: _Rows) -> None:
    """Insert rows where COPY cannot."""
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
    connection: psycopg.Connection[Any], view: _View, batch: Sequence[Range], rows: _Rows
) -> int:
    """Store rows that differ from what is known; returns how many."""
    # of days also those of a time zone that is no longer the asset's
    lowest, highest = min(each.first_s for each in batch), max(each.end_s for each in batch)
    if view.declaration.step != DAY:
        lowest, highest = int(rows.hours.min()), int(rows.hours.max()) + view.step_s
    since, until = time_text(lowest), time_text(highest)
    statement = view.statements.store.replace("%1$L", f"'{since}'").replace("%2$L", f"'{until}'")
    connection.execute("SET LOCAL enable_mergejoin = off")  # as compute_declared_ranges()
    changed, replaced = _execute(connection, statement, view, batch, rows).fetchone() or (0, None)
    connection.execute(_END_REPLACED, [view.name, replaced, since, until, view.stamp])
    return int(changed)


def _execute(
    connection: psycopg.Connection[Any], statement: str, view: _View, batch: Sequence[Range], rows: _Rows
) -> psycopg.Cursor[Any]:
    """Run one of the view's statements that store rows."""
    parameters = [
        [each.text for each in batch],
        view.stamp,
        view.generation,
        Jsonb(view.meanings),
        _array("bigint", rows.numbers + 1),
        _array("timestamptz", rows.hours * 1_000_000 - EPOCH_US),
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
