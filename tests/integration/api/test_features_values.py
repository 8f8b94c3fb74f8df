"""Whatever way a feature takes, it is what the oracle says: TimescaleDB, Redis, any time in the past."""

from __future__ import annotations

import asyncio
import random
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from oracles.features import HOUR, Asset, Weather, floor_hour
from support.feature_reading import Clock, ask, differences, run, sources
from support.feature_tables import VIEWS, register, write, write_weather

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, NotFoundError

if TYPE_CHECKING:
    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

SETS = tuple(VIEWS)


@dataclass
class Meters:
    """A tenant's meters with gaps, and another tenant's with the same names."""

    tenant: str
    twin: str
    #: has the first meter, too, which one test alone reads
    unread: str
    assets: dict[str, Asset]
    #: start of the present hour, and a clock ten minutes later
    hour: datetime
    clock: Clock


@pytest.fixture(scope="module")
def meters(energy: Energy) -> Meters:
    """Meters with some readings in the last nine days."""
    del energy  # the feature repository is applied
    hour = floor_hour(datetime.now(UTC))
    draw = random.Random(7)  # noqa: S311  # gaps, no secrets
    assets = {}
    zones = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
    for number, zone in enumerate(zones):
        asset = assets[f"meter {number}, ö/'%"] = Asset(zone)
        times = [hour - step * HOUR / 2 for step in range(9 * 48)]
        for start in draw.sample(range(len(times)), 6):  # gaps of up to a day and a half
            times[start : start + draw.randrange(72)] = []
        asset.readings = {time: draw.uniform(-5, 900) for time in times if time < hour - number * 7 * HOUR}
        asset.weather = [
            Weather(hour - back * HOUR, hour - (back + draw.randrange(-1, 4)) * HOUR, draw.uniform(-9, 30))
            for back in range(0, 200, draw.randrange(1, 9))
        ]
    made = Meters(
        f"north-{secrets.token_hex(4)}",
        f"twin-{secrets.token_hex(4)}",
        f"unread-{secrets.token_hex(4)}",
        assets,
        hour,
        Clock(hour + timedelta(minutes=10)),
    )
    with connect() as connection:
        for name, asset in assets.items():
            register(connection, made.tenant, name, asset.zone)
            write(connection, made.tenant, name, asset.readings)
            write_weather(connection, made.tenant, name, asset.weather)
        name, asset = next(iter(assets.items()))
        register(connection, made.unread, name, asset.zone)
        write(connection, made.unread, name, asset.readings)
        write_weather(connection, made.unread, name, asset.weather)
        # the same name, and one that only the other tenant has
        for name in (next(iter(assets)), "theirs"):
            register(connection, made.twin, name, "UTC")
            write(connection, made.twin, name, {hour - HOUR / 2: 1e6})
    refresh()
    return made


def test_read__now__timescaledb_then_redis_equal_the_oracle(meters: Meters) -> None:
    names = list(meters.assets)

    async def work(reader: FeatureReader) -> None:
        for name in SETS:
            for turn in ("timescaledb", "redis"):
                results = await ask(reader, meters.tenant, *names, feature_set=name)
                for result in results:
                    asset = meters.assets[result["asset_id"]]
                    assert not differences(result, asset, name, meters.clock.time, meters.clock.time)
                # the last one is late by more than a day and has no row, which is noted for a while
                assert sources(results) == [turn] * len(names)
                assert [each["hour"] is None for each in results] == [False] * (len(names) - 1) + [True]

    run(work, meters.clock)


def test_read__any_past_time__equals_the_oracle(meters: Meters) -> None:
    draw = random.Random(11)  # noqa: S311  # times, no secrets
    edges = [timedelta(0), timedelta(microseconds=-1), timedelta(minutes=59, seconds=59), HOUR / 2]
    times = [meters.hour - draw.randrange(1, 240) * HOUR + draw.choice(edges) for _ in range(8)]

    async def work(reader: FeatureReader) -> None:
        for time in times:
            name = draw.choice(SETS)
            results = await ask(reader, meters.tenant, *meters.assets, feature_set=name, timestamp=time)
            for result in results:
                problems = differences(
                    result, meters.assets[result["asset_id"]], name, time, meters.clock.time
                )
                assert not problems, (time, name, result["asset_id"], problems)
                assert result["source"] == "timescaledb"

    run(work, meters.clock)


def test_read__written_back__answers_for_its_time_and_past_the_turn_of_the_hour(meters: Meters) -> None:
    """A row written back answers for `FEATURE_CACHE_TTL` seconds; the last hour's no longer either."""
    name = next(iter(meters.assets))
    ttl = timedelta(seconds=300)
    clock = Clock(meters.hour - timedelta(minutes=30))

    async def work(reader: FeatureReader) -> None:
        async def hour_and_source() -> tuple[datetime, str]:
            (result,) = await ask(reader, meters.unread, name, feature_set="anomaly_detection")
            assert not differences(
                result, meters.assets[name], "anomaly_detection", result["hour"], meters.clock.time
            )
            return result["hour"], result["source"]

        before = meters.hour - HOUR
        for _ in range(2):
            assert await hour_and_source() == (before, "timescaledb")
            clock.time += ttl
            assert await hour_and_source() == (before, "redis")
            clock.time += timedelta(microseconds=1)
            # by the real clock: whoever asks at once shares the query before
            await asyncio.sleep(0.6)
        clock.time = meters.hour - timedelta(seconds=60)
        assert await hour_and_source() == (before, "timescaledb")
        clock.time = meters.hour + timedelta(seconds=240)
        assert await hour_and_source() == (before, "redis")
        clock.time += timedelta(seconds=1)
        assert await hour_and_source() == (meters.hour, "timescaledb")
        assert await hour_and_source() == (meters.hour, "redis")

    run(work, clock)


