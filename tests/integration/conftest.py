"""Fixtures of tests that need tables."""

from __future__ import annotations

import pytest
from energy import energy

from ai_hub.database.migrate import migrate

__all__ = ["database", "energy"]


@pytest.fixture(scope="session")
def database(stack: dict[str, str]) -> str:
    """Address of the run's database with all migrations applied; shared, so use `tenant` to stay apart."""
    dsn = stack["TIMESCALE_DSN"]
    migrate(dsn)
    return dsn
