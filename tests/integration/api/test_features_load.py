"""Many misses and a slow database: hits are answered, tenants have their share, no work is done in vain."""

from __future__ import annotations

import asyncio
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from oracles.features import HOUR, floor_hour
from support.feature_reading import PATIENT, Clock, ask, place, run, sources, through
from support.feature_tables import register, write
from support.service_server import running_service

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import NotFoundError
from ai_hub.features.online import database, loader
from ai_hub.features.online.reader import FeatureRequest
from ai_hub.settings import Settings
from benchmarks.tcp_proxy import proxied
from feast_plugins.online.writing import times_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

NOW = floor_hour(datetime.now(UTC)) + timedelta(minutes=10)
PAST = [NOW - hours * HOUR for hours in range(2, 42)]


@pytest.fixture(scope="module")
def valley(energy: Energy) -> tuple[str, str]:
    """Two tenants with meters a to d, each with a reading of half an hour ago."""
    del energy  # the feature repository is applied
    tenants = (f"valley-{secrets.token_hex(4)}", f"coast-{secrets.token_hex(4)}")
    with connect() as connection:
        for tenant in tenants:
            for number, name in enumerate("abcd"):
                register(connection, tenant, name, "UTC")
                write(connection, tenant, name, {floor_hour(NOW) - HOUR / 2: float(number)})
    refresh()
    return tenants


