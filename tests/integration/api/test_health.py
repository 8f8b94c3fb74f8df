"""Readiness uses the logins that answer requests, not the owner's."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
import psycopg
import pytest
from support.service_process import free_port

from ai_hub.api.health import Finding, Health
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


def check(**changed: str) -> Finding:
    return asyncio.run(Health(Settings.model_validate(changed)).check())


@pytest.fixture(scope="module")
def owner(native_postgres: str) -> Iterator[str]:
    """A database with the parts that the service reads, and two logins: one of the service, one of nobody."""
    name = f"health_{secrets.token_hex(4)}"
    address = urlsplit(native_postgres)._replace(path=f"/{name}").geturl()
    with psycopg.connect(native_postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    with psycopg.connect(address, autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = 'ai_hub_service'").fetchone() is None:
            connection.execute("CREATE ROLE ai_hub_service NOLOGIN")
        for statement in (
            "CREATE TABLE api_keys (); CREATE TABLE assets ()",
            "CREATE SCHEMA tenant_wall; CREATE VIEW tenant_wall.assets AS SELECT FROM public.assets",
            "GRANT USAGE ON SCHEMA tenant_wall TO ai_hub_service",
            "GRANT SELECT ON tenant_wall.assets, api_keys TO ai_hub_service",
            f"CREATE ROLE {name}_member LOGIN PASSWORD 'hush' IN ROLE ai_hub_service",
            f"CREATE ROLE {name}_nobody LOGIN PASSWORD 'hush'",
        ):
            connection.execute(statement)  # type: ignore[arg-type]
    yield address
    with psycopg.connect(native_postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]
        connection.execute(f"DROP ROLE {name}_member, {name}_nobody")  # type: ignore[arg-type]


def as_login(address: str, login: str, password: str) -> str:
    parts = urlsplit(address)
    login = f"{parts.path[1:]}_{login}"
    return parts._replace(netloc=f"{login}:{password}@{parts.hostname}:{parts.port}").geturl()


def test_timescaledb__login_of_the_service_reads__is_ok(owner: str) -> None:
    found = check(timescale_dsn=owner, service_timescale_dsn=as_login(owner, "member", "hush"))
    assert found.dependencies["timescaledb"].status == "ok"


@pytest.mark.parametrize(
    ("login", "password", "reason"),
    [("member", "stale", "authentication failed"), ("nobody", "hush", "permission denied")],
)
def test_timescaledb__login_of_the_service_is_refused__is_down_though_the_owner_works(
    owner: str, login: str, password: str, reason: str
) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    found = check(
        timescale_dsn=owner, service_timescale_dsn=as_login(owner, login, password), redis_url=nobody
    )
    assert found.status == "unavailable"
    assert found.dependencies["timescaledb"].status == "down"
    assert reason in found.dependencies["timescaledb"].reason
    assert password not in found.dependencies["timescaledb"].reason


def test_timescaledb__database_without_tables__is_down(native_postgres: str) -> None:
    found = check(timescale_dsn=native_postgres)
    assert "api_keys" in found.dependencies["timescaledb"].reason


def test_redis__wrong_password__is_down(redis_url: str) -> None:
    wrong = redis_url.replace(f":{urlsplit(redis_url).password}@", ":stale@")
    assert check(redis_url=wrong).dependencies["redis"].status == "down"
    assert check(redis_url=redis_url).dependencies["redis"].status == "ok"


def test_feast_registry__nothing_applied__is_down(native_postgres: str) -> None:
    address = native_postgres.replace("postgresql://", "postgresql+psycopg://")
    found = check(feast_registry_uri=address).dependencies["feast_registry"]
    assert found.status == "down"
    assert "feature_services" in found.reason


def test_s3__bucket_of_exports_is_missing__is_down(settings: Settings) -> None:
    keys = settings.environment()
    store = {name: keys[name] for name in keys if name.startswith("MINIO_")}
    given = {name.lower(): value for name, value in store.items()}
    found = check(**given, export_storage_path="s3://no-such-exports/x").dependencies["s3"]
    assert (found.status, found.reason) == ("down", "there is no bucket no-such-exports")
    client = boto3.client(
        "s3",
        endpoint_url=store["MINIO_ENDPOINT_URL"],
        aws_access_key_id=store["MINIO_ACCESS_KEY"],
        aws_secret_access_key=store["MINIO_SECRET_KEY"],
        region_name="us-east-1",
    )
    bucket = f"exports-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=bucket)
    assert check(**given, export_storage_path=f"s3://{bucket}/x").dependencies["s3"].status == "ok"
