"""The tables' own CHECKs of names against the rule in Python."""

from __future__ import annotations

import psycopg
import pytest

from ai_hub.db import connect
from ai_hub.errors import BadInputError
from ai_hub.names import check_tenant, is_asset_id

NAMES = ("a", "ab", "a-", "0", "a" * 63, "", "-a", "A", "a_b", "a b", "a\n", "\u00e4", "a.b")


@pytest.mark.usefixtures("database")
def test_check_of_a_table__takes_the_names_that_python_takes() -> None:
    with connect() as connection:
        stored = {name for name in NAMES if _is_stored(connection, name, "m")}
        assets = {name for name in ("m", " m ", "m" * 256) if _is_stored(connection, "t", name)}
        assert not _is_stored(connection, "t", "")
        connection.rollback()
    assert stored == {name for name in NAMES if _is_tenant(name)}
    # stored assets are a wider set: SQL may have written them
    assert assets > {name for name in assets if is_asset_id(name)}


def _is_tenant(name: str) -> bool:
    try:
        check_tenant(name)
    except BadInputError:
        return False
    return True


def _is_stored(connection: psycopg.Connection, tenant: str, asset: str) -> bool:
    try:
        with connection.transaction():
            connection.execute("INSERT INTO assets (tenant_id, asset_id) VALUES (%s, %s)", [tenant, asset])
    except psycopg.errors.CheckViolation:
        return False
    return True
