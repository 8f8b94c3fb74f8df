"""What the tables of the suite hold: the oracle reads it from here, the stores from Postgres."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from feast import types as feast
from psycopg import sql
from psycopg.types.json import Json, Jsonb

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
#: The suite's noon; clocks in Berlin went back some hours before.
T0 = datetime(2025, 10, 26, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Kind:
    """A type of Postgres: its name, Feast's type, and a value for each of four devices."""

    postgres: str
    feast: Any
    examples: tuple[Any, Any, Any, Any]


_TIMES = (T0, T0 + MICROSECOND, None, datetime(1969, 12, 31, 23, 59, tzinfo=UTC))
_NAIVE = tuple(time and time.replace(tzinfo=None) for time in _TIMES)
_DAYS = (date(2025, 10, 26), date(1969, 12, 31), None, date(2100, 2, 28))
_IDS = (uuid.UUID(int=1), uuid.UUID(int=2**128 - 1), None, uuid.UUID(int=0))
_NUMBERS = (Decimal("1.10"), Decimal("-12345678901234567890.5"), None, Decimal("NaN"))

SCALARS = {
    "smallint": Kind("smallint", feast.Int32, (7, -(2**15), None, 2**15 - 1)),
    "integer": Kind("integer", feast.Int32, (7, -(2**31), None, 2**31 - 1)),
    "bigint": Kind("bigint", feast.Int64, (7, -(2**63), None, 2**62)),
    "real": Kind("real", feast.Float32, (1.5, -math.inf, None, math.nan)),
    "double": Kind("double precision", feast.Float64, (0.1, math.inf, None, math.nan)),
    "numeric": Kind("numeric", feast.Float64, _NUMBERS),
    "text": Kind("text", feast.String, ("Zähler 🔌", "", None, 'it\'s "a" \\ %s; --\n')),
    "varchar": Kind("varchar(9)", feast.String, ("a", "", None, "123456789")),
    "boolean": Kind("boolean", feast.Bool, (True, False, None, True)),
    "bytea": Kind("bytea", feast.Bytes, (b"\x00\xff", b"", None, b"\\x00")),
    "timestamptz": Kind("timestamptz", feast.UnixTimestamp, _TIMES),
    "timestamp": Kind("timestamp", feast.UnixTimestamp, _NAIVE),
    "date": Kind("date", feast.UnixTimestamp, _DAYS),
    "uuid": Kind("uuid", feast.Uuid, _IDS),
    "json": Kind("json", feast.Map, tuple(Json(v) for v in ({"a": "1"}, {}, {"b": None}, {"c": "x"}))),
    "jsonb": Kind("jsonb", feast.Map, tuple(Jsonb(v) for v in ({"a": "1"}, {}, {"b": None}, {"c": "x"}))),
}


def _array(name: str) -> Kind:
    """Arrays of a kind: of its values, none at all, NULL, one."""
    kind = SCALARS[name]
    some = [value for value in kind.examples if value is not None]
    return Kind(f"{kind.postgres}[]", feast.Array(kind.feast), (some, [], None, some[:1]))


ARRAYS = {f"{name}s": _array(name) for name in SCALARS if name not in {"varchar", "json", "jsonb"}}
KINDS = SCALARS | ARRAYS
#: Types that stock cannot read: see the deliberate differences.
UNREADABLE = [name for name in KINDS if name.startswith(("json", "uuid", "numeric"))]
READABLE = [name for name in KINDS if name not in UNREADABLE]

