"""A cluster, or a master that sentinels name, in the place of `REDIS_URL`: values are those of one server."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis
from oracles.features import HOUR, floor_hour
from support.feature_reading import Clock, ask, reading, run, sources
from support.feature_tables import register, write
from support.valkey_servers import HOST, cluster, sentinel
from typer.testing import CliRunner

from ai_hub.api.health import Health
from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.dev.services import SERVICES
from ai_hub.dev.status import require, status
from ai_hub.features.materialize import Follower
from ai_hub.features.newest import Scope
from ai_hub.features.store import delete_assets, open_store
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

NOW = floor_hour(datetime.now(UTC))
ASSETS = tuple(f"meter-{number}" for number in range(8))
SETS = ("forecast_basic", "forecast_advanced", "anomaly_detection")
MASTER = "meters"


@contextmanager
def of_cluster(folder: Path) -> Iterator[str]:
    with cluster(folder) as ports:
        yield f"redis+cluster://{','.join(f'{HOST}:{port}' for port in ports)}"


@contextmanager
def of_sentinel(folder: Path) -> Iterator[str]:
    with sentinel(folder, MASTER) as (port, _, _):
        yield f"redis+sentinel://{HOST}:{port}/{MASTER}/2"


@pytest.fixture(scope="module", params=[pytest.param(of_cluster, marks=pytest.mark.long), of_sentinel])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with request.param(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def works(energy: Energy) -> str:
    """A tenant whose meters have features of this hour."""
    del energy
    tenant = f"works-{secrets.token_hex(4)}"
    with connect() as connection:
        for number, name in enumerate(ASSETS):
            register(connection, tenant, name, "Europe/Berlin")
            write(
                connection, tenant, name, {NOW - hours * HOUR: number + hours / 7 for hours in range(1, 200)}
            )
    refresh()
    return tenant


def features(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [result["features"] for result in results]


def asked(tenant: str, url: str) -> dict[str, tuple[list[str], list[dict[str, Any]]]]:
    """Where each set's rows come from, and their values, of all meters in one request."""
    found: dict[str, tuple[list[str], list[dict[str, Any]]]] = {}

    async def work(reader: FeatureReader) -> None:
        for name in SETS:
            results = await ask(reader, tenant, *ASSETS, feature_set=name)
            found[name] = sources(results), features(results)

    run(work, Clock(NOW + timedelta(minutes=10)), redis_url=url)
    return found


def test_features__miss_is_computed_and_written_back__hit_has_the_same_values(
    works: str, url: str, redis_url: str
) -> None:
    expected = asked(works, redis_url)
    for source in ("timescaledb", "redis"):
        found = asked(works, url)
        assert {(name, *set(sources)) for name, (sources, _) in found.items()} == {
            (name, source) for name in SETS
        }
        assert [values for _, values in found.values()] == [values for _, values in expected.values()]
    assert all(value["lag_1h"] is not None for _, values in found.values() for value in values)
    delete_assets(open_store(Settings(redis_url=url)), works, ASSETS)
    assert all(set(sources) == {"timescaledb"} for sources, _ in asked(works, url).values())


def test_follower__writes_once_and_then_what_changed(works: str, url: str) -> None:
    follower = Follower(open_store(Settings(redis_url=url)), Scope([works]))
    assert follower.catch_up().rows["forecast_basic_features"] == len(ASSETS)
    assert follower.catch_up().refreshes == 0


def test_commands_and_health__take_the_address(works: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    done = CliRunner().invoke(app, ["materialize", "--tenant", works])
    assert done.exit_code == 0, done.output
    found = asked(works, url)
    assert set(found["forecast_basic"][0]) == {"redis"}
    require("redis")
    (row,) = status([SERVICES["redis"]])
    assert (row.state, row.health, row.endpoint) == ("outside", "ok", url)
    dependencies = asyncio.run(Health(Settings(redis_url=url)).check()).dependencies
    assert dependencies["redis"].status == "ok"


# feast_plugins/online/test_connections.py does so without a service
@pytest.mark.long
def test_sentinel__another_server_becomes_the_master__is_asked_by_the_running_service(
    works: str, tmp_path: Path
) -> None:
    with sentinel(tmp_path, MASTER) as (port, master, replica):
        url = f"redis+sentinel://{HOST}:{port}/{MASTER}"
        store = open_store(Settings(redis_url=url))
        follower = Follower(store, Scope([works]))
        follower.catch_up()

        async def work() -> None:
            async with reading(Clock(NOW + timedelta(minutes=10)), redis_url=url) as reader:
                assert set(sources(await ask(reader, works, *ASSETS))) == {"redis"}
                fail_over(port, master, replica)
                results = await ask(reader, works, *ASSETS)
                assert not any(each["degraded"] for each in results)
                # rows that were written back, or those that the replica had
                await ask(reader, works, *ASSETS)
                assert set(sources(await ask(reader, works, *ASSETS))) == {"redis"}

        asyncio.run(work())
        # what the old master had not passed on is written anew
        assert follower.catch_up().refreshes is None


def fail_over(port: int, master: int, replica: int) -> None:
    """What a failover does, without its waits; nothing is in the new master."""
    redis.Redis(HOST, replica).replicaof("NO", "ONE")
    watch = redis.Redis(HOST, port)
    watch.sentinel_remove(MASTER)
    watch.sentinel_monitor(MASTER, HOST, replica, 1)
    redis.Redis(HOST, replica).flushall()
    redis.Redis(HOST, master).replicaof(HOST, replica)
