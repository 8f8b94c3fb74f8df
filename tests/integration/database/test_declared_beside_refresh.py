"""A declaration changes while a refresh computes rows of its view, in sessions with backends of their own."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from support.declared_views import applied, apply, declare

from ai_hub.database import connect
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
