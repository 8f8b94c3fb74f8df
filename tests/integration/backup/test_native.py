"""A drill on native servers: into a cluster that has nothing, every table, right and object compared."""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from support import machine
from support.backup_drill import Silent, ask, content, fill, s3, stored

from ai_hub.access import api_keys, sql_logins
from ai_hub.access.principal import Scope
from ai_hub.backup.create import backup
from ai_hub.backup.postgres import ToolMissingError, address, find_tool, run_tool
from ai_hub.backup.restore import restore
from ai_hub.db.migrate import migrate
from ai_hub.db.provision import provision_databases
from ai_hub.db.refresh import refresh
from ai_hub.dev.backup import RecordedServers
from ai_hub.errors import ConflictError
from ai_hub.settings import Settings
from benchmarks.servers import postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Grants, written by `psql`'s own functions rather than by the backup's queries.
RIGHTS = """
SELECT nspname, relname, relacl::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname IN ('public', 'tenant_wall') AND relacl IS NOT NULL
UNION ALL SELECT 'schema', nspname, nspacl::text FROM pg_namespace WHERE nspname = 'tenant_wall'
UNION ALL SELECT 'function', p.oid::regprocedure::text, proacl::text FROM pg_proc p
WHERE pronamespace::regnamespace::text IN ('public', 'tenant_wall') AND proacl IS NOT NULL OR proname ~ '^lo_'
UNION ALL SELECT 'job', job_id::text, concat(proc_name, schedule_interval, config)
FROM timescaledb_information.jobs WHERE job_id >= 1000
UNION ALL SELECT 'policy', policyname, qual FROM pg_policies
UNION ALL SELECT 'source', p.oid::regprocedure::text, md5(prosrc) FROM pg_proc p
WHERE pronamespace::regnamespace::text IN ('public', 'tenant_wall')
UNION ALL SELECT 'member', member::regrole::text, roleid::regrole::text FROM pg_auth_members
WHERE roleid = 'ai_hub_tenant'::regrole AND member::regrole::text IN (SELECT login FROM sql_logins)
ORDER BY 1, 2, 3
"""