def test_lists_of_assets__more_than_there_is_room_for__are_not_read_in_turns(
    valley: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    really = database.AssetDirectory._read

    async def noted(self: database.AssetDirectory, tenant: str) -> None:
        await really(self, tenant)
        read.append(tenant)

    monkeypatch.setattr(database.AssetDirectory, "_read", noted)
    monkeypatch.setattr(database, "_CAPACITY", 4)

    async def work(reader: FeatureReader) -> None:
        for _ in range(3):
            for tenant in valley:
                reader._assets.refresh(tenant)
                await asyncio.gather(*reader._assets._tasks.values())
        first, second = valley
        assert reader._assets.zones(first) == {}, "there is room for one"
        assert reader._assets.zones(second) == dict.fromkeys("abcd", "UTC")

    run(work, Clock(NOW))
    assert read == list(valley)


def test_lists_of_assets__too_many_tenants__are_forgotten_once_they_may_be_read_again(
    valley: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_MAX_TENANTS", 1)

    async def read(reader: FeatureReader, *tenants: str) -> None:
        for tenant in tenants:
            reader._assets.refresh(tenant)
            await asyncio.gather(*reader._assets._tasks.values())

    async def work(reader: FeatureReader) -> None:
        assets = reader._assets
        first, second = valley
        await read(reader, first, second)
        assert time.monotonic() < assets._tenants[first].until <= time.monotonic() + 60
        assert (assets.zones(first), len(assets.zones(second))) == ({}, 4)
        monkeypatch.setattr(database, "_DROPPED_S", -1.0)
        await read(reader, f"{first}-other")
        assert set(assets._tenants) == {first, f"{first}-other"}
        await read(reader, second)
        assert (set(assets._tenants), len(assets.zones(second))) == ({first, second}, 4)

    run(work, Clock(NOW))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds that the next queries take, the last for all that follow; tests fill it in."""
    seconds: list[float] = []
    newest = loader.newest_rows
    begun: list[float] = []

    async def slowly(*asked: Any) -> Any:
        begun.append(time.monotonic())
        await asyncio.sleep(seconds.pop(0) if len(seconds) > 1 else seconds[0])
        return await newest(*asked)

    monkeypatch.setattr(loader, "newest_rows", slowly)
    slowly.begun = begun  # type: ignore[attr-defined]
    return seconds


def begun() -> list[float]:
    """When each slow query began."""
    found: list[float] = loader.newest_rows.begun  # type: ignore[attr-defined]
    return found


def test_database_silent__misses_hold_half_of_the_places_and_hits_are_answered(
    valley: tuple[str, str], dsn: str
) -> None:
    tenant, _ = valley
    options = PATIENT.model_copy(
        update={"max_in_flight": 16, "database_timeout_s": 2.0, "breaker_failures": 1000}
    )
    with proxied(place(dsn)[1]) as proxy:
        settings = Settings(timescale_dsn=through(dsn, proxy.port))
        with (
            running_service(settings, options) as address,
            httpx.Client(base_url=address, timeout=30) as http,
        ):

            def post(asset: str, feature_set: str) -> httpx.Response:
                body = {"tenant_id": tenant, "asset_ids": [asset], "feature_set": feature_set}
                return http.post("/ai/features/get", json=body)

            def get(asset: str, feature_set: str) -> tuple[int, bool, float]:
                started = time.monotonic()
                answer = post(asset, feature_set)
                degraded = answer.status_code != 200 or answer.json()["degraded"]
                return answer.status_code, degraded, time.monotonic() - started

            assert get("a", "forecast_basic")[:2] == (200, False)
            while post("a", "forecast_basic").json()["results"][0]["source"] != "redis":
                time.sleep(0.02)  # the row is written back after the answer
            proxy.stall()
            with ThreadPoolExecutor(40) as pool:
                misses = []
                for number in range(30):
                    misses.append(pool.submit(get, f"b{number}", "forecast_advanced"))
                    time.sleep(0.02)
                hits = [get("a", "forecast_basic") for _ in range(30)]
                answers = [miss.result() for miss in misses]
    assert [hit[:2] for hit in hits] == [(200, False)] * 30
    assert max(seconds for *_, seconds in hits) < 1
    assert {answer[:2] for answer in answers} == {(200, True)}
    waited = sum(seconds > 1 for *_, seconds in answers)
    assert 0 < waited <= 4  # of eight places for those that wait, a tenant gets as many as are free


def test_many_past_times__other_tenants_miss__is_answered_in_between(
    valley: tuple[str, str], slow: list[float]
) -> None:
    greedy, other = valley
    slow[:] = [0.2]
    options = PATIENT.model_copy(update={"database_connections": 1, "database_timeout_s": 4.0})

    async def work(reader: FeatureReader) -> None:
        await reader.catalog.services()
        flood = [asyncio.create_task(ask(reader, greedy, "a", timestamp=at)) for at in PAST]
        await asyncio.sleep(0.3)
        started = time.monotonic()
        (answer,) = await ask(reader, other, "a")
        assert (answer["source"], answer["degraded"]) == ("timescaledb", False)
        assert time.monotonic() - started < 1.5
        first = await flood[0]
        assert not first[0]["degraded"]
        await asyncio.gather(*flood)

    run(work, Clock(NOW), options=options)


def test_too_much_at_once__no_query_begins_that_nobody_can_wait_for(
    valley: tuple[str, str], slow: list[float]
) -> None:
    tenant, _ = valley
    slow[:] = [0.3]
    options = PATIENT.model_copy(update={"database_connections": 1, "database_timeout_s": 2.0})

    async def work(reader: FeatureReader) -> None:
        await reader.catalog.services()
        started = time.monotonic()
        answers = await asyncio.gather(*(ask(reader, tenant, "a", timestamp=at) for at in PAST[:30]))
        answered = sum(not answer["degraded"] for (answer,) in answers)
        await asyncio.sleep(1.0)
        assert answered >= 2
        # the embedded server may have been slow, too; then fewer were answered
        assert len(begun()) <= answered + 2
        assert max(begun()) - started < 1.5

    run(work, Clock(NOW), options=options)


def test_answer_too_late__its_row_is_in_redis_for_the_next(
    valley: tuple[str, str], slow: list[float]
) -> None:
    tenant, other = valley
    slow[:] = [0.6, 1.7, 0.0]
    options = PATIENT.model_copy(update={"database_connections": 1, "database_timeout_s": 2.0})

    async def work(reader: FeatureReader) -> None:
        await reader.catalog.services()
        before = asyncio.create_task(ask(reader, other, "b"))
        await asyncio.sleep(0.05)
        (late,) = await ask(reader, tenant, "b")
        assert late["degraded"]
        await asyncio.sleep(1.0)
        await reader.cache.settle()
        (stored,) = await ask(reader, tenant, "b")
        assert (stored["features"]["lag_1h"], stored["source"]) == (1.0, "redis")
        await before

    run(work, Clock(NOW), options=options)


@pytest.mark.usefixtures("valley")
def test_large_batch__every_row_is_written_back() -> None:
    tenant = f"crowd-{secrets.token_hex(4)}"
    names = [f"meter-{number:04}" for number in range(450)]
    with connect() as connection:
        for name in names:
            register(connection, tenant, name, "UTC")
            write(connection, tenant, name, {floor_hour(NOW) - HOUR / 2: 1.0})
    refresh()

    async def work(reader: FeatureReader) -> None:
        assert sources(await ask(reader, tenant, *names)) == ["timescaledb"] * len(names)
        assert sources(await ask(reader, tenant, *names)) == ["redis"] * len(names)
        absent = [f"none-{number:04}" for number in range(450)]
        await ask(reader, tenant, *absent)
        client = reader.cache._connections.async_client(reader.catalog.config.online_store)
        assert len(await client.keys(f"ai_hub:looked:*:{tenant}:none-*")) == len(absent)

    run(work, Clock(NOW))


def test_write_back__feasts_own_reading__sees_the_hour_and_the_values(
    valley: tuple[str, str], energy: Energy
) -> None:
    _, tenant = valley

    async def work(reader: FeatureReader) -> None:
        await ask(reader, tenant, "d")
        config = reader.catalog.config
        client = reader.cache._connections.async_client(config.online_store)
        keys = [each async for each in client.scan_iter(match=f"*{tenant}*") if b"looked" not in each]
        stamps = {
            times_of(value)
            for key in keys
            for name, value in (await client.hgetall(key)).items()
            if name.startswith(b"_ts:")
        }
        assert {each.event for each in stamps} == {round(floor_hour(NOW).timestamp()) * 10**9}
        assert {each.computed for each in stamps} == {round(NOW.timestamp()) * 10**9}

    run(work, Clock(NOW))
    found = energy.store.get_online_features(
        features=energy.store.get_feature_service("forecast_basic"),
        entity_rows=[{"tenant_id": tenant, "asset_id": "d"}],
    ).to_dict(include_event_timestamps=True)
    assert found["lag_1h"] == [3.0]
    assert found["lag_1h__ts"] == [round(floor_hour(NOW).timestamp())]


@pytest.mark.usefixtures("valley")
def test_unknown_asset__of_a_tenant_with_thousands__holds_nobody_up() -> None:
    tenant = f"many-{secrets.token_hex(4)}"
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, timezone)"
            " SELECT %s, 'meter-' || lpad(n::text, 5, '0'), 'UTC' FROM generate_series(1, 30000) AS n",
            [tenant],
        )

    async def work(reader: FeatureReader) -> None:
        await reader._assets.nearest(tenant, "meter-00001")
        await asyncio.gather(*reader._assets._tasks.values())
        asked = FeatureRequest(tenant, ["meter-001234"], must_exist=True)
        with pytest.raises(NotFoundError) as refused:
            await reader.read(asked)
        assert "Did you mean meter-" in str(refused.value.hint)
        started = time.process_time()
        for _ in range(10):
            with pytest.raises(NotFoundError):
                await reader.read(asked)
        assert time.process_time() - started < 0.5

    run(work, Clock(NOW))