def test_read__other_tenants_asset__never_answered(meters: Meters) -> None:
    shared = next(iter(meters.assets))

    async def work(reader: FeatureReader) -> None:
        for _ in range(2):  # from TimescaleDB, and from Redis where the twin's row is by then
            (theirs,) = await ask(reader, meters.twin, shared)
            (mine,) = await ask(reader, meters.tenant, shared)
            assert theirs["features"]["lag_1h"] == pytest.approx(1e6)
            assert not differences(
                mine, meters.assets[shared], "forecast_basic", meters.clock.time, meters.clock.time
            )
        await ask(reader, meters.twin, "theirs")
        (result,) = await ask(reader, meters.tenant, "theirs")
        assert set(result["status"].values()) == {"NOT_FOUND"}
        assert set(result["features"].values()) == {None}
        assert result["hour"] is None
        with pytest.raises(NotFoundError, match="has no asset theirs") as refused:
            await ask(reader, meters.tenant, "theirs", must_exist=True)
        assert "theirs" not in str(refused.value.hint)

    run(work, meters.clock)


@pytest.mark.parametrize(
    ("hours", "empty"),
    [
        (1, {"historical_avg_24h", "historical_std_24h", "lag_24h", "lag_168h"}),
        (24, {"lag_168h"}),
        (167, {"lag_168h"}),
        (168, set()),
    ],
)
def test_read__lookback__features_that_look_further_are_empty(
    meters: Meters, hours: int, empty: set[str]
) -> None:
    name = next(iter(meters.assets))

    async def work(reader: FeatureReader) -> None:
        (result,) = await ask(
            reader, meters.tenant, name, feature_set="forecast_advanced", lookback_hours=hours
        )
        outside = {each for each, status in result["status"].items() if status == "OUTSIDE_LOOKBACK"}
        assert outside == empty
        assert all(result["features"][each] is None for each in outside)
        assert result["feature_count"] == sum(value is not None for value in result["features"].values())

    run(work, meters.clock)


def test_read__names__in_their_order_and_from_the_sets_that_have_them(meters: Meters) -> None:
    asset = next(iter(meters.assets))
    names = ["lag_168h", "month", "historical_min_24h", "lag_168h", "temperature"]
    want = meters.assets[asset].row(meters.hour)

    async def work(reader: FeatureReader) -> None:
        (result,) = await ask(reader, meters.tenant, asset, feature_names=names)
        assert list(result["features"]) == ["lag_168h", "month", "historical_min_24h", "temperature"]
        for name, value in result["features"].items():
            assert value == (pytest.approx(want[name]) if want[name] is not None else None)
        (result,) = await ask(
            reader,
            meters.tenant,
            asset,
            feature_set="forecast_basic",
            feature_names=["lag_1h", "hour_of_day"],
        )
        assert list(result["features"]) == ["lag_1h", "hour_of_day"]
        with pytest.raises(NotFoundError, match="does not have historical_min_24h"):
            await ask(
                reader,
                meters.tenant,
                asset,
                feature_set="forecast_basic",
                feature_names=["historical_min_24h"],
            )
        # three sets have it, and it is the same in each
        (result,) = await ask(reader, meters.tenant, asset, feature_names=["lag_1h", "hour_of_day"])
        expected = want["lag_1h"]
        assert result["features"]["lag_1h"] == (None if expected is None else pytest.approx(expected))
        assert result["features"]["hour_of_day"] == want["hour_of_day"]
        with pytest.raises(BadInputError, match="future"):
            await ask(reader, meters.tenant, asset, timestamp=meters.clock.time + timedelta(minutes=6))

    run(work, meters.clock)


def test_read__present_hour_given__row_of_a_later_time_is_not_seen(meters: Meters) -> None:
    """Redis holds the row of the hour; who asks for a time before it gets the row before it."""
    name = next(iter(meters.assets))

    async def work(reader: FeatureReader) -> None:
        await ask(reader, meters.tenant, name)
        before = meters.hour - timedelta(minutes=1)
        meters_clock.time = before  # clocks differ: ours says that the hour has not begun
        (result,) = await ask(reader, meters.tenant, name, timestamp=before)
        assert (result["hour"], result["source"]) == (meters.hour - HOUR, "timescaledb")
        (result,) = await ask(reader, meters.tenant, name)
        assert (result["hour"], result["source"]) == (meters.hour, "redis")

    meters_clock = Clock(meters.clock.time)
    run(work, meters_clock)


def test_materialized__read_from_redis__equal_timescaledb(energy: Energy) -> None:
    """What Feast put into Redis and what a read computes are the same answers."""
    clock = Clock(energy.now)

    async def work(reader: FeatureReader) -> None:
        for name in SETS:
            clock.time = energy.now
            now = await ask(reader, energy.main, *names, feature_set=name)
            assert sources(now) == ["redis"] * 3
            clock.time = energy.now + 2 * HOUR
            past = await ask(reader, energy.main, *names, feature_set=name, timestamp=energy.now)
            assert sources(past) == ["timescaledb"] * 3
            assert [each["features"] for each in now] == [each["features"] for each in past]
            # a materialized row answers for its whole hour, and a moment longer
            for minutes, expected in ((59, "redis"), (64, "redis"), (65, "timescaledb")):
                clock.time = floor_hour(energy.now) + timedelta(minutes=minutes)
                assert sources(await ask(reader, energy.main, names[0], feature_set=name)) == [expected]

    names = ("1", "11", "fresh")
    views = [f"{name}_features" for name in SETS]
    energy.store.materialize(energy.now - 3 * HOUR, energy.now, feature_views=views)
    run(work, clock)
