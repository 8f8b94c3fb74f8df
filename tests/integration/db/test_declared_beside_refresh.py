"""A declaration changes while a refresh computes rows of its view, in sessions with backends of their own."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from oracles.features import floor_hour
from support.declared_views import applied, apply, declare, fill, is_pending
from support.feature_tables import write

from ai_hub.db import connect
from feast_plugins.windows import Lag

HOUR = timedelta(hours=1)


def test_apply__batch_is_being_computed__waits_for_it(database: str) -> None:
    declaration = declare(f"busy_{secrets.token_hex(4)}", {"lag": Lag("value", HOUR)})
    with (
        connect(database, autocommit=True) as connection,
        connect(database) as refresh_of_others,
        applied(connection, declaration),
        ThreadPoolExecutor(1) as pool,
    ):
        refresh_of_others.execute(
            "SELECT pg_advisory_xact_lock_shared(declared_view_lock(%s))", [declaration.name]
        )
        waiting = pool.submit(apply, connection, declare(declaration.name, {"lag": Lag("value", 2 * HOUR)}))
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = %s"
        while refresh_of_others.execute(query, [connection.info.backend_pid]).fetchone() == (0,):
            assert not waiting.done()
        refresh_of_others.rollback()
        (change,) = waiting.result()
    assert change.action == "alter"


def test_refresh_features__history_is_being_stored__leaves_it_to_that_session(
    database: str, tenant: str
) -> None:
    declaration = declare(f"beside_{secrets.token_hex(4)}", {"lag": Lag("value", HOUR)})
    start = floor_hour(datetime.now(UTC)) - timedelta(days=20)
    with (
        connect(database, autocommit=True) as connection,
        connect(database) as backfill,
        applied(connection, declaration),
    ):
        write(connection, tenant, "meter", {start + step * HOUR: 1.0 for step in range(100)})
        fill(connection, declaration)
        backfill.execute("SELECT pg_advisory_xact_lock(declared_history_lock())")
        connection.execute("CALL refresh_features()")
        assert is_pending(connection, declaration)
        backfill.rollback()
        connection.execute("CALL refresh_features()")
        assert not is_pending(connection, declaration)
        query = "SELECT pg_try_advisory_xact_lock(declared_history_lock())"
        assert backfill.execute(query).fetchone() == (True,)


def test_plan__history_is_being_stored__waits_and_does_not_plan_it_again(database: str, tenant: str) -> None:
    declaration = declare(f"waits_{secrets.token_hex(4)}", {"lag": Lag("value", HOUR)})
    start = floor_hour(datetime.now(UTC)) - timedelta(days=20)
    with (
        connect(database, autocommit=True) as connection,
        connect(database) as backfill,
        applied(connection, declaration),
        ThreadPoolExecutor(1) as pool,
    ):
        write(connection, tenant, "meter", {start + step * HOUR: 1.0 for step in range(100)})
        fill(connection, declaration)
        backfill.execute("SELECT pg_advisory_xact_lock(declared_history_lock())")
        connection.execute("CALL refresh_features()")
        batch = "SELECT computed FROM compute_declared_batch()"
        rows = []  # of this view and of ai_features
        while (row := backfill.execute(batch).fetchone()) not in {None, (0,)}:
            rows.append(row)
        assert len(rows) == 2
        planning = pool.submit(connection.execute, "SELECT plan_feature_refresh()")
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
        while backfill.execute(query, [connection.info.backend_pid]).fetchone() == (0,):
            assert not planning.done()
        backfill.commit()
        planning.result()
        assert not is_pending(connection, declaration)
