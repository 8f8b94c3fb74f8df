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
from feast_plugins.windows import steps, templates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import psycopg

MINUTE = timedelta(minutes=1)
# the clock goes back in Berlin on the second day
START = datetime(2025, 10, 25, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Bug:
    """Replacements in one file of `sql/code`, or in a text of `feast_plugins.windows`."""

    name: str
    place: tuple[str, ...]
    old: str
    new: str


def bug(name: str, place: str | tuple[str, ...], old: str, new: str) -> Bug:
    return Bug(name, (place,) if isinstance(place, str) else place, old, new)


POINT, PLAN, COMPUTE = "020_point_functions.sql", "050_plan_refresh.sql", "053_declared_features.sql"
GRID, WEATHER = "READINGS_GRID", "WEATHER_OF_HOUR_CONDITIONS"

BUGS = [
    bug("the target hour is in the window", GRID, "{first_row} AS", "{first_row} - INTERVAL '1 hour' AS"),
    bug("a window of 23 hours", "WINDOW", "AND {farthest}", "AND {farthest} - 1"),
    bug("a window of rows, not of time", GRID, "LEFT JOIN (\n", "JOIN (\n"),
    bug("population deviation", ("FUNCTIONS", "GRID_FUNCTIONS"), "float8_stddev_samp", "float8_stddev_pop"),
    bug("windows and lags of all tenants", "_HOURS", "hourly.tenant_id = k.tenant_id AND ", ""),
    bug("weather of one row only", "WEATHER_OF_HOUR", "({missing})", "false"),
    bug("weather of all tenants", WEATHER, "weather.tenant_id = k.tenant_id AND ", ""),
    bug("weather before it was available", WEATHER, "AND weather.available_at <= {hour}", ""),
    bug("< for <= where weather is available", WEATHER, "available_at <= {hour}", "available_at < {hour}"),
    bug("< for <= where weather is of the hour", WEATHER, '"timestamp" <= {hour}', '"timestamp" < {hour}'),
    bug(">= for > where weather gets old", WEATHER, '"timestamp" > {hour}', '"timestamp" >= {hour}'),
    bug("an hour less in rows not stored yet", "WINDOW", "BETWEEN {nearest}", "BETWEEN 1 + {nearest}"),
    bug("UTC for local time", "REGISTER", "coalesce(assets.timezone, 'UTC')", "'UTC'"),
    bug("Sunday is no weekend", "CALENDAR", ">= 6", "= 6"),
    bug("late readings reach a row less", PLAN, "farthest * step + INTERVAL '1 hour'", "farthest * step"),
    bug("rows of deleted readings stay", PLAN, "PERFORM end_declared_rows(tenant, asset, existing)", "--"),
    bug(
        "a superseded version stays present",
        COMPUTE,
        "FROM unnest(replaced) WHERE",
        "FROM unnest(replaced) WHERE false AND",
    ),
    bug("<= for < in the rolling window", POINT, "AND hour < time_bucket", "AND hour <= time_bucket"),
    bug(
        "the rolling window of all tenants", POINT, "WHERE tenant_id = tenant AND asset_id", "WHERE asset_id"
    ),
    bug("the lags of all tenants", POINT, "hourly.tenant_id = tenant AND hourly.asset_id", "hourly.asset_id"),
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


def test_oracle__sql_as_it_is__differs_nowhere(migrated_database: str) -> None:
    migrate(migrated_database)  # also after one of those below
    assert list(Energy(migrated_database).problems()) == []


@pytest.mark.parametrize(
    "planted",
    [
        # one in a template and one in a file show that the oracle is asked at all
        pytest.param(planted, id=planted.name, marks=[] if number % 18 == 0 else pytest.mark.long)
        for number, planted in enumerate(BUGS)
    ],
)
def test_oracle__planted_bug__is_found(
    migrated_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: Bug
) -> None:
    sql = shutil.copytree(paths.resource("sql"), tmp_path / "sql")
    (sql / "code" / "999_planted.sql").write_text("-- so that all is applied anew")
    for place in planted.place:
        if place.endswith(".sql"):
            path = sql / "code" / place
            text = path.read_text()
            path.write_text(text.replace(planted.old, planted.new))
        else:
            module = steps if hasattr(steps, place) else templates
            text = getattr(module, place)
            parts = text if isinstance(text, dict) else {"": text}
            wrong = {name: part.replace(planted.old, planted.new) for name, part in parts.items()}
            monkeypatch.setattr(module, place, wrong if isinstance(text, dict) else wrong[""])
            text = "".join(parts.values())
        assert planted.old in text, "the SQL has changed: plant the bug anew"
    migrate(migrated_database, sql=sql)
    try:
        found = next(Energy(migrated_database).problems(), None)
    except UniqueViolation as error:
        found = str(error)  # a row came out twice, and the tables' keys refuse that
    assert found, "nobody noticed"
