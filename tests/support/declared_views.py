"""Makes declared views in a database, and compares their rows with the oracle."""

from __future__ import annotations

import hashlib
import pickle
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from feast import Entity, ValueType
from oracles.declared import Oracle
from oracles.features import floor_hour
from psycopg import sql
from psycopg.rows import dict_row

from feast_plugins.windows import database as declared
from feast_plugins.windows import declared_view
from feast_plugins.windows.declarations import Declaration, declaration_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import psycopg
    from oracles.features import Asset

HOUR = timedelta(hours=1)
ENTITIES = [
    Entity(name="tenant", join_keys=["tenant_id"], value_type=ValueType.STRING),
    Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING),
]
PROJECT = "declared_tests"
#: What the oracle said of a row: most comparisons are of what is known already, stored in another way.
_EXPECTED: dict[tuple[bytes, datetime], dict[str, Any]] = {}


def declare(name: str, features: Mapping[str, Any], step: timedelta | None = None) -> Declaration:
    """The declaration of a view, through Feast's own class."""
    found = declaration_of(declared_view(name=name, entities=ENTITIES, features=features, step=step))
    assert found is not None
    return found


def apply(connection: psycopg.Connection, *declarations: Declaration) -> list[declared.Change]:
    """Bring the database in line with these views and no others; what was to be done."""
    others = declared.others_of(connection, PROJECT, ())
    changes = declared.changes(connection, PROJECT, declarations, removed=others)
    with declared.allow_losses():
        declared.apply(connection, PROJECT, changes)
    return changes


@contextmanager
def applied(connection: psycopg.Connection, declaration: Declaration) -> Iterator[None]:
    """The view is there in this block, without rows of assets that have readings by now."""
    apply(connection, declaration)
    # the run's other tests leave many of them
    connection.execute(
        "INSERT INTO declared_spans SELECT %s, tenant_id, asset_id, '{(,)}' FROM asset_spans",
        [declaration.name],
    )
    try:
        yield
    finally:
        apply(connection)


def fill(connection: psycopg.Connection, declaration: Declaration) -> None:
    """Let the next refresh compute all hours that are missing."""
    connection.execute(
        "UPDATE declared_views SET filled_from = '-infinity' WHERE view_name = %s", [declaration.name]
    )


def is_pending(connection: psycopg.Connection, declaration: Declaration) -> bool:
    """Whether a refresh has left rows of the view."""
    found = connection.execute(
        "SELECT FROM declared_refresh_ranges WHERE view_name = %s LIMIT 1", [declaration.name]
    ).fetchone()
    return found is not None


def differences(
    connection: psycopg.Connection,
    declaration: Declaration,
    tenant: str,
    asset: str,
    expected: Asset,
    *,
    attributes: Mapping[str, Any] | None = None,
    known_at: datetime | None = None,
) -> Iterator[str]:
    """How the view differs from the oracle; with `known_at`, how its versions did at that time."""
    oracle = Oracle(expected, datetime.now(UTC), attributes or {}, declaration.step)
    hours = oracle.rows(known_at or datetime.now(UTC))
    scale = max(map(abs, expected.readings.values()), default=1.0)
    features = declaration.as_json()
    known = (expected, dict(attributes or {}), declaration.step, features, floor_hour(oracle.now))
    state = hashlib.sha256(pickle.dumps(known)).digest()
    rows = _rows(connection, declaration.name, tenant, asset, known_at)
    if [row["event_timestamp"] for row in rows] != hours:
        yield f"{declaration.name}: {len(rows)} rows instead of {len(hours)}"
        return
    for row in rows:
        at = row["event_timestamp"]
        if (want := _EXPECTED.get((state, at))) is None:
            want = _EXPECTED[state, at] = oracle.row(at, features)
        for name, value in want.items():
            if not same(row[name], value, scale):
                yield f"{row['event_timestamp']} {name}: {row[name]} instead of {value}"


def same(got: Any, want: Any, scale: float) -> bool:
    """Whether both are missing, or equal up to rounding of readings as large as `scale`."""
    if got is None or want is None or isinstance(want, str | int):
        return bool(got == want)
    return bool(abs(got - want) <= 1e-9 * max(abs(want), scale))


def _rows(
    connection: psycopg.Connection, view: str, tenant: str, asset: str, known_at: datetime | None
) -> list[dict[str, Any]]:
    query = sql.SQL(
        "SELECT * FROM {} WHERE tenant_id = %(tenant)s AND asset_id = %(asset)s {} ORDER BY event_timestamp"
    )
    if known_at is None:
        query = query.format(sql.Identifier(view), sql.SQL(""))
    else:
        known = "AND created_timestamp <= %(at)s AND (superseded_at IS NULL OR superseded_at > %(at)s)"
        query = query.format(sql.Identifier(f"{view}_versions"), sql.SQL(known))
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, {"tenant": tenant, "asset": asset, "at": known_at}).fetchall()
