"""A migration beside a session that is idle in a transaction, on a server with many backends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psycopg
import pytest
from support.scoped_database import new_database

from ai_hub.db import connect, migrate
from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_READ_S = 10


@pytest.fixture
def holder(native_postgres: str) -> Iterator[psycopg.Connection]:
    """A reader of table `held` that does not end its transaction."""
    with new_database(native_postgres) as dsn:
        with connect(dsn) as owner:
            owner.execute("CREATE TABLE held (a int)")
        with psycopg.connect(dsn) as reader:
            reader.execute("SELECT * FROM held")
            yield reader


@pytest.fixture
def sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A migration that changes table `held`; the server has no TimescaleDB."""
    monkeypatch.setattr(migrate, "check_licence", lambda _: None)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_change.sql").write_text("ALTER TABLE held ADD b int")
    return tmp_path


def dsn_of(connection: psycopg.Connection) -> str:
    info = connection.info
    return f"postgresql://{info.user}:{info.password}@{info.host}:{info.port}/{info.dbname}"


def test_migrate__table_that_is_held__keeps_no_reader_waiting_and_goes_on(
    holder: psycopg.Connection, sql: Path
) -> None:
    dsn = dsn_of(holder)
    done: list[migrate.Outcome] = []
    migrating = threading.Thread(target=lambda: done.append(migrate.migrate(dsn, sql=sql)))
    migrating.start()
    with connect(dsn, autocommit=True) as reader:
        deadline = time.monotonic() + _READ_S
        while not reader.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            assert time.monotonic() < deadline
        reader.execute("SET statement_timeout = '10s'")
        reader.execute("SELECT * FROM held")
    assert done == []
    holder.rollback()
    migrating.join()
    assert [outcome.applied for outcome in done] == [["0001_change.sql"]]


def test_migrate__table_that_stays_held__says_so(
    holder: psycopg.Connection, sql: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_advance", migrate._advance.__wrapped__)  # type: ignore[attr-defined]
    with pytest.raises(ConflictError, match="did not let go"):
        migrate.migrate(dsn_of(holder), sql=sql)


def test_migrate__code_that_cannot_be_applied__leaves_what_the_migration_before_it_takes_away(
    holder: psycopg.Connection, sql: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_advance", migrate._advance.__wrapped__)  # type: ignore[attr-defined]
    monkeypatch.setattr(migrate, "_WITHOUT_CODE", 0)
    (sql / "migrations" / "0001_change.sql").write_text("ALTER TABLE rows RENAME TO stored_rows")
    (sql / "code").mkdir()
    (sql / "code" / "010_rows.sql").write_text(
        "CREATE VIEW rows AS SELECT * FROM stored_rows; ALTER TABLE held ADD b int"
    )
    with connect(dsn_of(holder), autocommit=True) as writer:
        writer.execute("CREATE TABLE rows (a int)")
        with pytest.raises(ConflictError, match="did not let go"):
            migrate.migrate(dsn_of(holder), sql=sql)
        writer.execute("INSERT INTO rows VALUES (1)")
        holder.rollback()
        assert migrate.migrate(dsn_of(holder), sql=sql).applied == ["0001_change.sql"]
        assert writer.execute("SELECT * FROM rows").fetchall() == [(1,)]
