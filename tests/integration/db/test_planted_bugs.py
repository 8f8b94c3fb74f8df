"""The comparison with the oracle finds a mistake in the SQL: each one planted here makes it differ."""

from __future__ import annotations

import secrets
import shutil
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from oracles.features import HOUR, Asset, Weather, same
from psycopg.errors import UniqueViolation
from support.feature_tables import differences, now, register, write, write_weather

from ai_hub import paths
from ai_hub.db import connect
from ai_hub.db.migrate import migrate
from ai_hub.db.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psycopg

MINUTE = timedelta(minutes=1)
# the clock goes back in Berlin on the second day
START = datetime(2025, 10, 25, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Bug:
    """Replacements in one file of `sql/code`."""

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]


def bug(name: str, file: str, *changes: tuple[str, str]) -> Bug:
    return Bug(name, file, changes)


HOUR_BEFORE = "INTERVAL '1 hour' PRECEDING"
LAST_DAY = f"RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND {HOUR_BEFORE}"
WEEK_LAG = """last_hour + INTERVAL '169 hours'
        FROM changes WHERE source IN ('readings', 'deletion', 'asset')"""
DAY_AFTER = """last_hour + INTERVAL '25 hours'
        FROM changes"""
DAY_OF = "            SELECT state.hour, meaning.*"
OF_TENANT = "WHERE state.tenant_id = tenant AND state.asset_id = asset\n           "
OF_ASSET = "WHERE state.asset_id = asset\n           "
DAY_BACK = "AND state.hour >= first_hour - INTERVAL '24 hours'"
WEEK_BACK = "AND state.hour >= first_hour - INTERVAL '168 hours'"
ROWS, VIEWS, POINT = "030_feature_rows.sql", "040_feature_views.sql", "020_point_functions.sql"
PLAN, COMPUTE = "050_plan_refresh.sql", "051_compute_features.sql"

BUGS = [
    bug("the target hour is in the window", ROWS, (LAST_DAY, LAST_DAY.replace(HOUR_BEFORE, "CURRENT ROW"))),
    bug("a window of 23 hours", ROWS, (LAST_DAY, LAST_DAY.replace("24", "23"))),
    bug(
        "a window of rows, not of time",
        ROWS,
        (LAST_DAY, "ROWS BETWEEN 24 PRECEDING AND 1 PRECEDING"),
        (f"LEFT JOIN (\n{DAY_OF}", f"JOIN (\n{DAY_OF}"),
    ),
    bug("population deviation", ROWS, ("float8_stddev_samp", "float8_stddev_pop")),
    bug("windows of all tenants", ROWS, (f"{OF_TENANT}     {DAY_BACK}", f"{OF_ASSET}     {DAY_BACK}")),
    bug("lags of all tenants", ROWS, (f"{OF_TENANT} {WEEK_BACK}", f"{OF_ASSET} {WEEK_BACK}")),
    bug(
        "weather of one row only", ROWS, ("(newest.temperature, earlier.temperature)", "(newest.temperature)")
    ),
    bug(
        "weather of all tenants",
        ROWS,
        ("WHERE tenant_id = tenant AND asset_id = weather_asset", "WHERE asset_id = weather_asset"),
    ),
    bug(
        "windows of all tenants in rows not stored yet",
        ROWS,
        ("WHERE tenant_id = tenant AND asset_id = asset\n            AND", "WHERE asset_id = asset AND"),
    ),
    bug("weather before it was available", ROWS, ("AND available_at <= at_hour", "")),
    bug("< for <= where weather is available", ROWS, ("available_at <= at_hour", "available_at < at_hour")),
    bug("< for <= where weather is of the hour", ROWS, ('"timestamp" <= at_hour', '"timestamp" < at_hour')),
    bug(">= for > where weather gets old", ROWS, ('"timestamp" > (SELECT', '"timestamp" >= (SELECT')),
    bug("<= for < in rows not stored yet", ROWS, ("AND hour < at_hour\n", "AND hour <= at_hour\n")),
    bug("UTC for local time", VIEWS, ("AT TIME ZONE timezone", "AT TIME ZONE 'UTC'")),
    bug("Sunday is no weekend", VIEWS, (">= 6", "= 6")),
    bug("late readings do not reach lag_168h", PLAN, (WEEK_LAG, f"{WEEK_LAG} AND false")),
    bug("late readings reach 23 rows", PLAN, (DAY_AFTER, DAY_AFTER.replace("25", "24"))),
    bug(
        "rows of deleted readings stay",
        PLAN,
        ("PERFORM end_feature_rows(tenant, asset, known.stored - existing)", "--"),
    ),
    bug(
        "a superseded version stays present",
        COMPUTE,
        ("replaced_keys FROM differing", "replaced_keys FROM differing WHERE false"),
    ),
    bug("<= for < in the rolling window", POINT, ("AND hour < time_bucket", "AND hour <= time_bucket")),
    bug(
        "the rolling window of all tenants",
        POINT,
        ("WHERE tenant_id = tenant AND asset_id", "WHERE asset_id"),
    ),
    bug(
        "the lags of all tenants", POINT, ("hourly.tenant_id = tenant AND hourly.asset_id", "hourly.asset_id")
    ),
]


