"""Forecasts beside what was measured, against a slow reading of all that was issued."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ai_hub.db.refresh import refresh
from ai_hub.errors import NotFoundError
from ai_hub.forecasting import log
from ai_hub.forecasting.accuracy import accuracy, picture
from ai_hub.forecasting.log import Grid, Role, Run

if TYPE_CHECKING:
    from psycopg import Connection

HOUR = timedelta(hours=1)
#: in the night of the clock change of Berlin, months before any retention
START = datetime(2026, 3, 28, 20, tzinfo=UTC)
NOW = START + 30 * HOUR + timedelta(minutes=20)
END = START + 40 * HOUR


@pytest.fixture
def actual(database: str, connection: Connection[Any], tenant: str) -> dict[datetime, float]:
    """Values of meter `a` by hour, with a gap; those of another tenant's `a` are others."""
    drawn = np.random.default_rng(3).uniform(-5, 50, 30).tolist()
    values = {START + hour * HOUR: value for hour, value in enumerate(drawn) if hour not in {7, 8}}
    for owner, shift in ((tenant, 0.0), (f"{tenant}-other", 1000.0)):
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, unit, timezone)"
            " VALUES (%s, 'a', 'kW', 'Europe/Berlin')",
            [owner],
        )
        for hour, value in values.items():
            connection.execute(
                "INSERT INTO timeseries_data (timestamp, tenant_id, asset_id, value, interval_seconds)"
                " VALUES (%s, %s, 'a', %s, 3600)",
                [hour, owner, value + shift],
            )
    refresh(dsn=database)
    return values


def issue(
    connection: Connection[Any], tenant: str, at: datetime, seed: int, **fields: Any
) -> tuple[Run, Grid]:
    recorded_at = fields.pop("recorded_at", None)
    run = Run(
        tenant,
        fields.pop("model", "day-ahead"),
        3,
        "v1.0.2",
        "ab" * 32,
        fields.pop("role", Role.LIVE),
        issued_at=at,
        known_at=at,
        step=fields.pop("step", HOUR),
        horizon=24 * HOUR,
        assets=("b", "a"),
        unit=fields.pop("unit", "kW"),
    )
    drawn = np.random.default_rng(seed)
    values = drawn.normal(20, 10, (2, run.leads))
    values[1, seed % run.leads] = np.nan
    grid = Grid(values, {} if seed % 3 == 0 else {0.1: values - 4, 0.9: values + 4})
    log.write(connection, run, grid)
    # the log is only added to, with the time of writing
    connection.execute("SET session_replication_role = replica")
    connection.execute(
        "UPDATE forecast_runs SET recorded_at = %s WHERE run_id = %s",
        [recorded_at or at + HOUR / 2, run.run_id],
    )
    connection.execute("SET session_replication_role = DEFAULT")
    return run, grid


@pytest.mark.parametrize("lead", [0, 6])
def test_accuracy__of_random_issues__is_that_of_a_slow_reading(
    connection: Connection[Any], tenant: str, actual: dict[datetime, float], lead: int
) -> None:
    issues = [
        (START - 10 * HOUR, 1),
        (START, 3),
        (START + 6 * HOUR, 5),
        (START + 6 * HOUR, 8),
        (START + 20 * HOUR, 10),
    ]
    made = [issue(connection, tenant, at, seed) for at, seed in issues]
    late = START + 9 * HOUR
    issue(connection, tenant, START + 7 * HOUR, 19, recorded_at=late)
    issue(connection, tenant, START + 7 * HOUR, 20, role=Role.SHADOW)
    issue(connection, tenant, START + 7 * HOUR, 21, unit="W")
    issue(connection, tenant, START + 7 * HOUR, 22, step=2 * HOUR)
    issue(connection, tenant, START + 7 * HOUR, 23, model="another")
    issue(connection, f"{tenant}-other", START + 7 * HOUR, 24)

    found = accuracy(connection, tenant, "a", START, END, now=NOW, lead=lead * HOUR, model="day-ahead")

    assert (found.asset, found.unit, found.timezone) == ("a", "kW", "Europe/Berlin")
    values: dict[tuple[datetime, datetime], tuple[float, ...]] = {}
    for run, grid in reversed(made):  # the first run of an issue counts
        for number in range(run.leads):
            target = run.issued_at + number * HOUR
            value = grid.values[1, number]
            if START <= target < END and not np.isnan(value):
                values[target, run.issued_at] = (
                    value,
                    *(grid.quantiles[each][1, number] for each in grid.quantiles),
                )
    expected = {}
    for hour in (START + number * HOUR for number in range(40)):
        before = [at for target, at in values if target == hour and at <= hour - lead * HOUR]
        if before or hour in actual:
            expected[hour] = (actual.get(hour), values[hour, max(before)] if before else None)
    assert [each.hour for each in found.hours] == list(expected)
    for each in found.hours:
        value, forecast = expected[each.hour]
        assert each.actual == (None if value is None else pytest.approx(value, rel=1e-12))
        assert each.value == (forecast[0] if forecast else None)
        band = tuple(forecast[1:]) if forecast else ()
        assert (each.q10, each.q90) == (band or (None, None))


@pytest.mark.usefixtures("actual")
def test_accuracy__of_quarter_hours__is_that_of_whole_hours(connection: Connection[Any], tenant: str) -> None:
    run, grid = issue(connection, tenant, START + HOUR / 2, 4, step=HOUR / 4, recorded_at=START + 0.75 * HOUR)
    found = accuracy(connection, tenant, "a", START, END, now=NOW)
    quarters = {run.issued_at + number * run.step: value for number, value in enumerate(grid.values[1])}
    expected = {}
    for hour in {each.replace(minute=0) for each in quarters}:
        values = [quarters.get(hour + number * run.step, np.nan) for number in range(4)]
        if not np.isnan(values).any():
            expected[hour] = pytest.approx(fmean(values))
    assert len(expected) > 20
    assert {each.hour: each.value for each in found.hours if each.value is not None} == expected
    assert all(each.q10 is None for each in found.hours)


def test_accuracy__of_an_hour_under_way__has_no_actual_value(
    connection: Connection[Any], tenant: str, actual: dict[datetime, float]
) -> None:
    found = accuracy(connection, tenant, "a", START, END, now=START + 5.5 * HOUR)
    assert [each.hour for each in found.hours] == list(actual)[:5]
    assert all(later - earlier == HOUR for earlier, later in pairwise(each.hour for each in found.hours))


def test_accuracy__of_an_unknown_asset__says_so(connection: Connection[Any], tenant: str) -> None:
    with pytest.raises(NotFoundError, match="has no asset zz"):
        accuracy(connection, tenant, "zz", START, END, now=NOW)


def test_picture__has_the_forecast_beside_the_actual_values(
    connection: Connection[Any], tenant: str, actual: dict[datetime, float]
) -> None:
    issue(connection, tenant, START + 20 * HOUR, 2)
    figure = picture(accuracy(connection, tenant, "a", START, END, now=NOW), NOW)
    (axes,) = figure.axes
    lines = {line.get_label(): np.array(line.get_ydata(), float) for line in axes.get_lines()}
    assert np.isfinite(lines["actual"]).sum() == len(actual)
    assert np.isfinite(lines["forecast"]).sum() == 19
    assert axes.get_ylabel() == "kW"
