"""Whether history is cheaper by index probes or by a read of every row in reach, as the planner sees it."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from psycopg import sql

from feast_plugins.postgres.reads import fetch_value

if TYPE_CHECKING:
    from adbc_driver_manager import dbapi

    from feast_plugins.history.probes import Probes

#: What the planner does not count: bringing a row to the client and joining it there, in its units.
_CLIENT_ROW = 0.3
_SAMPLE = 100


class JoinStrategy(StrEnum):
    """Where history is joined."""

    AUTO = "auto"
    #: in the database, one index probe an entity row
    PROBE = "probe"
    #: in Arrow, from one read of the rows in reach
    RANGE = "range"


def choose(connection: dbapi.Connection, probes: Probes, in_reach: sql.Composed) -> JoinStrategy:
    """The cheaper strategy for these entity rows and the query of all rows in reach."""
    read = _plan(connection, in_reach)
    rows = probes.entities.table
    sample = rows.slice(0, _SAMPLE)
    probe = _plan(connection, probes.query(sample, probes.read.features))
    by_probe = probe["Total Cost"] * rows.num_rows / sample.num_rows
    by_range = read["Total Cost"] + read["Plan Rows"] * _CLIENT_ROW
    return JoinStrategy.PROBE if by_probe < by_range else JoinStrategy.RANGE


def _plan(connection: dbapi.Connection, query: sql.Composed) -> dict[str, Any]:
    """The planner's estimates for a query, which is not run."""
    found = fetch_value(connection, sql.SQL("EXPLAIN (FORMAT json) ") + query)
    plan: dict[str, Any] = json.loads(str(found))[0]["Plan"]
    return plan