class Energy:
    """A meter in Berlin with gaps, late, corrected and deleted readings, and a neighbour of the same name."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.tenant, self.neighbour = (f"t-{secrets.token_hex(5)}" for _ in range(2))
        self.mine, self.theirs = Asset("Europe/Berlin"), Asset("UTC")
        for step in range(3 * 60):
            if not 30 <= step < 42:
                self.mine.readings[START + step * 20 * MINUTE] = 100 + (step * 37 % 11) ** 1.5
            self.theirs.readings[START + step * 20 * MINUTE] = 1e6 + step
        for step in range(12):
            self.mine.readings[START + (165 + step) * HOUR + 5 * MINUTE] = 50.0 + step
        for step, (lead, value) in enumerate([(0, 5.0), (-3, 6.0), (2, 7.0), (0, 8.0), (-1, 9.0)]):
            valid_at = START + (2 + 9 * step) * HOUR
            self.mine.weather.append(Weather(valid_at, valid_at + lead * HOUR, value))
            self.mine.weather.append(Weather(valid_at + 3 * HOUR, valid_at, None, 40.0, 100.0))
            self.theirs.weather.append(Weather(valid_at + HOUR, valid_at, value + 1000))

    def problems(self) -> Iterator[str]:
        """How the database differs from the oracle, step by step."""
        with connect(self.dsn, autocommit=True) as connection:
            register(connection, self.tenant, "meter", self.mine.zone)
            register(connection, self.neighbour, "meter", self.theirs.zone)
            for tenant, asset in ((self.tenant, self.mine), (self.neighbour, self.theirs)):
                write(connection, tenant, "meter", asset.readings)
                write_weather(connection, tenant, "meter", asset.weather)
            # readings below an aggregate's watermark show after its refresh
            connection.execute("CALL refresh_feature_aggregates(NULL, NULL, false)")
            yield from differences(connection, self.tenant, "meter", self.mine)
            refresh(dsn=self.dsn)
            yield from differences(connection, self.tenant, "meter", self.mine)
            then, known = now(connection), deepcopy(self.mine)
            self._change(connection)
            refresh(dsn=self.dsn)
            yield from differences(connection, self.tenant, "meter", self.mine)
            yield from differences(connection, self.neighbour, "meter", self.theirs)
            yield from differences(connection, self.tenant, "meter", known, known_at=then)
            yield from self._point_differences(connection)

    def _change(self, connection: psycopg.Connection) -> None:
        late = {START + 11 * HOUR: 500.0, START + 20 * HOUR: 700.0}
        self.mine.readings |= late
        write(connection, self.tenant, "meter", late)
        deleted = [time for time in self.mine.readings if time < START + 2 * HOUR]
        for time in deleted:
            del self.mine.readings[time]
        connection.execute(
            'DELETE FROM timeseries_data WHERE tenant_id = %s AND "timestamp" = ANY (%s)',
            [self.tenant, deleted],
        )

    def _point_differences(self, connection: psycopg.Connection) -> Iterator[str]:
        for at in (START + 15 * HOUR, START + 30 * HOUR + MINUTE, START + 180 * HOUR):
            hour = at.replace(minute=0)
            got = connection.execute(
                "SELECT * FROM get_rolling_features(%s, 'meter', %s, 24)", [self.tenant, at]
            ).fetchone()
            want = self.mine.window(hour, 24)
            if not all(map(same, got or (), want, [1e3] * 5)):
                yield f"rolling at {at}: {got} instead of {want}"
            lags = connection.execute(
                "SELECT * FROM get_lag_features(%s, 'meter', %s, ARRAY[1, 24, 168])", [self.tenant, at]
            ).fetchall()
            for lag, value in lags:
                if not same(value, self.mine.lag(hour, lag), 1e3):
                    yield f"lag of {lag} h at {at}: {value}"
            if len(lags) != 3:
                yield f"{len(lags)} lags at {at}"


def test_oracle__sql_as_it_is__differs_nowhere(spare_database: str) -> None:
    migrate(spare_database)
    assert list(Energy(spare_database).problems()) == []


@pytest.mark.parametrize(
    "planted",
    [
        # each sixth shows that the oracle is asked at all
        pytest.param(planted, id=planted.name, marks=[] if number % 6 == 0 else pytest.mark.long)
        for number, planted in enumerate(BUGS)
    ],
)
def test_oracle__planted_bug__is_found(spare_database: str, tmp_path: Path, planted: Bug) -> None:
    sql = shutil.copytree(paths.resource("sql"), tmp_path / "sql")
    path = sql / "code" / planted.file
    text = path.read_text()
    for old, new in planted.changes:
        assert old in text, "the SQL has changed: plant the bug anew"
        text = text.replace(old, new)
    path.write_text(text)
    migrate(spare_database, sql=sql)
    try:
        found = next(Energy(spare_database).problems(), None)
    except UniqueViolation as error:
        found = str(error)  # a row came out twice, and the tables' keys refuse that
    assert found, "nobody noticed"
