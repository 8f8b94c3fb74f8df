"""The fixtures every integration test builds on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
import redis

from ai_hub.servers import s3_client as client

if TYPE_CHECKING:
    from ai_hub.settings import Settings


def test_stack__serves_all_four(settings: Settings, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT extname FROM pg_extension ORDER BY 1").fetchall() == [
            ("plpgsql",),
            ("timescaledb",),
        ]
    with redis.Redis.from_url(settings.require("redis_url")) as store:
        assert store.ping()
    client(settings.environment()).head_bucket(Bucket=settings.model_storage_bucket)


@pytest.mark.long
def test_blank_database__is_another_one(dsn: str, blank_database: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE only_in_the_shared_one (x int)")
    with psycopg.connect(blank_database) as connection:
        assert connection.execute("SELECT to_regclass('only_in_the_shared_one')").fetchone() == (None,)
    with psycopg.connect(dsn) as connection:
        connection.execute("DROP TABLE only_in_the_shared_one")
