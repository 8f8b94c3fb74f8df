"""Views and functions equal the oracle, now and as known earlier: gaps, late data, clock changes, tenants."""

from __future__ import annotations

import secrets
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracles.features import HOUR, Asset, Weather, floor_hour, same
from support.feature_tables import assert_views_equal, now, register, write, write_weather
from support.properties import examples

from ai_hub.db import connect
from ai_hub.db.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable

    Anchor = Callable[[], datetime]
    Offsets = dict[timedelta, float]
    Forecasts = dict[tuple[timedelta, int], tuple[float | None, float | None, float | None]]

# a failing example is small anyway, and shrinking it would refresh the database for minutes
PROPERTY = settings(
    max_examples=examples(2),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)

# DST ends in Berlin and in New York (both long past the retention of stored features), the edge of that
# retention, and the present
ANCHORS = st.sampled_from(
    [
        lambda: datetime(2025, 10, 24, 20, tzinfo=UTC),
        lambda: datetime(2026, 3, 6, 12, tzinfo=UTC),
        lambda: floor_hour(datetime.now(UTC)) - timedelta(days=92),
        lambda: floor_hour(datetime.now(UTC)) - timedelta(hours=150),
    ]
)
# most readings near each other, some a week and more apart, some in another century
JUMPS = st.sampled_from([timedelta(0)] * 8 + [timedelta(days=days) for days in (5, 7, 8, 21, -900, 40_000)])
OFFSETS = st.builds(lambda step, jump: timedelta(minutes=5 * step) + jump, st.integers(0, 12 * 200), JUMPS)
VALUES = st.floats(-1e3, 1e3, allow_subnormal=False) | st.floats(1e9, 1e9 + 1)
READINGS = st.dictionaries(OFFSETS, VALUES, min_size=1, max_size=30)
WEATHER = st.dictionaries(
    st.tuples(OFFSETS, st.integers(-30, 5)),
    # temperature, humidity, irradiance: a row may lack any of them
    st.tuples(*[st.none() | st.floats(0, 50, allow_subnormal=False)] * 3),
    max_size=8,
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])


@PROPERTY
@given(
    anchor=ANCHORS,
    zone=ZONES,
    first=READINGS,
    late=READINGS,
    other=READINGS,
    weather=WEATHER,
    late_weather=WEATHER,
    deleted=st.sets(OFFSETS, max_size=5),
)
def test_views__late_corrected_deleted_readings__equal_the_oracle(
    database: str,
    anchor: Anchor,
    zone: str,
    first: Offsets,
    late: Offsets,
    other: Offsets,
    weather: Forecasts,
    late_weather: Forecasts,
    deleted: set[timedelta],
) -> None:
    start = anchor()
    tenant, neighbour = (f"t-{secrets.token_hex(5)}" for _ in range(2))
    mine, theirs = Asset(zone), Asset("UTC")

    def readings(offsets: Offsets) -> dict[datetime, float]:
        return {start + offset: value for offset, value in offsets.items()}

    def forecasts(rows: Forecasts) -> list[Weather]:
        return [
            Weather(start + offset, start + offset + lead * HOUR, *values)
            for (offset, lead), values in rows.items()
        ]

    with connect(database, autocommit=True) as connection:
        # colliding names: the neighbour has an asset of the same name
        register(connection, tenant, "meter", zone)
        past: list[tuple[datetime, Asset]] = []
        for step, (rows, rows_weather) in enumerate([(first, weather), (late, late_weather)]):
            mine.readings |= readings(rows)
            write(connection, tenant, "meter", readings(rows))
            if new := forecasts(rows_weather):
                known = {(w.valid_at, w.available_at) for w in mine.weather}
                mine.weather += [w for w in new if (w.valid_at, w.available_at) not in known]
                write_weather(connection, tenant, "meter", new)
            if step == 1:
                theirs.readings |= readings(other)
                write(connection, neighbour, "meter", readings(other))
                gone = [start + offset for offset in deleted]
                mine.readings = {time: value for time, value in mine.readings.items() if time not in gone}
                connection.execute(
                    'DELETE FROM timeseries_data WHERE tenant_id = %s AND "timestamp" = ANY (%s)',
                    [tenant, gone],
                )
            refresh(dsn=database)
            assert_views_equal(connection, tenant, "meter", mine)
            past.append((now(connection), deepcopy(mine)))
        assert_views_equal(connection, neighbour, "meter", theirs)
        for time, known in past:
            assert_views_equal(connection, tenant, "meter", known, known_at=time)
        # the same rows computed on the fly: stored and computed values never differ
        connection.execute("DELETE FROM ai_features_stored WHERE tenant_id = %s", [tenant])
        connection.execute("DELETE FROM declared_spans WHERE tenant_id = %s", [tenant])
        assert_views_equal(connection, tenant, "meter", mine)


