from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import adbc_driver_postgresql.dbapi as adbc
import pytest

from feast_plugins.postgres.session import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adbc_driver_manager import dbapi


@pytest.fixture(params=["UTC", "Europe/Berlin", "Asia/Kolkata"])
def connection(native_postgres: str, request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    """To a server whose sessions are in another zone."""
    with adbc.connect(f"{native_postgres}?options=-c%20TimeZone%3D{request.param}") as connection:
        yield connection


@pytest.mark.parametrize("ignoring", ["", "1"])
def test_fetch__any_zone_of_the_session__gives_the_same_instants(
    connection: dbapi.Connection, ignoring: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYARROW_IGNORE_TIMEZONE", ignoring)  # some libraries set it for the whole process
    table = fetch(
        connection,
        "SELECT timestamptz '2026-10-25 00:30+00' AS first, timestamptz '2026-10-25 01:30+00' AS second,"
        " NULL::timestamptz AS none, timestamp '2026-10-25 02:30' AS wall",
    )
    assert table.to_pylist() == [
        {
            "first": datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
            "second": datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
            "none": None,
            "wall": datetime(2026, 10, 25, 2, 30, tzinfo=UTC),
        }
    ]