# key columns, event_timestamp, created_timestamp, values
LOADS = [
    ("t1", "1", T0 - 5 * HOUR, T0 - 5 * HOUR, 1.0, 10, "good"),
    ("t1", "1", T0 - 3 * HOUR, T0 - 3 * HOUR, 2.0, 20, "good"),
    ("t1", "1", T0 - 3 * HOUR, T0 - 1 * HOUR, 2.5, 25, "good"),  # a correction, two hours later
    ("t1", "1", T0 - 2 * HOUR, T0 + 1 * HOUR, 3.0, None, "bad"),  # written late
    ("t1", "1", T0, T0, None, 40, "good"),
    ("t1", "2", T0 - 1 * HOUR, T0 - 1 * HOUR, 5.0, 50, "good"),
    ("t2", "1", T0 - 1 * HOUR, T0 - 1 * HOUR, 6.0, 60, "good"),
    ("t2", "1", T0 + 1 * HOUR, T0 + 1 * HOUR, math.nan, 70, "bad"),
    ("", "", T0 - 1 * HOUR, T0 - 1 * HOUR, 8.0, 80, "good"),
]
PRICES = [
    ("t1", T0 - 30 * HOUR, 100.0, "winter"),
    ("t1", T0 - 3 * HOUR, 101.0, "summer"),
    ("t2", T0 - 2 * HOUR, 200.0, None),
    ("t3", T0 - 2 * HOUR, 300.0, "none"),
]
MARKET = [(T0 - 4 * HOUR, 1.0), (T0 - 2 * HOUR, 2.0), (T0 + 2 * HOUR, 3.0)]
DEVICES = [
    (device, T0 - HOUR, *(kind.examples[device - 1] for kind in KINDS.values())) for device in range(1, 5)
]
#: One that a float cannot hold, beside one that is missing.
NUMBERS = [(1, T0, 2**53 + 1), (2, T0, None)]
#: Two rows of one time, and nothing says which is newer.
TIES = [("t1", T0, 1.0), ("t1", T0, 2.0), ("t2", T0, 3.0)]
RENAMED = [("t1", T0 - 3 * HOUR, T0, 1.5), ("t1", T0 - HOUR, T0, 2.5), ("t2", T0 - HOUR, T0, 3.5)]

_TABLES: dict[str, tuple[str, list[Any]]] = {
    "loads": (
        """tenant_id text, asset_id text, event_timestamp timestamptz, created_timestamp timestamptz,
        load float8, readings bigint, quality text""",
        LOADS,
    ),
    "prices": ("tenant_id text, event_timestamp timestamptz, price float8, season text", PRICES),
    "market": ("event_timestamp timestamptz, index float8", MARKET),
    "devices": (
        "device_id bigint, event_timestamp timestamptz, "
        + ", ".join(f'"f_{name}" {kind.postgres}' for name, kind in KINDS.items()),
        DEVICES,
    ),
    "numbers": ("device_id bigint, event_timestamp timestamptz, number bigint", NUMBERS),
    "ties": ("tenant_id text, event_timestamp timestamptz, value float8", TIES),
    "renamed": ('"Tenant" text, "At" timestamptz, made timestamptz, "mapped kW" float8', RENAMED),
    "naive": (
        "tenant_id text, event_timestamp timestamp, price float8, season text",
        [(tenant, time.replace(tzinfo=None), *rest) for tenant, time, *rest in PRICES],
    ),
}


#: A table to write to, and how long reads of slow views take.
_MORE = """
CREATE TABLE patience AS SELECT 0.0::float8 AS seconds;
CREATE TABLE named (tenant_id text, asset_id text, event_timestamp timestamptz, value float8);
CREATE TABLE written (
    tenant_id text, event_timestamp timestamptz, price float8, season text,
    UNIQUE (tenant_id, event_timestamp)
)
"""


def fill(connection: Any) -> None:
    """Make the tables."""
    connection.execute(_MORE)
    for table, (columns, rows) in _TABLES.items():
        name = sql.Identifier(table)
        connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(columns)))
        marks = sql.SQL(", ").join([sql.Placeholder()] * len(rows[0]))
        with connection.cursor() as cursor:
            cursor.executemany(sql.SQL("INSERT INTO {} VALUES ({})").format(name, marks), rows)


def plain(value: Any) -> Any:
    """A value of `KINDS` as the stores should give it."""
    match value:
        case list():
            made = [plain(item) for item in value]
        case Json() | Jsonb():
            made = json.dumps(value.obj)
        case Decimal():
            made = float(value)
        case uuid.UUID():
            made = str(value)
        case datetime():
            made = value if value.tzinfo else value.replace(tzinfo=UTC)
        case date():
            made = datetime(value.year, value.month, value.day, tzinfo=UTC)
        case _:
            made = value
    return made