@PROPERTY
@given(
    anchor=ANCHORS,
    readings=READINGS,
    at=st.integers(-100, 60 * 220),
    window=st.sampled_from([1, 2, 24, 168, 8760]),
    lags=st.lists(st.sampled_from([1, 2, 3, 24, 25, 168]), max_size=4),
)
def test_functions__any_time__equal_the_oracle(
    database: str,
    anchor: Anchor,
    readings: Offsets,
    at: int,
    window: int,
    lags: list[int],
) -> None:
    start = anchor()
    time = start + timedelta(minutes=at)
    tenant = f"t-{secrets.token_hex(5)}"
    asset = Asset(readings={start + offset: value for offset, value in readings.items()})
    scale = max(map(abs, asset.readings.values()))
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        write(connection, f"{tenant}-x", "meter", dict.fromkeys(asset.readings, 1.0))
        refresh(dsn=database)
        got = connection.execute(
            "SELECT * FROM get_rolling_features(%s, 'meter', %s, %s)", [tenant, time, window]
        )
        want = asset.window(floor_hour(time), window)
        assert all(map(same, got.fetchone() or (), want, [scale] * 5))
        found = connection.execute(
            "SELECT * FROM get_lag_features(%s, 'meter', %s, %s)", [tenant, time, lags]
        ).fetchall()
        assert [lag for lag, _ in found] == lags
        for lag, value in found:
            assert same(value, asset.lag(floor_hour(time), lag), scale)


def test_functions__window_that_would_leak__is_refused(database: str) -> None:
    with connect(database, autocommit=True) as connection:
        for call in (
            "get_lag_features('t', 'a', now(), ARRAY[0])",
            "get_rolling_features('t', 'a', now(), 0)",
        ):
            with pytest.raises(Exception, match="at least 1"):
                connection.execute(f"SELECT * FROM {call}")  # type: ignore[call-overload]  # noqa: S608  # constants above


def test_refresh__unchanged_rows__keep_their_created_timestamp(database: str, tenant: str) -> None:
    start = floor_hour(datetime.now(UTC)) - timedelta(days=10)
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", {start + step * HOUR: float(step) for step in range(200)})
        refresh(dsn=database)

        def created() -> dict[datetime, datetime]:
            rows = connection.execute(
                "SELECT event_timestamp, created_timestamp FROM ai_features WHERE tenant_id = %s", [tenant]
            )
            return dict(rows.fetchall())

        before = created()
        write(connection, tenant, "meter", {start + 20 * HOUR: 1000.0})
        refresh(dsn=database)
        after = created()
    changed = {int((hour - start) / HOUR) for hour in after if after[hour] != before[hour]}
    # the 24 hours whose windows hold the corrected reading, and the hour one week later
    assert changed == {*range(21, 45), 188}


def test_daily_features__equal_the_oracle(database: str, tenant: str) -> None:
    day = datetime(2026, 2, 1, tzinfo=UTC)
    asset = Asset(readings={day + timedelta(minutes=17 * step): 1e6 + step**1.5 for step in range(400)})
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        refresh(dsn=database)
        rows = connection.execute(
            "SELECT day, avg_value, std_value, min_value, max_value, sample_count FROM daily_features"
            " WHERE tenant_id = %s ORDER BY day",
            [tenant],
        ).fetchall()
    assert len(rows) == 5
    for begin, *values in rows:
        assert values == pytest.approx(list(asset.window(begin + timedelta(days=1), 24)), rel=1e-9)
