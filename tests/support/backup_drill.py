"""What drills of backups share: data to keep, and an independent look at it."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import psycopg

from ai_hub.api.app import create_app
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path

_TABLES = """
SELECT table_schema, table_name FROM information_schema.tables
WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY 1, 2
"""
_READINGS = """
INSERT INTO timeseries_data (timestamp, tenant_id, asset_id, value, quality)
SELECT date_trunc('hour', now()) - n * INTERVAL '1 hour', tenant, 'meter', n * 0.1, 'good'
FROM generate_series(1, 200) AS n, unnest(ARRAY['acme', 'beta']) AS tenant
"""


class Silent:
    """Nobody reads the progress of a drill."""

    def start(self, part: str) -> None:
        """Nothing."""

    def progress(self, done: int, total: int) -> None:
        """Nothing."""

    def done(self, part: str, text: str) -> None:
        """Nothing."""


def fill(dsn: str) -> None:
    """Readings of two tenants, and an API key."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind) VALUES ('acme', 'meter', 'electricity')"
        )
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind) VALUES ('beta', 'meter', 'electricity')"
        )
        connection.execute(_READINGS)


def content(dsn: str) -> dict[str, tuple[int, str]]:
    """Number of rows and one hash of all rows in their order as text, by table."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = {}
        for schema, name in connection.execute(_TABLES).fetchall():
            rows = connection.execute(f'SELECT t::text FROM "{schema}"."{name}" AS t').fetchall()  # type: ignore[arg-type]  # noqa: S608
            found[name] = len(rows), hashlib.sha256(repr(sorted(rows)).encode()).hexdigest()
        return found


def a_database_file(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE registered_models (name TEXT, created REAL)")
        connection.executemany(
            "INSERT INTO registered_models VALUES (?, ?)", [("démand", 0.1), ("load", None)]
        )
        connection.commit()


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def s3(environment: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=environment["MINIO_ENDPOINT_URL"],
        aws_access_key_id=environment["MINIO_ACCESS_KEY"],
        aws_secret_access_key=environment["MINIO_SECRET_KEY"],
        region_name="us-east-1",
    )


def stored(client: Any, bucket: str) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Content and metadata of each object."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    answers = {key: client.get_object(Bucket=bucket, Key=key) for key in keys}
    return {key: (answer["Body"].read(), answer["Metadata"]) for key, answer in answers.items()}


async def ask(key: str, *requests: tuple[str, str, Any]) -> list[httpx.Response]:
    """What the service of the present settings answers to method, path and JSON."""
    app = create_app(ServiceSettings(), Settings())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://service", timeout=60
        ) as client,
    ):
        return [
            await client.request(method, path, json=body, headers={"X-API-Key": key})
            for method, path, body in requests
        ]
