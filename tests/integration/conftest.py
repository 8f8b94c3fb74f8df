"""Fixtures of tests that need tables."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from energy import energy
from oracles.features import floor_hour

from ai_hub.database.migrate import migrate

__all__ = ["database", "energy"]


@pytest.fixture(scope="module", autouse=True)
def _hour_of_the_module(request: pytest.FixtureRequest) -> None:
    """`NOW` of a module was set when tests were collected, perhaps in another hour than they run in."""
    if isinstance(now := getattr(request.module, "NOW", None), datetime):
        request.module.NOW = now + (floor_hour(datetime.now(UTC)) - floor_hour(now))


@pytest.fixture(scope="session")
def database(stack: dict[str, str]) -> str:
    """Address of the run's database with all migrations applied; shared, so use `tenant` to stay apart."""
    dsn = stack["TIMESCALE_DSN"]
    migrate(dsn)
    return dsn
