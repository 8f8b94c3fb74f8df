"""Reads when servers are slow, silent or gone: what is left is answered, soon, and says so."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from oracles.features import HOUR, floor_hour
from support.feature_reading import CALENDAR, PATIENT, Clock, ask, place, reading, run, sources, through
from support.feature_tables import register, write

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import ServiceDownError
from ai_hub.features.online import loader
from benchmarks.tcp_proxy import proxied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader
    from benchmarks.tcp_proxy import Proxy

ZONE = "Asia/Kolkata"
NOW = floor_hour(datetime.now(UTC)) + timedelta(minutes=10)
DATABASE_S = 1.0
HASTY = {
    "database_timeout_s": DATABASE_S,
    "redis_timeout_s": 0.5,
    "breaker_pause_s": 0.3,
    "breaker_failures": 2,
}


@pytest.fixture(scope="module")
def grid(energy: Energy) -> str:
    """A tenant with meters m0 to m39, each with a reading of half an hour ago."""
    del energy  # the feature repository is applied
    tenant = f"grid-{secrets.token_hex(4)}"
    with connect() as connection:
        for number in range(40):
            register(connection, tenant, f"m{number}", ZONE)
            write(connection, tenant, f"m{number}", {floor_hour(NOW) - HOUR / 2: float(number)})
    refresh()
    return tenant


@pytest.fixture
def timescaledb(dsn: str) -> Iterator[Proxy]:
    """A way to TimescaleDB that can be disturbed."""
    with proxied(place(dsn)[1]) as proxy:
        yield proxy


@pytest.fixture
def valkey(redis_url: str) -> Iterator[Proxy]:
    """A way to Redis that can be disturbed."""
    with proxied(place(redis_url)[1]) as proxy:
        yield proxy


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The assets of each query."""
    seen: list[list[str]] = []
    newest = loader.newest_rows

    async def counted(connection: Any, view: Any, tenant: str, assets: list[str], at: int) -> Any:
        seen.append(list(assets))
        return await newest(connection, view, tenant, assets, at)

    monkeypatch.setattr(loader, "newest_rows", counted)
    return seen


