"""The whole path through a PgBouncer in transaction mode with few server connections: equal values.

Every client has other server sessions at every transaction, so whatever relies on one fails here: start-up
options, prepared statements, session locks, settings.
"""

from __future__ import annotations

import csv
import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pyarrow.parquet as pq
import pytest
from oracles.features import HOUR, Asset, floor_hour
from support import forked
from support.energy import ROOT
from support.export_worker import complete
from support.feature_reading import differences as answer_differences
from support.feature_tables import VIEWS, assert_views_equal, register
from support.pooler import pooled
from support.service_server import running_service

from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES
from ai_hub.backup import postgres as backup
from ai_hub.db import connect
from ai_hub.db.connection import is_pooled
from ai_hub.db.migrate import migrate
from ai_hub.db.provision import provision_databases
from ai_hub.db.refresh import refresh
from ai_hub.errors import AiHubError, ConflictError
from ai_hub.exports.export import Request
from ai_hub.exports.service import submit
from ai_hub.features.materialize import materialize
from ai_hub.features.newest import Scope
from ai_hub.features.store import get_service, open_store
from ai_hub.forecasting import dataset
from ai_hub.forecasting.dataset import Window
from ai_hub.ingest.files import ingest_readings
from ai_hub.ingest.options import Options
from ai_hub.settings import ServiceSettings, Settings
from benchmarks.tcp_proxy import Proxy, proxied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Stack

NOW = floor_hour(datetime.now(UTC))
ASSETS = ("roof", "yard", "shop")
#: Asked before they are in Redis.
LATE = "late"
ZONE = "Europe/Berlin"
DAYS = 9
#: Server connections that all clients share.
SIZE = 3
CLIENTS = 6


@dataclass(frozen=True)
class World:
    """A database with features and an applied registry, made and used through the pooler."""

    settings: Settings
    #: the pooler's connections to the server
    line: Proxy
    #: address of the database itself
    direct: str
    tenant: str
    #: what is known of each asset
    assets: dict[str, Asset]


def readings(number: int) -> dict[datetime, float]:
    return {NOW - step * HOUR: float(number * 100 + step % 24) + step / 7 for step in range(1, DAYS * 24)}


def at_once(*works: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(works)) as pool:
        return [done.result() for done in [pool.submit(work) for work in works]]


