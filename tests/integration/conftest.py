"""Fixtures of tests that need tables."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from oracles.features import HOUR, floor_hour
from support.energy import energies, energy, feast_apply
from support.registry_servers import sqlite_template

from ai_hub.database.migrate import migrate

__all__ = ["database", "energies", "energy", "feast_apply", "sqlite_template"]

_DATABASES = {"database", "dsn", "blank_database", "spare_database"}
#: No module of tests that need one takes longer.
_LONGEST_MODULE_S = 120
#: Names of what modules set when tests were collected, perhaps in an earlier hour.
_MOVED = {"NOW", "THIS_HOUR"}


@pytest.fixture(scope="module")
def hour() -> datetime:
    """The hour of the module's tests, whose end they do not see."""
    now = datetime.now(UTC)
    if (left := (floor_hour(now) + HOUR - now).total_seconds()) < _LONGEST_MODULE_S:
        time.sleep(left + 0.1)
    return floor_hour(datetime.now(UTC))


@pytest.fixture(scope="module", autouse=True)
def _hour_of_the_module(request: pytest.FixtureRequest) -> None:
    """Tests that need a database see no hour's end; `NOW` of their module is in their hour."""
    tests = (test for test in request.session.items if test.path == request.path)
    if any(_DATABASES.intersection(getattr(test, "fixturenames", ())) for test in tests):
        hour = request.getfixturevalue("hour")
        for name in _MOVED & vars(request.module).keys():
            now = getattr(request.module, name)
            setattr(request.module, name, now + (hour - floor_hour(now)))


@pytest.fixture(scope="session")
def database(stack: dict[str, str]) -> str:
    """Address of the run's database with all migrations applied; shared, so use `tenant` to stay apart."""
    dsn = stack["TIMESCALE_DSN"]
    migrate(dsn)
    return dsn