async def timed(reader: FeatureReader, tenant: str, *assets: str, **asked: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    results = await ask(reader, tenant, *assets, **asked)
    return results, time.perf_counter() - started


def assert_calendar_alone(result: dict[str, Any], at: datetime, zone: str) -> None:
    local = at.astimezone(ZoneInfo(zone))
    want = {
        "hour_of_day": local.hour,
        "day_of_week": local.weekday(),
        "day_of_month": local.day,
        "month": local.month,
        "is_weekend": int(local.weekday() >= 5),
    }
    for name, value in result["features"].items():
        if name in CALENDAR:
            assert (value, result["status"][name]) == (want[name], "PRESENT")
        else:
            assert (value, result["status"][name]) == (None, "UNAVAILABLE")
    assert (result["source"], result["degraded"]) == ("calendar", True)
    assert result["hour"] == floor_hour(at)


def test_misses__at_once__one_query_for_an_asset_and_few_for_many(
    grid: str, queries: list[list[str]]
) -> None:
    async def work(reader: FeatureReader) -> None:
        await ask(reader, grid, "m39")  # the registry is read, a connection is open
        queries.clear()
        same = await asyncio.gather(*(ask(reader, grid, "m0") for _ in range(30)))
        assert {each["features"]["lag_1h"] for (each,) in same} == {0.0}
        assert queries == [["m0"]]
        queries.clear()
        many = await asyncio.gather(*(ask(reader, grid, f"m{number}") for number in range(1, 31)))
        assert [each["features"]["lag_1h"] for (each,) in many] == [float(number) for number in range(1, 31)]
        assert len(queries) < 10
        assert sorted(chain.from_iterable(queries)) == sorted(f"m{number}" for number in range(1, 31))
        queries.clear()
        assert sources(await ask(reader, grid, *(f"m{number}" for number in range(31)))) == ["redis"] * 31
        assert queries == []

    run(work, Clock(NOW))


def test_asset_without_rows__asked_again__not_looked_for_until_its_mark_has_gone(
    grid: str, queries: list[list[str]]
) -> None:
    async def main() -> None:
        async with reading(Clock(NOW), feature_cache_ttl=1) as reader:
            for _ in range(3):
                await ask(reader, grid, "unknown", "m1")
            assert [assets for assets in queries if "unknown" in assets] == [["unknown"]] or queries == [
                ["unknown", "m1"]
            ]
            await asyncio.sleep(1.1)
            await ask(reader, grid, "unknown")
            assert len([assets for assets in queries if "unknown" in assets]) == 2

    asyncio.run(main())


def test_write_back__materialized_meanwhile__never_replaces_it(
    grid: str, energy: Energy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A correction of the same hour comes between the query and the write-back."""
    newest = loader.newest_rows
    corrected = pd.DataFrame(
        {
            "tenant_id": [grid],
            "asset_id": ["m38"],
            "event_timestamp": [floor_hour(NOW)],
            "created_timestamp": [NOW],
            "historical_avg_24h": [-1.0],
            "lag_1h": [-2.0],
            "lag_24h": [-3.0],
            "local_time": [0],
        }
    )

    async def overtaken(*asked: Any) -> Any:
        found = await newest(*asked)
        await asyncio.to_thread(energy.store.write_to_online_store, "forecast_basic_features", corrected)
        return found

    monkeypatch.setattr(loader, "newest_rows", overtaken)

    async def work(reader: FeatureReader) -> None:
        (computed,) = await ask(reader, grid, "m38")
        assert (computed["features"]["lag_1h"], computed["source"]) == (38.0, "timescaledb")
        (stored,) = await ask(reader, grid, "m38")
        assert (stored["features"]["lag_1h"], stored["source"]) == (-2.0, "redis")
        assert stored["features"]["historical_avg_24h"] == -1.0

    run(work, Clock(NOW))


def test_redis_stalled__timescaledb_answers__and_after_some_failures_nobody_waits(
    grid: str, valkey: Proxy, redis_url: str
) -> None:
    options = PATIENT.model_copy(
        update={"redis_timeout_s": 0.3, "breaker_failures": 2, "breaker_pause_s": 60}
    )

    async def work(reader: FeatureReader) -> None:
        assert sources(await ask(reader, grid, "m2", feature_set="anomaly_detection")) == ["timescaledb"]
        assert sources(await ask(reader, grid, "m2", feature_set="anomaly_detection")) == ["redis"]
        accepted = valkey.accepted
        valkey.stall()
        for _ in range(2):
            (result,), seconds = await timed(reader, grid, "m2", feature_set="anomaly_detection")
            assert (result["features"]["lag_1h"], result["source"], result["degraded"]) == (
                2.0,
                "timescaledb",
                False,
            )
            assert seconds > 0.3
        for _ in range(5):
            await ask(reader, grid, "m2", feature_set="anomaly_detection")
        assert valkey.accepted <= accepted + 2  # it was left alone

    run(work, Clock(NOW), options=options, redis_url=through(redis_url, valkey.port))


def test_database_gone__old_row_then_calendar__and_values_when_it_is_back(
    grid: str, timescaledb: Proxy, dsn: str
) -> None:
    clock = Clock(NOW)
    options = PATIENT.model_copy(update={"breaker_failures": 2, "breaker_pause_s": 0.3})

    async def work(reader: FeatureReader) -> None:
        await ask(reader, grid, "m3", "m4")
        await reader._assets.nearest(grid, "m3")
        timescaledb.refuse()
        (hit,) = await ask(reader, grid, "m3")
        assert (hit["source"], hit["degraded"]) == ("redis", False)
        clock.time = NOW + HOUR
        (old,) = await ask(reader, grid, "m3")
        assert (old["source"], old["degraded"], old["hour"]) == ("redis", True, floor_hour(NOW))
        assert old["features"]["lag_1h"] == 3.0
        clock.time = NOW + 4 * HOUR  # too old to be of use
        for _ in range(3):  # the server fails, fails, and is left alone
            for result in await ask(reader, grid, "m3", "m5", feature_set="forecast_advanced"):
                assert_calendar_alone(result, clock.time, ZONE)
        past = NOW - 40 * HOUR
        (result,) = await ask(reader, grid, "m3", timestamp=past, must_exist=True)
        assert_calendar_alone(result, past, ZONE)
        clock.time = NOW
        timescaledb.heal()
        await asyncio.sleep(0.4)
        (back,) = await ask(reader, grid, "m37")
        assert (back["features"]["lag_1h"], back["source"]) == (37.0, "timescaledb")
        assert not back["degraded"]

    run(work, clock, options=options, timescale_dsn=through(dsn, timescaledb.port))


def test_database_stalled__misses_end_in_time__and_hits_do_not_notice(
    grid: str, timescaledb: Proxy, dsn: str
) -> None:
    async def fill(reader: FeatureReader) -> None:
        await ask(reader, grid, "m7")

    async def work(reader: FeatureReader) -> None:
        await ask(reader, grid, "m7")
        timescaledb.stall()
        misses = [
            asyncio.create_task(timed(reader, grid, f"m{number}", feature_set=name))
            for number in range(8, 28)
            for name in ("forecast_advanced", "anomaly_detection")
        ]
        for _ in range(20):
            (hit,), seconds = await timed(reader, grid, "m7")
            assert hit["source"] == "redis"
            assert seconds < 0.8 * DATABASE_S
        for (result,), seconds in await asyncio.gather(*misses):
            assert result["degraded"]
            assert seconds < 2.5 * DATABASE_S
        (again,), seconds = await timed(reader, grid, "m9", feature_set="anomaly_detection")
        assert again["degraded"]
        assert seconds < 0.8 * DATABASE_S  # the server is left alone

    run(fill, Clock(NOW))
    options = PATIENT.model_copy(update=HASTY | {"breaker_failures": 1, "breaker_pause_s": 60})
    run(work, Clock(NOW), options=options, timescale_dsn=through(dsn, timescaledb.port))


def test_database_busy__queue_full__answered_at_once(grid: str, timescaledb: Proxy, dsn: str) -> None:
    options = PATIENT.model_copy(update=HASTY | {"database_connections": 1, "database_queue": 0})

    async def work(reader: FeatureReader) -> None:
        await reader.catalog.services()
        timescaledb.stall()
        first = asyncio.create_task(ask(reader, grid, "m30", feature_set="forecast_advanced"))
        await asyncio.sleep(0.1)
        (second,), seconds = await timed(reader, grid, "m30", feature_set="anomaly_detection")
        assert (second["source"], second["degraded"]) == ("calendar", True)
        assert seconds < 0.8 * DATABASE_S
        await first

    run(work, Clock(NOW), options=options, timescale_dsn=through(dsn, timescaledb.port))


def test_view_is_wrong__its_features_are_missing_and_the_others_are_not(
    grid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = loader.newest_rows

    async def broken(connection: Any, view: Any, tenant: str, assets: list[str], at: int) -> Any:
        if "anomaly_detection" in view.name:
            await connection.execute("SELECT * FROM dropped")
        return await newest(connection, view, tenant, assets, at)

    monkeypatch.setattr(loader, "newest_rows", broken)

    async def work(reader: FeatureReader) -> None:
        await reader._assets.nearest(grid, "m3")
        for number in (31, 32):
            (result,) = await ask(reader, grid, f"m{number}", feature_set="anomaly_detection")
            assert_calendar_alone(result, NOW, ZONE)
            (result,) = await ask(reader, grid, f"m{number}", feature_set="forecast_basic")
            assert (result["features"]["lag_1h"], result["degraded"]) == (float(number), False)

    run(work, Clock(NOW), options=PATIENT.model_copy(update={"breaker_failures": 1, "breaker_pause_s": 60}))


def test_both_down__calendar_in_utc__and_without_the_registry_nothing(
    grid: str, timescaledb: Proxy, valkey: Proxy, dsn: str, redis_url: str
) -> None:
    async def main() -> None:
        servers = {
            "timescale_dsn": through(dsn, timescaledb.port),
            "redis_url": through(redis_url, valkey.port),
        }
        timescaledb.refuse()
        valkey.refuse()
        async with reading(Clock(NOW), **servers) as reader:
            for _ in range(2):
                (result,) = await ask(reader, grid, "m1", feature_set="forecast_advanced", must_exist=True)
                assert_calendar_alone(result, NOW, "UTC")
        registry = f"postgresql+psycopg://nobody:hush@127.0.0.1:{timescaledb.port}/none"
        async with reading(Clock(NOW), **servers, feast_registry_uri=registry) as reader:
            with pytest.raises(ServiceDownError, match="Feast's registry") as refused:
                await ask(reader, grid, "m1")
            assert "hush" not in str(refused.value)

    asyncio.run(main())