def rights(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(RIGHTS).fetchall()


def database_rights(dsn: str) -> list[tuple[Any, ...]]:
    """Who may do what with the database as a whole."""
    query = """
        SELECT grantee::regrole::text, privilege_type FROM pg_database, aclexplode(datacl)
        WHERE datname = current_database() ORDER BY 1, 2
    """
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


def without_notes(tables: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Without when the code was applied."""
    return {name: rows for name, rows in tables.items() if name != "schema_code"}


def at(server: str, database: str, login: str | None = None) -> str:
    parts = urlsplit(server)._replace(path=f"/{database}")
    if login is not None:
        parts = parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}")
    return parts.geturl()


# Where it is missing, `make test` has the drill on embedded servers, and `make test-long` asks for it.
pytestmark = [] if machine.has_timescaledb() else [pytest.mark.long]
NAMES = {"data": "data", "mlflow": "mlflow", "feast": "feast", "api": "ai_hub_api"}
#: No background jobs: they would change what is compared.
_OPTIONS = (
    "shared_preload_libraries=timescaledb",
    "timescaledb.max_background_workers=0",
    "max_locks_per_transaction=512",
)


@contextmanager
def cluster() -> Iterator[str]:
    """A server with an empty database."""
    with postgres(*_OPTIONS) as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("CREATE DATABASE data TEMPLATE template0")
        yield server.dsn


@pytest.fixture
def source() -> Iterator[str]:
    """The server whose data is kept; roles are the whole server's, so it is none that others use."""
    with cluster() as dsn:
        yield dsn


def statuses(key: str, *tenants: str) -> list[int]:
    """What the service answers to a key that asks for exports of each tenant."""
    requests = [("GET", f"/ai/features/exports?tenant_id={name}", None) for name in tenants]
    return [answer.status_code for answer in asyncio.run(ask(key, *requests))]


def use(patch: pytest.MonkeyPatch, server: str, bucket: str, exports: Path) -> None:
    patch.setenv("TIMESCALE_DSN", at(server, NAMES["data"]))
    patch.setenv("SERVICE_TIMESCALE_DSN", at(server, NAMES["data"], f"{NAMES['api']}:hush"))
    patch.setenv("MLFLOW_BACKEND_STORE_URI", at(server, NAMES["mlflow"], f"{NAMES['mlflow']}:hush"))
    patch.setenv(
        "FEAST_REGISTRY_URI", at(server, NAMES["feast"]).replace("postgresql", "postgresql+psycopg", 1)
    )
    patch.setenv("MODEL_STORAGE_BUCKET", bucket)
    patch.setenv("EXPORT_STORAGE_PATH", str(exports))


def test_drill__into_an_empty_cluster__every_table_right_and_object_is_as_it_was(
    stack: dict[str, str], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets = [f"drill-{secrets.token_hex(4)}" for _ in range(2)]
    use(monkeypatch, source, buckets[0], tmp_path / "exports")
    client = s3(stack)
    client.create_bucket(Bucket=buckets[0])
    for number in range(25):
        body = bytes([number]) * number * 1000
        client.put_object(
            Bucket=buckets[0], Key=f"acme/m/v1.0.{number}/f", Body=body, Metadata={"n": str(number)}
        )
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "a.parquet").write_bytes(b"rows")

    provision_databases(Settings())
    dsn = os.environ["TIMESCALE_DSN"]
    migrate()
    fill(dsn)
    refresh()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT compress_chunk(c) FROM show_chunks('timeseries_data') AS c")
    login = sql_logins.grant("acme", dsn=Settings().require("timescale_dsn"))
    _, api_key = api_keys.create("drill", ["acme"], list(Scope), created_by="test")
    for url in (os.environ["MLFLOW_BACKEND_STORE_URI"], address(os.environ["FEAST_REGISTRY_URI"])):
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE registered_models (name text PRIMARY KEY, made_at timestamptz)")
            connection.execute("INSERT INTO registered_models VALUES ('load', now()), ('demand', null)")

    place = str(tmp_path / "kept")
    manifest = backup(place, Silent(), RecordedServers(), Settings())
    assert manifest.databases["timescaledb"].facts.tables["public.timeseries_data"][0] == 800
    before = content(dsn), rights(dsn)

    with cluster() as target:
        use(monkeypatch, target, buckets[1], tmp_path / "restored")
        restored = os.environ["TIMESCALE_DSN"]
        restore(place, Silent(), RecordedServers(), Settings())

        assert (content(restored), rights(restored)) == before
        assert stored(client, buckets[1]) == stored(client, buckets[0])
        assert (tmp_path / "restored" / "a.parquet").read_bytes() == b"rows"
        assert not migrate().changed
        # the tenant's login has its password, and sees its own rows alone
        with psycopg.connect(
            at(target, NAMES["data"], urlsplit(login.dsn).netloc.rpartition("@")[0])
        ) as mine:
            assert mine.execute("SELECT DISTINCT tenant_id FROM timeseries_data").fetchall() == [("acme",)]
        with psycopg.connect(os.environ["MLFLOW_BACKEND_STORE_URI"]) as owner:
            assert owner.execute("SELECT count(*) FROM registered_models").fetchone() == (2,)
        with pytest.raises(ConflictError, match="is not empty"):
            restore(place, Silent(), RecordedServers(), Settings())
        assert statuses(str(api_key), "acme", "beta") == [200, 403]


def test_restore__killed_before_the_comparison__goes_on(
    stack: dict[str, str], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stack
    use(monkeypatch, source, "ml-models", tmp_path / "exports")
    migrate()
    fill(os.environ["TIMESCALE_DSN"])
    others = ("mlflow", "mlflow-login", "feast", "models", "exports")
    provision_databases(Settings())
    backup(str(tmp_path / "kept"), Silent(), RecordedServers(), Settings(), without=others)
    before = content(os.environ["TIMESCALE_DSN"])

    class Killed(Silent):
        def start(self, part: str) -> None:
            if part == "comparison":
                raise KeyboardInterrupt

    with cluster() as target:
        use(monkeypatch, target, "ml-models", tmp_path / "exports")
        with pytest.raises(KeyboardInterrupt):
            restore(str(tmp_path / "kept"), Killed(), RecordedServers(), Settings())
        restore(str(tmp_path / "kept"), Silent(), RecordedServers(), Settings())
        assert content(os.environ["TIMESCALE_DSN"]) == before
        with psycopg.connect(os.environ["TIMESCALE_DSN"]) as connection:
            assert connection.execute("SHOW timescaledb.restoring").fetchone() == ("off",)


def test_migrate__after_somebodys_pg_restore_without_roles_and_rights__grants_anew(
    stack: dict[str, str], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del stack
    use(monkeypatch, source, "ml-models", tmp_path / "exports")
    provision_databases(Settings())
    migrate()
    dsn, dump = os.environ["TIMESCALE_DSN"], tmp_path / "theirs.dump"
    fill(dsn)
    refresh()
    before = content(dsn), rights(dsn), database_rights(dsn)
    with psycopg.connect(dsn) as connection:
        major = connection.info.server_version // 10_000
    run_tool(find_tool("pg_dump", major)[0], ["--format=custom", f"--file={dump}"], dsn)

    with cluster() as target:
        use(monkeypatch, target, "ml-models", tmp_path / "exports")
        restored = os.environ["TIMESCALE_DSN"]
        with psycopg.connect(restored, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION timescaledb")
            connection.execute("SELECT timescaledb_pre_restore()")
            run_tool(find_tool("pg_restore", major)[0], ["--no-owner", "--no-acl", str(dump)], restored)
            connection.execute("SELECT timescaledb_post_restore()")
        assert migrate().code_applied
        provision_databases(Settings())
        after = content(restored), rights(restored), database_rights(restored)
        assert without_notes(after[0]) == without_notes(before[0])
        assert after[1:] == before[1:]
        _, api_key = api_keys.create("drill", ["acme"], list(Scope), created_by="test")
        assert statuses(str(api_key), "acme", "beta") == [200, 403]
        assert not migrate().changed


def test_pg_dump__older_than_the_server__is_named() -> None:
    with pytest.raises(ToolMissingError, match=r"pg_dump of PostgreSQL 99 or newer is needed"):
        find_tool("pg_dump", 99)
