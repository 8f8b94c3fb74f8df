"""Fixtures of tests that need tables."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, LiteralString

import pytest
from oracles.features import floor_hour
from support.energy import energies, energy, feast_apply
from support.registry_servers import sqlite_template
from support.scheduling import LONGEST_MODULE_S, seconds_left

from ai_hub.db import connect
from ai_hub.db.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["database", "energies", "energy", "feast_apply", "sqlite_template"]

_DATABASES = {"database", "dsn", "blank_database", "spare_database", "migrated_database"}
#: Names of what modules set when tests were collected, perhaps in an earlier hour.
_MOVED = {"NOW", "THIS_HOUR"}
_DROP_CHUNKS: LiteralString = """
SELECT drop_chunks(relation::regclass, {})
FROM (
    SELECT format('%I.%I', hypertable_schema, hypertable_name) FROM timescaledb_information.hypertables
    UNION ALL
    SELECT format('%I.%I', view_schema, view_name) FROM timescaledb_information.continuous_aggregates
) AS relations (relation)
"""


@pytest.fixture(scope="module")
def hour() -> datetime:
    """The hour of the module's tests, whose end they do not see."""
    if (left := seconds_left()) < LONGEST_MODULE_S:
        time.sleep(left + 0.1)
    return floor_hour(datetime.now(UTC))


@pytest.fixture(scope="module", autouse=True)
def _hour_of_the_module(request: pytest.FixtureRequest) -> None:
    """Tests that need a database see no hour's end; `NOW` of their module is in their hour."""
    if _DATABASES & _fixtures_of_the_module(request):
        hour = request.getfixturevalue("hour")
        for name in _MOVED & vars(request.module).keys():
            now = getattr(request.module, name)
            setattr(request.module, name, now + (hour - floor_hour(now)))


@pytest.fixture(scope="module", autouse=True)
def _little_stays_of_the_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """Queries plan over every chunk there is, and a refresh computes whatever waits, also for later modules.

    What several modules share is younger than a year.
    """
    is_used = "run_database" in _fixtures_of_the_module(request)
    address = request.getfixturevalue("run_database") if is_used else None
    yield
    if address:
        with connect(address, autocommit=True) as connection:
            connection.execute("DELETE FROM feature_changes")
            connection.execute(_DROP_CHUNKS.format("older_than => now() - INTERVAL '1 year'"))
            connection.execute(_DROP_CHUNKS.format("newer_than => now() + INTERVAL '60 days'"))


def _fixtures_of_the_module(request: pytest.FixtureRequest) -> set[str]:
    tests = (test for test in request.session.items if test.path == request.path)
    return {name for test in tests for name in getattr(test, "fixturenames", ())}


@pytest.fixture(scope="session")
def run_database(stack: dict[str, str]) -> str:
    """Address of the run's database with all migrations applied."""
    dsn = stack["TIMESCALE_DSN"]
    migrate(dsn)
    return dsn


@pytest.fixture(scope="session")
def database(run_database: str) -> str:
    """The run's database; shared, so use `tenant` to stay apart. Some modules have another by this name."""
    return run_database
