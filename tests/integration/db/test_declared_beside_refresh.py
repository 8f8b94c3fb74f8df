"""A declaration changes while a refresh computes rows of its view, in sessions with backends of their own."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from feast.aggregation import Aggregation
from oracles.features import Asset, floor_hour
from support.declared_views import applied, apply, declare, differences, fill, is_pending
from support.feature_tables import write

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
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


def test_view__changed_after_a_transaction_began__has_the_rows_it_has_now(database: str, tenant: str) -> None:
    before, after = (
        {"lag": Lag("value", hours * HOUR), "mean": Aggregation("value", "mean", hours * HOUR, HOUR)}
        for hours in (1, 2)
    )
    declaration = declare(f"snapshot_{secrets.token_hex(4)}", before)
    start = floor_hour(datetime.now(UTC)) - timedelta(hours=60)
    meter = Asset("UTC", {start + step * HOUR: float(step) for step in range(50)})
    with (
        connect(database, autocommit=True) as connection,
        connect(database, autocommit=True) as reader,
        applied(connection, declaration),
    ):
        write(connection, tenant, "meter", meter.readings)
        fill(connection, declaration)
        refresh(dsn=database)
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT now()")
        changed = declare(declaration.name, after)
        apply(connection, changed)
        assert list(differences(reader, changed, tenant, "meter", meter)) == []
        reader.rollback()
        fill(connection, changed)
        refresh(dsn=database)
        assert list(differences(reader, changed, tenant, "meter", meter)) == []
