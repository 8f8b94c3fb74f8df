"""Scores that refreshes keep, against pandas over all that was issued and measured."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ai_hub import paths
from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.forecasting import By, log
from ai_hub.forecasting.accuracy import LiveScores, live_scores
from ai_hub.forecasting.log import Grid, Role, Run
from ai_hub.ingest import removal

if TYPE_CHECKING:
    from psycopg import Connection

HOUR = timedelta(hours=1)
#: the days around the clock change of Berlin
START = datetime(2026, 10, 23, 5, tzinfo=UTC)
HOURS = 96
ASSETS = ("a", "b")
SETTLED_BEFORE = date(2026, 10, 25)


SEASONS = (24 * HOUR, 168 * HOUR)


def earlier(target: datetime) -> list[datetime]:
    return [target - number * 24 * HOUR for number in range(1, 60)]


def naive(
    values: dict[datetime, float | None], target: datetime, known_at: datetime, season: timedelta
) -> float:
    """The newest value of an hour that had ended by then, seasons before; three gaps are passed over."""
    at = target - season
    while at + HOUR > known_at:
        at -= season
    found = [value for number in range(4) if (value := values.get(at - number * season)) is not None]
    return found[0] if found else np.nan


def pinball(quantiles: dict[float, float], actual: float) -> float:
    """Mean over the quantiles; NaN: there are none."""
    losses = []
    for level, value in quantiles.items():
        losses.append(level * (actual - value) if actual >= value else (1 - level) * (value - actual))
    return float(np.mean(losses)) if losses else np.nan


class World:
    """Meters of a tenant and of another one, with what was issued for them."""

    def __init__(self, connection: Connection[Any], database: str, tenant: str, seed: int) -> None:
        self.connection, self.database, self.tenant = connection, database, tenant
        self.random = np.random.default_rng(seed)
        self.runs: list[tuple[Run, Grid, datetime]] = []
        for owner in (tenant, f"{tenant}-other"):
            for asset in ASSETS:
                connection.execute(
                    "INSERT INTO assets (tenant_id, asset_id, unit, timezone, interval_seconds)"
                    " VALUES (%s, %s, 'kW', 'Europe/Berlin', 3600)",
                    [owner, asset],
                )

    def measure(self, hours: list[int], *, owner: str = "") -> None:
        """Write or correct readings of both meters."""
        for hour in hours:
            for asset in ASSETS:
                self.connection.execute(
                    'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value, interval_seconds)'
                    ' VALUES (%s, %s, %s, %s, 3600) ON CONFLICT (tenant_id, asset_id, "timestamp")'
                    " DO UPDATE SET value = excluded.value",
                    [START + hour * HOUR, owner or self.tenant, asset, self.random.uniform(-5, 50)],
                )

    def delete(self, hours: list[int]) -> None:
        self.connection.execute(
            "DELETE FROM timeseries_data"
            " WHERE tenant_id = %s AND asset_id = 'a' AND \"timestamp\" = ANY (%s)",
            [self.tenant, [START + hour * HOUR for hour in hours]],
        )

    def issue(self, hour: int, *, owner: str = "", **fields: Any) -> None:
        at = START + hour * HOUR
        delay = fields.pop("delay", timedelta(minutes=20))
        step = fields.pop("step", HOUR)
        run = Run(
            owner or self.tenant,
            fields.pop("model", "day-ahead"),
            fields.pop("version", 3),
            "v1.0.2",
            "ab" * 32,
            fields.pop("role", Role.LIVE),
            issued_at=at,
            known_at=at,
            step=step,
            horizon=30 * HOUR,
            assets=ASSETS,
            unit=fields.pop("unit", "kW"),
        )
        values = self.random.normal(20, 15, (2, run.leads))
        values[self.random.random(values.shape) < 0.1] = np.nan
        width = self.random.choice([0.0, 10.0, 40.0], values.shape)
        bands = {0.1: values - width / 2, 0.5: values + 1e-3 * width, 0.9: values + width / 2}
        grid = Grid(values, bands if self.random.random() < 0.8 else {})
        log.write(self.connection, run, grid)
        # the log is only added to, with the time of writing
        self.connection.execute("SET session_replication_role = replica")
        self.connection.execute(
            "UPDATE forecast_runs SET recorded_at = %s WHERE run_id = %s", [at + delay, run.run_id]
        )
        self.connection.execute("SET session_replication_role = DEFAULT")
        if run.tenant == self.tenant:
            self.runs.append((run, grid, at + delay))

    def delay(self) -> timedelta:
        query = "SELECT DISTINCT available_after FROM assets WHERE tenant_id = %s"
        ((delay,),) = self.connection.execute(query, [self.tenant]).fetchall()
        return timedelta(0) + delay

    def expected(self) -> pd.DataFrame:
        """A row of each hour that was forecast in time and measured."""
        measured = {
            (asset, hour): value
            for asset, hour, value in self.connection.execute(
                'SELECT asset_id, "timestamp", value FROM timeseries_data WHERE tenant_id = %s', [self.tenant]
            )
        }
        delay = self.delay()
        rows = []
        counted = set()
        in_order = sorted(self.runs, key=lambda each: (each[2], each[0].run_id))
        newest_first = [each for each in reversed(in_order) if each[0].role is Role.BACKTEST]
        for run, grid, recorded in [*newest_first, *in_order]:
            in_time = run.role in {Role.REPLAY, Role.BACKTEST} or recorded < run.issued_at + 2 * run.step
            if run.unit != "kW" or not in_time:
                continue
            parts, values = HOUR // run.step, np.asarray(grid.values)
            for number, asset in enumerate(run.assets):
                for hour in range(run.leads // parts):
                    cut = slice(hour * parts, (hour + 1) * parts)
                    target = run.issued_at + hour * HOUR
                    if np.isnan(values[number, cut]).any() or (asset, target) not in measured:
                        continue
                    key = asset, target, run.model, run.role, run.issued_at
                    if run.role is not Role.LIVE:
                        key += (run.version,)
                    if key in counted:
                        continue
                    counted.add(key)
                    has_band = parts == 1 and bool(grid.quantiles)
                    low, high = (
                        grid.quantiles[level][number, hour] if has_band else np.nan for level in (0.1, 0.9)
                    )
                    actual = measured[asset, target]
                    levels = grid.quantiles if has_band else {}
                    known = {at: measured.get((asset, at)) for at in earlier(target)}
                    last = [naive(known, target, run.issued_at - delay, season) for season in SEASONS]
                    rows.append(
                        {
                            "model": run.model,
                            "role": run.role,
                            "version": str(run.version),
                            "asset": asset,
                            "day": str(target.date()),
                            "lead": str(hour // 6 * 6),
                            "error": values[number, cut].mean() - actual,
                            "actual": actual,
                            "band": has_band and (low < high or not low <= actual <= high),
                            "covered": has_band and low < high and low <= actual <= high,
                            "width": high - low,
                            "pinball": pinball({q: levels[q][number, hour] for q in levels}, actual),
                            "last_day": last[0] - actual,
                            "last_week": last[1] - actual,
                        }
                    )
        return pd.DataFrame(rows)

    def check(self, by: By, role: Role = Role.LIVE) -> list[LiveScores]:
        found = live_scores(self.connection, self.tenant, by, settled_before=SETTLED_BEFORE, role=role)
        rows = self.expected()
        groups = dict(list(rows[rows.role == role].groupby(["model", by.value])))
        assert {(each.model, each.of) for each in found} == set(groups)
        in_order = sorted(groups, key=lambda key: (key[0], int(key[1]) if key[1].isdigit() else key[1]))
        assert [(each.model, each.of) for each in found] == in_order
        for each in found:
            rows = groups[each.model, each.of]
            banded = rows[rows.band]
            assert each.hours == len(rows)
            assert each.provisional_hours == (rows.day >= str(SETTLED_BEFORE)).sum()
            assert each.mae == pytest.approx(rows.error.abs().mean(), rel=1e-12)
            assert each.rmse == pytest.approx((rows.error**2).mean() ** 0.5, rel=1e-12)
            assert each.bias == pytest.approx(rows.error.mean(), rel=1e-9, abs=1e-12)
            assert each.mae_over_mean == pytest.approx(rows.error.abs().sum() / rows.actual.abs().sum())
            if banded.empty:
                assert (each.coverage, each.width) == (None, None)
            else:
                assert each.coverage == pytest.approx(banded.covered.mean())
                assert each.width == pytest.approx(banded.width.mean())
            losses = rows.pinball.dropna()
            assert each.pinball == (None if losses.empty else pytest.approx(losses.mean()))
            compared = rows.dropna(subset=["last_day", "last_week"])
            if compared.empty:
                assert each.skill is None
            else:
                best = min(compared.last_day.abs().mean(), compared.last_week.abs().mean())
                assert each.skill == pytest.approx(1 - compared.error.abs().mean() / best, abs=1e-9)
        return found


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_scores__of_random_issues_and_late_corrected_and_deleted_readings__are_those_of_pandas(
    connection: Connection[Any], database: str, tenant: str, seed: int
) -> None:
    world = World(connection, database, tenant, seed)
    world.issue(-10)
    world.measure(list(range(30)))
    world.measure(list(range(60)), owner=f"{tenant}-other")
    refresh(dsn=database)
    assert world.check(By.VERSION)

    for hour in (0, 6, 6, 11, 30):  # two of one issue: the first counts
        world.issue(hour, version=3 + (hour > 10))
    world.issue(7, delay=3 * HOUR)
    world.issue(7, unit="W")
    world.issue(8, model="another")
    world.issue(8, role=Role.SHADOW, version=9)
    world.issue(8, role=Role.SHADOW, version=10)
    for hour in (9, 9, 15):  # of backtests the newest counts
        world.issue(
            hour, role=Role.BACKTEST, version=None, model="tried", delay=(90 * 24 + len(world.runs)) * HOUR
        )
    world.issue(9, role=Role.REPLAY, delay=90 * 24 * HOUR)
    world.issue(12, step=HOUR / 4, model="quarters", delay=timedelta(minutes=1))
    world.issue(5, owner=f"{tenant}-other")
    refresh(dsn=database)
    for by in By:
        world.check(by)
    assert len(world.check(By.VERSION, Role.SHADOW)) == 2

    late = world.random.permutation(np.arange(30, HOURS)).tolist()
    for hours in (late[:20], late[20:45], late[45:]):
        world.measure(hours)
        refresh(dsn=database)
        world.check(By.DAY)
    world.measure([3, 40, 41])
    world.delete([12, 44])
    refresh(dsn=database)
    for by in By:
        world.check(by)
    # naive forecasts of what was scored long ago
    world.measure(world.random.permutation(np.arange(-50 * 24, 0))[:700].tolist())
    refresh(dsn=database)
    assert all(each.skill is not None for each in world.check(By.LEAD))
    world.measure([-7 * 24 + 3, -20, 5])
    world.delete([-26, -3, -8 * 24, 1])
    refresh(dsn=database)
    world.check(By.DAY)
    connection.execute("UPDATE assets SET available_after = '31 hours' WHERE tenant_id = %s", [tenant])
    refresh(dsn=database)
    world.check(By.DAY)
    world.measure([-4 * 24 + 2, -15, 20])
    world.delete([-2, 8])
    refresh(dsn=database)
    world.check(By.DAY)
    for role in Role:
        assert world.check(By.LEAD, role)
    with as_tenant(connection, f"{tenant}-other"):
        foreign = connection.execute("SELECT DISTINCT tenant_id FROM forecast_scores").fetchall()
    assert foreign == [(f"{tenant}-other",)]


def test_scores__of_forecasts_that_retention_removed__stay(
    connection: Connection[Any], database: str, tenant: str
) -> None:
    world = World(connection, database, tenant, 5)
    world.issue(0)
    world.issue(3, model="kept")
    world.measure(list(range(20)))
    refresh(dsn=database)
    before = world.check(By.DAY)
    gone = world.runs.pop(0)[0]
    connection.execute("DELETE FROM forecasts WHERE run_id = %s", [gone.run_id])
    connection.execute("DELETE FROM forecast_runs WHERE run_id = %s", [gone.run_id])
    world.issue(6, model="kept")
    world.issue(1, role=Role.BACKTEST, version=None)
    world.measure([3])
    refresh(dsn=database)
    now = live_scores(connection, tenant, By.DAY, settled_before=SETTLED_BEFORE)
    # sums are the same up to the order of their rows
    assert [asdict(each) for each in now if each.model == "day-ahead"] == [
        pytest.approx(asdict(each)) for each in before if each.model == "day-ahead"
    ]
    assert [each for each in now if each.model == "kept"] != [each for each in before if each.model == "kept"]


def test_scores__in_another_unit__are_not_added(
    connection: Connection[Any], database: str, tenant: str
) -> None:
    world = World(connection, database, tenant, 9)
    world.issue(0)
    world.measure(list(range(20)))
    refresh(dsn=database)
    before = world.check(By.ASSET)
    assert [each.of for each in before] == ["a", "b"]
    for unit, expected in (("bar", ["b"]), ("kW", ["a", "b"])):
        connection.execute(
            "UPDATE assets SET unit = %s WHERE tenant_id = %s AND asset_id = 'a'", [unit, tenant]
        )
        refresh(dsn=database)
        found = live_scores(connection, tenant, By.ASSET, settled_before=SETTLED_BEFORE)
        assert [each.of for each in found] == expected
    # sums of the same in another order
    assert [asdict(each) for each in found] == [pytest.approx(asdict(each)) for each in before]


def test_scores__of_long_ranges_and_of_values_that_overflow__are_computed_in_parts(
    connection: Connection[Any], database: str, tenant: str
) -> None:
    world = World(connection, database, tenant, 10)
    world.issue(0)
    world.measure(list(range(40)))
    refresh(dsn=database)
    connection.execute("DELETE FROM forecast_scores WHERE tenant_id = %s", [tenant])
    connection.execute(
        "INSERT INTO forecast_scores_due SELECT tenant_id, asset_id, tstzrange(%s, %s) FROM assets"
        " WHERE tenant_id = %s",
        [START - 40 * 24 * HOUR, START + 10 * 24 * HOUR, tenant],
    )
    huge = f"{tenant}-other"
    world.issue(0, owner=huge)
    world.measure([2], owner=huge)
    connection.execute("SET session_replication_role = replica")
    connection.execute(
        "UPDATE forecasts SET value = 1e300, q10 = NULL, q90 = NULL"
        " WHERE value IS NOT NULL AND tenant_id = %s",
        [huge],
    )
    connection.execute("SET session_replication_role = DEFAULT")
    refresh(dsn=database)
    world.check(By.DAY)
    assert live_scores(connection, huge, By.DAY, settled_before=SETTLED_BEFORE) == []


def test_scores__what_is_due__is_what_has_changed(
    connection: Connection[Any], database: str, tenant: str
) -> None:
    world = World(connection, database, tenant, 6)

    def due() -> list[tuple[Any, ...]]:
        return connection.execute(
            "SELECT asset_id, lower(hours) FROM forecast_scores_due WHERE tenant_id = %s", [tenant]
        ).fetchall()

    world.measure(list(range(20)))
    refresh(dsn=database)
    world.issue(0)
    refresh(dsn=database)
    before = dict(
        connection.execute(
            "SELECT day, xmin::text FROM forecast_scores WHERE tenant_id = %s AND asset_id = 'a'", [tenant]
        ).fetchall()
    )
    assert due() == []
    world.measure([19])
    refresh(dsn=database)
    after = dict(
        connection.execute(
            "SELECT day, xmin::text FROM forecast_scores WHERE tenant_id = %s AND asset_id = 'a'", [tenant]
        ).fetchall()
    )
    changed = {day for day in after if after[day] != before.get(day)}
    assert changed == {START.date() + timedelta(days=1)}, "other days are left alone"


# an upgrade that is tried always: db/test_migrate.py
@pytest.mark.long
def test_scores__from_before_migration_0041__say_no_skill_until_they_are_computed_again(
    migrated_database: str, tenant: str
) -> None:
    with connect(migrated_database, autocommit=True) as connection:
        world = World(connection, migrated_database, tenant, 11)
        world.measure(list(range(-9 * 24, 40)))
        world.issue(0)
        refresh(dsn=migrated_database)
        before = world.check(By.ASSET)
        connection.execute(
            "DROP VIEW tenant_wall.forecast_scores; ALTER TABLE forecast_scores DROP quantiles, DROP pinball,"
            " DROP compared, DROP compared_absolute, DROP naive_day, DROP naive_week"
        )
        connection.execute((paths.resource("sql") / "migrations" / "0041_naive_scores.sql").read_bytes())
        found = live_scores(connection, tenant, By.ASSET, settled_before=SETTLED_BEFORE)
        assert found == [replace(each, pinball=None, skill=None) for each in before]
        refresh(dsn=migrated_database)
        after = world.check(By.ASSET)
        assert all(each.pinball is not None and each.skill is not None for each in after)


def test_scores__of_a_removed_asset__are_gone(
    connection: Connection[Any], database: str, tenant: str
) -> None:
    world = World(connection, database, tenant, 7)
    world.issue(0)
    world.measure(list(range(10)))
    refresh(dsn=database)
    removal.remove_asset(connection, tenant, "a", "test")
    assert {each.of for each in live_scores(connection, tenant, By.ASSET, settled_before=SETTLED_BEFORE)} == {
        "b"
    }


def test_scores_command__shows_and_refuses(
    connection: Connection[Any], database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMESCALE_DSN", database)
    world = World(connection, database, tenant, 8)

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["scores", "--tenant", tenant, *arguments])

    assert "There are no such scores" in call().output
    world.issue(0)
    world.measure(list(range(10)))
    refresh(dsn=database)
    shown = call()
    assert shown.exit_code == 0, shown.output
    assert "day-ahead" in shown.output
    (found,) = json.loads(call("--json", "--by", "version").output)
    (expected,) = world.check(By.VERSION)
    assert (found["of"], found["hours"], found["mae"]) == ("3", expected.hours, expected.mae)
    assert json.loads(call("--json", "--from", "2030-01-01").output) == []
    refused = call("--from", "2026-10-24", "--to", "2026-10-24")
    assert refused.exit_code
    assert "The range is empty" in str(refused.exception)
