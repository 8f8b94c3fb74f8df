"""A connection to the test's database, and a second tenant in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ai_hub.db import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection


@pytest.fixture
def connection(database: str) -> Iterator[Connection[Any]]:
    with connect(database, autocommit=True) as opened:
        yield opened


@pytest.fixture
def other(tenant: str) -> str:
    return f"{tenant}-other"
