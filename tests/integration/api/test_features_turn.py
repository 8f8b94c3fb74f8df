"""The turn of an hour: TimescaleDB is asked for nothing that Redis has or the follower is about to bring."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from oracles.features import HOUR, floor_hour
from redis import Redis
from support.feature_reading import Clock, ask, run, sources
from support.feature_tables import register, write

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.features import materialize as module
from ai_hub.features.materialize import Follower, materialize
from ai_hub.features.newest import Scope
from ai_hub.features.online.database import Database
from ai_hub.features.store import ALIVE_S, followed_key, set_followed
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

NOW = floor_hour(datetime.now(UTC))
ASSETS = ("a", "b")


@pytest.fixture(scope="module")
def delta(energy: Energy) -> str:
    """A tenant whose meters' rows of this hour are in Redis."""
    tenant = f"delta-{secrets.token_hex(4)}"
    with connect() as connection:
        for name in ASSETS:
            register(connection, tenant, name, "Asia/Kolkata")
            write(connection, tenant, name, {NOW - HOUR / 2: 4.0})
    refresh()
    assert materialize(energy.store, Scope([tenant])).rows["forecast_basic_features"] == len(ASSETS)
    return tenant


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tenants of the transactions that readers have begun."""
    begun: list[str] = []
    original = Database.run

    async def counted(self: Database, tenant: str, work: Any) -> Any:
        begun.append(tenant)
        return await original(self, tenant, work)

    monkeypatch.setattr(Database, "run", counted)
    return begun


@pytest.fixture
def followed(energy: Energy) -> Iterator[Redis]:
    """Redis, in which nothing is said of a follower before and after."""
    with Redis.from_url(Settings().require("redis_url")) as client:
        client.delete(followed_key(energy.store.project))
        yield client
        client.delete(followed_key(energy.store.project))


def test_rows_in_redis__nothing_is_read_from_timescaledb(delta: str, transactions: list[str]) -> None:
    async def work(reader: FeatureReader) -> None:
        for _ in range(2):
            assert sources(await ask(reader, delta, *ASSETS)) == ["redis"] * len(ASSETS)
        await asyncio.sleep(0)

    run(work, Clock(NOW + timedelta(minutes=10)))
    assert transactions == []


def test_after_the_hour__follower_behind__row_of_the_hour_before__then_half_past_timescaledb(
    delta: str, transactions: list[str], followed: Redis, energy: Energy
) -> None:
    clock = Clock(NOW + HOUR + timedelta(minutes=10))

    async def work(reader: FeatureReader) -> None:
        set_followed(followed, energy.store.project, NOW + timedelta(minutes=40))
        results = await ask(reader, delta, *ASSETS)
        assert sources(results) == ["redis"] * len(ASSETS)
        assert {(each["hour"], each["degraded"]) for each in results} == {(NOW, False)}
        assert transactions == []
        # nobody waits for ever, nor for a row of the hour before the last
        for later in (timedelta(minutes=31), timedelta(hours=1, minutes=10)):
            clock.time = NOW + HOUR + later
            assert (await ask(reader, delta, "a"))[0]["source"] != "redis" or transactions
        assert transactions

    run(work, clock)


@pytest.mark.parametrize("note", [None, timedelta(hours=1, minutes=1)], ids=["no follower", "it is through"])
def test_after_the_hour__nothing_is_to_come__timescaledb_is_asked(
    delta: str, transactions: list[str], followed: Redis, energy: Energy, note: timedelta | None
) -> None:
    if note is not None:
        set_followed(followed, energy.store.project, NOW + note)

    async def work(reader: FeatureReader) -> None:
        await reader.catalog.services()
        await ask(reader, delta, "b", feature_set="anomaly_detection")

    for key in followed.scan_iter(match=f"ai_hub:looked:*{delta}*"):
        followed.delete(key)
    run(work, Clock(NOW + HOUR + timedelta(minutes=10)))
    assert delta in transactions


def test_follower_of_everybody__notes_the_hour_it_is_through(
    energy: Energy, followed: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_write", lambda *_, refreshes, **__: module.Pass(refreshes))
    key = followed_key(energy.store.project)
    Follower(energy.store, Scope(["some"])).catch_up()
    assert followed.get(key) is None
    Follower(energy.store).catch_up()
    assert int(followed.get(key) or 0) == NOW.timestamp()  # type: ignore[arg-type]  # not async
    assert 0 < int(followed.ttl(key)) <= ALIVE_S  # type: ignore[arg-type]
