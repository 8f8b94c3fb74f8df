"""A server pair for each test module, and an empty table and Redis for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.materialize_lab import Lab, database

from benchmarks.servers import valkey

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def lab(native_postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with valkey() as server, database(native_postgres, "materialize") as dsn:
        yield Lab(dsn, server, tmp_path_factory.mktemp("lab"))


@pytest.fixture
def meters(lab: Lab) -> Lab:
    """An empty table `meters`, and an empty Redis."""
    lab.execute(
        "DROP TABLE IF EXISTS meters; CREATE TABLE meters (tenant_id text, asset_id text,"
        " event_timestamp timestamptz, created timestamptz, load float8, count int8, state text)"
    )
    with lab.client() as client:
        client.flushall()
    return lab
