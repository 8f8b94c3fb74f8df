"""Servers and stores of the suite: one native PostgreSQL, one Redis, one registry."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import psycopg
import pytest
from conformance import rows
from conformance.repository import definitions
from conformance.stores import Hosts, Pair
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def experimental() -> Iterator[None]:
    """Feast warns of on-demand views and saved datasets unless it is told that this is a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IS_TEST", "True")
        yield


@pytest.fixture(scope="session")
def address(native_postgres: str) -> Iterator[str]:
    """The suite's database, filled."""
    name = f"conformance_{secrets.token_hex(4)}"
    with psycopg.connect(native_postgres, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    made = make_conninfo(native_postgres, dbname=name)
    with psycopg.connect(made) as connection:
        rows.fill(connection)
    yield made
    with psycopg.connect(native_postgres, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def hosts(address: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Hosts:
    at = conninfo_to_dict(address)
    postgres = {name: at[name] for name in ("host", "user", "password")} | {
        "port": int(at["port"] or 5432),
        "database": at["dbname"],
        "sslmode": "disable",
    }
    registry = tmp_path_factory.mktemp("conformance") / "registry.db"
    return Hosts(postgres, redis_url, registry)


@pytest.fixture(scope="session")
def pair(hosts: Hosts) -> Pair:
    """Both open the registry that stock has written; online, each has a database of its own."""
    made = Pair.open(hosts, (1, 2))
    made.stock.apply(list(definitions()))
    for store in made.joins.values():
        store.refresh_registry()
    return made