@pytest.fixture(scope="module")
def world(
    spare_database: str, native_postgres: str, servers: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("pooler")
    redis_url = servers.start("redis")["REDIS_URL"]
    registry = f"registry_{secrets.token_hex(4)}"
    with psycopg.connect(native_postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {registry}")  # type: ignore[arg-type]
    with (
        proxied(urlsplit(spare_database).port or 5432) as line,
        pooled(spare_database, size=SIZE, line=line) as pooler,
        pooled(native_postgres, size=SIZE) as other,
        pytest.MonkeyPatch.context() as patch,
    ):
        address = urlsplit(other.url(native_postgres))._replace(scheme="postgresql+psycopg", path=registry)
        for name, value in {
            "TIMESCALE_DSN": pooler.url(spare_database),
            "TIMESCALE_POOLED": "true",
            "FEAST_REGISTRY_URI": address.geturl(),
            "REDIS_URL": redis_url,
            "EXPORT_STORAGE_PATH": str(folder / "exports"),
        }.items():
            patch.setenv(name, value)
        settings = Settings()
        at_once(migrate, migrate)
        line.reset()  # sessions from before do not know what migrations set for the database
        tenant = f"works-{secrets.token_hex(4)}"
        assets = {name: Asset(ZONE, readings(number)) for number, name in enumerate((*ASSETS, LATE))}
        at_once(*(lambda name=name: fill(folder, tenant, name, assets[name]) for name in assets))
        at_once(refresh, refresh, refresh)
        # the command as people run it: Feast's own connections, its registry, and what the service may read
        done = forked.run(["feast", "apply"], os.environ | settings.environment(), ROOT)
        assert done.returncode == 0, done.stderr
        yield World(settings, line, spare_database, tenant, assets)


def fill(folder: Path, tenant: str, name: str, asset: Asset) -> None:
    """One asset of one client: registered, and its readings ingested from a file."""
    with connect() as connection:
        register(connection, tenant, name, ZONE)
    path = folder / f"{name}.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["timestamp", "value"])
        rows.writerows([time.isoformat(), value] for time, value in asset.readings.items())
    report = ingest_readings(
        path, Options(tenant=tenant, asset=name), reject_file=folder / f"{name}.rejected.csv"
    )
    assert (report.rows, report.rejected) == (len(asset.readings), 0)


def test_features__are_those_of_the_oracle(world: World) -> None:
    refresh()  # an hour may have begun
    with connect() as connection:
        assert is_pooled(connection) or connection.execute("SELECT pg_backend_pid()").fetchone() == (0,)
        assert connection.info.parameter_status("TimeZone") in {"UTC", "Etc/UTC", "GMT"}
        for name, asset in world.assets.items():
            assert_views_equal(connection, world.tenant, name, asset)


def test_reads_by_many_clients_at_once__have_the_values_of_a_direct_connection(world: World) -> None:
    store = open_store(world.settings)
    service = get_service(store, "forecast_advanced")
    window = Window(*(NOW - hours * HOUR for hours in (48, 30, 20, 1)))
    works = [*ASSETS, LATE]

    def training(of: Any) -> Any:
        return dataset.build(of, service, world.tenant, works, window).rows

    def export(settings: Settings, path: str) -> Any:
        request = Request(
            world.tenant, "anomaly_detection", NOW - 48 * HOUR, NOW, assets=tuple(ASSETS), output_path=path
        )
        job = submit(settings, request)
        complete(settings, job)
        return pq.read_table(Path(settings.export_storage_path) / world.tenant / path)

    direct = Settings(timescale_dsn=world.direct)
    found = at_once(
        *(lambda: training(store) for _ in range(2)),
        *(lambda number=number: export(world.settings, f"{number}.parquet") for number in range(2)),
        lambda: materialize(store, Scope([world.tenant], list(ASSETS))).rows,
        *(refresh for _ in range(2)),
    )
    expected = training(open_store(direct))
    assert len(expected) == len(works) * (2 * 24 - 1)
    for rows in found[:2]:
        assert rows.equals(expected)
    exported = export(direct, "direct.parquet")
    assert exported.num_rows == len(ASSETS) * 48
    for table in found[2:4]:
        assert table.equals(exported)
    assert found[4]["forecast_basic_features"] == len(ASSETS)


def test_service__miss_and_hit_by_many_clients_while_server_connections_are_cut__right_or_degraded(
    world: World,
) -> None:
    materialize(open_store(world.settings), Scope([world.tenant], list(ASSETS)))
    _, key = api_keys.create("pooler", [world.tenant], ALL_SCOPES, created_by="test")
    options = ServiceSettings(database_timeout_s=60, redis_timeout_s=5, rate_limit_per_s=100_000)
    with (
        running_service(world.settings, options) as address,
        httpx.Client(base_url=address, headers={"X-API-Key": str(key)}, timeout=100) as service,
    ):

        def ask(name: str, asset: str) -> dict[str, Any]:
            now = datetime.now(UTC)
            body = {"tenant_id": world.tenant, "asset_ids": [asset], "feature_set": name}
            answer = service.post("/ai/features/get", json=body)
            assert answer.status_code == 200, answer.text
            (result,) = answer.json()["results"]
            if not result["degraded"]:
                result |= {"hour": datetime.fromisoformat(result["hour"])}
                problems = answer_differences(result, world.assets[asset], name, now, now)
                assert problems == [] or floor_hour(datetime.now(UTC)) != NOW
            return result

        def client(number: int) -> list[dict[str, Any]]:
            names = [name for name in VIEWS for _ in range(4)]
            return [ask(name, (*ASSETS, LATE)[(number + step) % 4]) for step, name in enumerate(names)]

        quiet = [
            result
            for results in at_once(*(lambda n=n: client(n) for n in range(CLIENTS)))
            for result in results
        ]
        assert not any(result["degraded"] for result in quiet)
        assert {result["source"] for result in quiet} == {"redis", "timescaledb"}
        ended = threading.Event()

        def cut() -> int:
            count = 0
            while not ended.wait(0.1):
                count += world.line.reset()
            return count

        with ThreadPoolExecutor(1) as pool:
            cutting = pool.submit(cut)
            try:
                at_once(*(lambda n=n: past(service, world, n) for n in range(CLIENTS)))
            finally:
                ended.set()
            assert cutting.result() > 0
        assert not ask("forecast_basic", "roof")["degraded"]


def past(service: httpx.Client, world: World, number: int) -> None:
    """Reads of past hours, which always ask the database: right, or said to be degraded."""
    for step in range(2, 12):
        at = NOW - (number + step) * HOUR
        asset = ASSETS[step % 3]
        body = {
            "tenant_id": world.tenant,
            "asset_ids": [asset],
            "feature_set": "forecast_basic",
            "timestamp": at.isoformat(),
        }
        answer = service.post("/ai/features/get", json=body)
        assert answer.status_code in {200, 503}, answer.text
        if answer.status_code == 200:
            (result,) = answer.json()["results"]
            if not result["degraded"]:
                result |= {"hour": datetime.fromisoformat(result["hour"])}
                assert answer_differences(result, world.assets[asset], "forecast_basic", at, at) == []


def test_refresh__its_server_connection_is_cut_midway__the_next_one_completes_it(world: World) -> None:
    with connect() as connection:
        register(connection, world.tenant, "cut", ZONE)
        times = readings(7)
        connection.execute(
            'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
            " SELECT time, %s, 'cut', value FROM unnest(%s::timestamptz[], %s::float8[]) AS r (time, value)",
            [world.tenant, list(times), list(times.values())],
        )
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(world.direct) as holder:
            holder.execute("LOCK TABLE feature_changes")  # so that it is at work when the line is cut
            refreshing = pool.submit(refresh)
            while not wait([refreshing], timeout=0.1).done:
                world.line.reset()
        assert isinstance(refreshing.exception(), psycopg.OperationalError | AiHubError)
    assert refresh().rows > 0
    with connect() as connection:
        assert_views_equal(connection, world.tenant, "cut", Asset(ZONE, times))


def test_server_sessions__nothing_stays_behind_in_them(world: World) -> None:
    """Asks as many server connections as there are at once, each in a transaction."""
    shared = not is_native(world)
    connections = [connect() for _ in range(1 if shared else SIZE)]
    try:
        for connection in connections:
            assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
            left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            assert connection.execute(left).fetchone() == (0,)
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                assert connection.execute("SELECT current_setting(%s)", [name]).fetchone() == ("0",)
            assert connection.execute("SELECT current_setting('ai_hub.tenant', true)").fetchone() in {
                (None,),
                ("",),
            }
            assert connection.execute("SELECT current_user = session_user").fetchone() == (True,)
    finally:
        for connection in connections:
            connection.close()


def is_native(world: World) -> bool:
    with psycopg.connect(world.direct) as connection:
        return connection.execute("SELECT pg_backend_pid()").fetchone() == (connection.info.backend_pid,)


def test_provision_twice_at_once__and_time_zone_of_each_client(native_postgres: str) -> None:
    logins = [(f"mlflow_{secrets.token_hex(3)}", "pw1"), (f"service_{secrets.token_hex(3)}", "pw2")]
    name = f"zone_{secrets.token_hex(3)}"
    with psycopg.connect(native_postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'")  # type: ignore[arg-type]
    with pooled(native_postgres, *logins) as pooler:
        base = urlsplit(pooler.url(native_postgres))._replace(path=f"/{name}")
        place = base.netloc.rpartition("@")[2]

        def login(number: int, path: str) -> str:
            return base._replace(netloc=f"{':'.join(logins[number])}@{place}", path=path).geturl()

        settings = Settings(
            timescale_dsn=base.geturl(),
            timescale_pooled=True,
            mlflow_backend_store_uri=login(0, f"/{name}_mlflow"),
            feast_registry_uri=base._replace(path=f"/{name}_feast").geturl(),
            service_timescale_dsn=login(1, f"/{name}"),
        )
        first, second = at_once(*[lambda: provision_databases(settings)] * 2)
        assert [each.setting for each in first] == [each.setting for each in second]
        assert {each.state for each in provision_databases(settings)} == {"present"}
        for url in (login(0, f"/{name}_mlflow"), login(1, f"/{name}")):
            psycopg.connect(url).close()
        # two of ours and two that want no other zone, by turns on the same server connections
        ours = [connect(base.geturl(), autocommit=True) for _ in range(2)]
        theirs = [psycopg.connect(base.geturl(), autocommit=True) for _ in range(2)]
        for connection in [*ours, *theirs] * 4:
            row = connection.execute("SELECT timestamptz '2026-01-01 00:00+00' :: text").fetchone()
            utc = connection in ours
            assert row == ("2026-01-01 00:00:00+00" if utc else "2026-01-01 05:30:00+05:30",)
        for connection in (*ours, *theirs):
            connection.close()


def test_backup__through_a_pooler__says_what_it_needs(native_postgres: str, tmp_path: Path) -> None:
    with pooled(native_postgres) as pooler:
        address = pooler.url(native_postgres)
        with pytest.raises(ConflictError, match="leads to a pooler") as caught:
            backup.dump("mlflow", address, tmp_path)
        assert "TIMESCALE_DIRECT" in (caught.value.hint or "")
        where = urlsplit(native_postgres)
        settings = Settings(
            timescale_dsn=address, timescale_direct=f"{where.hostname}:{where.port}", timescale_pooled=True
        )
        assert settings.direct(address) == native_postgres
        elsewhere = "postgresql://a:b@elsewhere:5432/mlflow"
        assert settings.direct(elsewhere) == elsewhere
        with connect(settings.direct(address)) as connection:
            assert not is_pooled(connection)


def test_wrong_password__is_told_from_a_server_that_is_down(native_postgres: str, tmp_path: Path) -> None:
    with pooled(native_postgres) as pooler:
        parts = urlsplit(pooler.url(native_postgres))
        wrong = parts._replace(
            netloc=f"{parts.username}:no-such-secret@{parts.hostname}:{parts.port}"
        ).geturl()
        environment = os.environ | {"TIMESCALE_DSN": wrong, "AI_HUB_STATE_DIR": str(tmp_path / "state")}
        done = forked.run(["ai-hub", "readings", "log", "--tenant", "acme"], environment, tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith(f"Error: TimescaleDB at {parts.hostname}:{parts.port} refuses the login: ")
    assert "Correct the user and the password" in done.stderr
    assert "no-such-secret" not in done.stderr
