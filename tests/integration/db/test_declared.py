# ruff: noqa: E501, S608 - SQL as it is sent
"""Declared views equal the oracle, now and as known earlier, whatever is declared and however data comes."""

from __future__ import annotations

import inspect
import secrets
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feast.aggregation import Aggregation
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracles.declared import DAY
from oracles.features import HOUR, Asset, Issue, Weather, floor_hour
from psycopg.errors import UndefinedFunction, UniqueViolation
from support.declared_views import applied, declare, differences, fill, is_pending
from support.feature_tables import now, write, write_series, write_weather
from support.properties import examples

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from feast_plugins.windows import (
    AssetAttribute,
    Calendar,
    DegreeHours,
    Difference,
    Holiday,
    Lag,
    Quantile,
    Ratio,
    SameHour,
    Series,
    SunPosition,
    columns,
    history,
    inputs,
    sources,
    steps,
    templates,
)
from feast_plugins.windows import (
    Weather as WeatherOf,
)
from feast_plugins.windows.features import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from feast_plugins.windows.declarations import Declaration

# a failing example is small anyway, and shrinking it would refresh the database for minutes
PROPERTY = settings(max_examples=examples(4), phases=[Phase.explicit, Phase.reuse, Phase.generate])

READ_WEATHER = st.sampled_from(["temperature", "humidity", "solar_irradiance"])
# what the meter of a drawn example has, and a series that is not there
SERIES = st.sampled_from(["price@price_zone", "price@price_zone", "load@tenant", "none@asset"])


def stored_features(step: timedelta) -> st.SearchStrategy[Any]:
    """Features of a view with this step that are stored."""
    steps = st.sampled_from([1, 2, 3, 7, 25] if step == DAY else [1, 2, 24, 25, 168, 500]).map(step.__mul__)
    few_steps = st.sampled_from([1, 3, 24]).map(step.__mul__)
    functions = st.sampled_from(FUNCTIONS)
    weeks = st.sampled_from([1, 7])
    leaves = st.one_of(
        st.builds(Lag, st.just("value"), steps),
        st.builds(Aggregation, st.just("value"), functions, steps, st.just(step)),
        st.builds(Quantile, st.just("value"), st.sampled_from([0, 0.1, 0.5, 1]), steps),
        st.builds(SameHour, st.just("value"), functions, st.integers(1, 8), weeks),
        st.builds(Series, st.just("price"), st.just("price_zone")),
        st.builds(Lag, SERIES, few_steps),
        st.builds(Aggregation, SERIES, functions, few_steps, st.just(step)),
        st.builds(SameHour, SERIES, functions, st.integers(1, 2)),
    )
    if step < DAY:
        columns = READ_WEATHER | st.just("value@group")
        hours = st.sampled_from([1, 3, 24]).map(HOUR.__mul__)
        leaves |= st.one_of(
            st.builds(Lag, columns, few_steps),
            st.builds(WeatherOf, READ_WEATHER),
            st.builds(Aggregation, columns, functions, few_steps, st.just(step)),
            st.builds(SameHour, columns, functions, st.integers(1, 2)),
            st.builds(
                DegreeHours, st.sampled_from([15, 18.5]), hours, st.sampled_from(["heating", "cooling"])
            ),
        )
    return leaves | st.builds(Difference, leaves, leaves) | st.builds(Ratio, leaves, leaves)


REGISTERED = st.sampled_from(
    [
        *(
            Calendar(part)
            for part in ("hour_of_day", "day_of_week", "day_of_year", "is_weekend", "local_time")
        ),
        *(AssetAttribute("capacity"), AssetAttribute("timezone"), Holiday("DE")),
        *(SunPosition("elevation"), SunPosition("azimuth")),
    ]
)
DECLARATIONS = st.sampled_from([HOUR / 4, HOUR / 2, HOUR, DAY]).flatmap(
    lambda step: st.builds(
        lambda stored, registered: (step, {f"f{at}": each for at, each in enumerate([*stored, *registered])}),
        st.lists(stored_features(step), min_size=1, max_size=8 if step >= HOUR else 3),
        st.lists(REGISTERED, max_size=3),
    )
)
ATTRIBUTES = {"capacity": 12.5, "latitude": 52.5, "longitude": 13.4}
ANCHORS = st.sampled_from(
    [
        # weather older than a year may be gone, and the nights in which clocks go back and forth in Europe
        lambda: datetime(2025, 10, 24, 20, tzinfo=UTC),
        lambda: datetime(2026, 3, 27, 20, tzinfo=UTC),
        lambda: floor_hour(datetime.now(UTC)) - timedelta(days=92),
        lambda: floor_hour(datetime.now(UTC)) - timedelta(hours=150),
    ]
)
OFFSETS = st.integers(0, 12 * 160).map(lambda step: timedelta(minutes=5 * step))
READINGS = st.dictionaries(OFFSETS, st.floats(-1e3, 1e3, allow_subnormal=False), min_size=1, max_size=30)
WEATHER = st.dictionaries(
    st.tuples(OFFSETS, st.integers(-30, 5)),
    st.tuples(*[st.none() | st.floats(0, 50, allow_subnormal=False)] * 3),
    max_size=8,
)
ISSUES = st.dictionaries(
    st.tuples(OFFSETS, st.integers(-30, 5)), st.floats(-1e3, 1e3, allow_subnormal=False), max_size=20
)


@PROPERTY
@given(
    declared_view=DECLARATIONS,
    anchor=ANCHORS,
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Europe/London", "Asia/Kolkata", "Atlantic/Azores"]),
    first=READINGS,
    late=READINGS,
    other=READINGS,
    weather=WEATHER,
    late_weather=WEATHER,
    prices=ISSUES,
    late_prices=ISSUES,
    member=READINGS,
    deleted=st.sets(OFFSETS, max_size=5),
)
def test_declared_view__any_declaration_and_data__equals_the_oracle(
    database: str,
    declared_view: tuple[timedelta, dict[str, Any]],
    anchor: Any,
    zone: str,
    first: dict[timedelta, float],
    late: dict[timedelta, float],
    other: dict[timedelta, float],
    weather: dict[Any, Any],
    late_weather: dict[Any, Any],
    prices: dict[Any, float],
    late_prices: dict[Any, float],
    member: dict[timedelta, float],
    deleted: set[timedelta],
) -> None:
    start, tenant = anchor(), f"t-{secrets.token_hex(5)}"
    neighbour = f"{tenant}-x"
    mine, theirs, annex = Asset(zone), Asset("UTC"), Asset("UTC")
    mine.others = [annex]
    step, features = declared_view
    declaration = declare(f"drawn_{secrets.token_hex(4)}", features, step)
    attributes = ATTRIBUTES | {"timezone": zone}

    def add_weather(rows: dict[Any, Any]) -> None:
        known = {(each.valid_at, each.available_at) for each in mine.weather}
        new = [
            Weather(start + offset, start + offset + lead * HOUR, *values)
            for (offset, lead), values in rows.items()
        ]
        mine.weather += [each for each in new if (each.valid_at, each.available_at) not in known]
        if new:
            write_weather(connection, tenant, "meter", new)

    def check(known: Asset = mine, *, known_at: datetime | None = None) -> None:
        found = differences(
            connection, declaration, tenant, "meter", known, attributes=attributes, known_at=known_at
        )
        assert list(found) == []

    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        connection.execute(
            'INSERT INTO assets (tenant_id, asset_id, timezone, capacity, latitude, longitude, price_zone, "group")'
            " VALUES (%s, 'meter', %s, 12.5, 52.5, 13.4, 'NL', 'north'),"
            " (%s, 'annex', 'UTC', NULL, NULL, NULL, NULL, 'north')",
            [tenant, zone, tenant],
        )
        mine.readings |= {start + offset: value for offset, value in first.items()}
        write(connection, tenant, "meter", mine.readings)
        add_weather(weather)
        issue(connection, tenant, mine, start, prices)
        refresh(dsn=database)
        check()  # rows that the change reached are stored, the others are computed when they are read
        fill(connection, declaration)
        refresh(dsn=database)
        assert not is_pending(connection, declaration)
        check()
        past = [(now(connection), deepcopy(mine))]
        corrected = {start + offset: value for offset, value in late.items()}
        mine.readings |= corrected
        write(connection, tenant, "meter", corrected)
        add_weather(late_weather)
        issue(connection, tenant, mine, start, late_prices)
        annex.readings |= {start + offset: value for offset, value in member.items()}
        write(connection, tenant, "annex", annex.readings)
        theirs.readings |= {start + offset: value for offset, value in other.items()}
        write(connection, neighbour, "meter", theirs.readings)
        gone = [start + offset for offset in deleted]
        mine.readings = {time: value for time, value in mine.readings.items() if time not in gone}
        connection.execute(
            'DELETE FROM timeseries_data WHERE tenant_id = %s AND "timestamp" = ANY (%s)', [tenant, gone]
        )
        refresh(dsn=database)
        check(mine)
        past.append((now(connection), deepcopy(mine)))
        for time, known in past:
            check(known, known_at=time)
        their = differences(
            connection,
            declaration,
            neighbour,
            "meter",
            theirs,
            attributes={"timezone": "UTC", "capacity": None},
        )
        if not any(isinstance(each, AssetAttribute) for each in features.values()):  # they are not registered
            assert list(their) == []


def issue(
    connection: psycopg.Connection, tenant: str, asset: Asset, start: datetime, drawn: dict[Any, float]
) -> None:
    """Write drawn values of two external series; one with a known time and issue replaces that."""
    new = {(start + offset, start + offset + lead * HOUR): value for (offset, lead), value in drawn.items()}
    issues = [Issue(*times, value) for times, value in new.items()]
    for column, zone in (("price@price_zone", "NL"), ("load@tenant", "")):
        kept = [
            each for each in asset.series.get(column, []) if (each.valid_at, each.available_at) not in new
        ]
        asset.series[column] = kept + issues
        write_series(connection, tenant, column.partition("@")[0], zone, issues)


EVERY_KIND = {
    "lag_48h": Lag("value", 48 * HOUR),
    "mean_3d": Aggregation("value", "mean", timedelta(days=3), HOUR),
    "deviation": Aggregation("value", "std", timedelta(days=1), HOUR),
    "least": Aggregation("value", "min", timedelta(days=1), HOUR),
    "total": Aggregation("value", "sum", timedelta(days=2), HOUR),
    "count": Aggregation("value", "count", timedelta(days=1), HOUR),
    "first": Aggregation("value", "first", timedelta(days=1), HOUR),
    "last": Aggregation("value", "last", timedelta(days=1), HOUR),
    "median": Quantile("value", 0.5, timedelta(days=1)),
    "same_hour": SameHour("value", "mean", 3),
    "rise": Difference(Lag("value", HOUR), Lag("value", 24 * HOUR)),
    "share": Ratio(Lag("value", HOUR), Aggregation("value", "max", timedelta(days=1), HOUR)),
    "temperature": WeatherOf("temperature"),
    "warmest": Aggregation("temperature", "max", timedelta(hours=6), HOUR),
    "heating": DegreeHours(18, timedelta(hours=3)),
    "hour_of_day": Calendar("hour_of_day"),
    "day_of_week": Calendar("day_of_week"),
    "holiday": Holiday("DE"),
    "capacity": AssetAttribute("capacity"),
    "elevation": SunPosition("elevation"),
    "azimuth": SunPosition("azimuth"),
    "price": Series("price", by="price_zone"),
    "price_before": Lag("price@price_zone", 24 * HOUR),
    "highest_price": Aggregation("price@price_zone", "max", timedelta(hours=5), HOUR),
    "mean_price": SameHour("price@price_zone", "mean", 2),
    "load": Series("load"),
    "forecast": Aggregation("forecast@asset", "mean", timedelta(hours=8), HOUR),
    "portfolio": Lag("value@group", 24 * HOUR),
    "portfolio_mean": Aggregation("value@group", "mean", timedelta(hours=12), HOUR),
}


class Meter:
    """A meter in Berlin with gaps, late, corrected and deleted readings, and a neighbour of the same name."""

    def __init__(self, connection: psycopg.Connection, dsn: str, readings: int = 3 * 80) -> None:
        self.connection, self.dsn = connection, dsn
        self.tenant, self.neighbour = (f"t-{secrets.token_hex(5)}" for _ in range(2))
        self.mine, self.theirs = Asset("Europe/Berlin"), Asset("UTC")
        # three days over a Saturday's midnight and German Unity Day, and within a year
        self.start = START
        self.issues: list[tuple[str, str, str, Issue]] = []
        for step in range(readings):
            if not 30 <= step < 42:
                self.mine.readings[self.start + step * HOUR / 3] = 100 + (step * 37 % 11) ** 1.5
            self.theirs.readings[self.start + step * HOUR / 3] = 1e6 + step
        for step, (lead, value) in enumerate([(0, 5.0), (-3, 16.0), (2, 7.0), (0, 18.0), (-1, 9.0)]):
            valid_at = self.start + (2 + 9 * step) * HOUR
            self.mine.weather.append(Weather(valid_at, valid_at + lead * HOUR, value))
            self.mine.weather.append(Weather(valid_at + 3 * HOUR, valid_at, None, 40.0, 100.0))
            self.theirs.weather.append(Weather(valid_at + HOUR, valid_at, value + 1000))
        # prices of the day before, one issued too late, one corrected; quarter-hours; a load that comes an hour late
        for step in range(80):
            at = self.start + step * HOUR
            self.issue("price@price_zone", "NL", at, -12, 40 + step * 7 % 31)
            if step % 3 == 0:
                self.issue("price@price_zone", "NL", at + HOUR / 4, -12, 90 + step)
                self.issue("price@price_zone", "NL", at, -3, 60 + step % 5)
            self.issue("price@price_zone", "NL", at + HOUR / 2, 2, 500)
            self.issue("load@tenant", "", at, 1, 1000 + step)
            self.issue("load@tenant", "", at, -30, 900 + step)
            self.issue("forecast@asset", "meter", at, -5 if step % 2 else 5, 10 * step)
        annex = Asset("UTC", {self.start + (9 + step) * HOUR: 3.0 + step % 4 for step in range(60)})
        del annex.readings[self.start + 33 * HOUR]
        self.annex, self.mine.others, self.theirs.others = annex, [annex], []

    def issue(self, column: str, zone: str, at: datetime, lead: float, value: float) -> None:
        """Of a series of the meter; the neighbour's, and that of another zone, are larger."""
        name, issue = column.partition("@")[0], Issue(at, at + lead * HOUR, float(value))
        theirs = Issue(at, at + lead * HOUR, value + 1e5)
        for asset, written in ((self.mine, issue), (self.theirs, theirs)):
            stored = asset.series.setdefault(column, [])
            key = (issue.valid_at, issue.available_at)
            stored[:] = [each for each in stored if (each.valid_at, each.available_at) != key] + [written]
        self.issues += [(self.tenant, name, zone, issue), (self.neighbour, name, zone, theirs)]
        self.issues.append((self.tenant, name, "elsewhere", theirs))

    def write_issues(self) -> None:
        for tenant, name, zone in {each[:3] for each in self.issues}:
            write_series(
                self.connection,
                *(tenant, name, zone, [each[3] for each in self.issues if each[:3] == (tenant, name, zone)]),
            )
        self.issues.clear()

    def problems(self, declaration: Declaration) -> Iterator[str]:
        """How the view differs from the oracle, step by step."""
        of = self.connection
        for tenant, zone in ((self.tenant, "Europe/Berlin"), (self.neighbour, "UTC")):
            of.execute(
                'INSERT INTO assets (tenant_id, asset_id, timezone, capacity, latitude, longitude, price_zone, "group")'
                " VALUES (%s, 'meter', %s, 12.5, 52.5, 13.4, 'NL', 'north')",
                [tenant, zone],
            )
        of.execute(
            "INSERT INTO assets (tenant_id, asset_id, \"group\") VALUES (%(t)s, 'annex', 'north'), (%(t)s, 'far', 'south')",
            {"t": self.tenant},
        )
        write(of, self.tenant, "annex", self.annex.readings)
        write(of, self.tenant, "far", dict.fromkeys(self.annex.readings, 1e7))
        self.write_issues()
        for tenant, asset in ((self.tenant, self.mine), (self.neighbour, self.theirs)):
            write(of, tenant, "meter", asset.readings)
            write_weather(of, tenant, "meter", asset.weather)
        # readings below an aggregate's watermark show after its refresh
        of.execute("CALL refresh_feature_aggregates(NULL, NULL, false)")
        yield from self.differences(declaration)
        fill(of, declaration)
        refresh(dsn=self.dsn)
        if is_pending(of, declaration):
            yield "rows that cannot be stored"
        yield from self.differences(declaration)
        then, known = now(of), deepcopy(self.mine)
        self.issue("price@price_zone", "NL", self.start + 50 * HOUR, -12, -7.0)
        self.issue("price@price_zone", "NL", self.start + 60 * HOUR, -1, 61.5)
        self.issue("load@tenant", "", self.start + 61 * HOUR, -1, 1.5)
        self.write_issues()
        self.annex.readings |= (members := {self.start + 33 * HOUR: 8.0, self.start + 5 * HOUR: 9.0})
        write(of, self.tenant, "annex", members)
        late = {self.start + 11 * HOUR: 500.0, self.start + 20 * HOUR: 700.0}
        self.mine.readings |= late
        write(of, self.tenant, "meter", late)
        colder = Weather(self.start + 40 * HOUR, self.start + 30 * HOUR, -5.0)
        self.mine.weather.append(colder)
        write_weather(of, self.tenant, "meter", [colder])
        deleted = [time for time in self.mine.readings if time < self.start + 2 * HOUR]
        for time in deleted:
            del self.mine.readings[time]
        of.execute(
            'DELETE FROM timeseries_data WHERE tenant_id = %s AND "timestamp" = ANY (%s)',
            [self.tenant, deleted],
        )
        refresh(dsn=self.dsn)
        yield from self.differences(declaration)
        yield from differences(
            of, declaration, self.tenant, "meter", known, attributes=ATTRIBUTES, known_at=then
        )

    def differences(self, declaration: Declaration) -> Iterator[str]:
        for tenant, asset in ((self.tenant, self.mine), (self.neighbour, self.theirs)):
            yield from differences(
                self.connection, declaration, tenant, "meter", asset, attributes=ATTRIBUTES
            )

    def rows(self, declaration: Declaration) -> list[tuple[Any, ...]]:
        """The present rows of its tenant, whenever they were created."""
        names = ", ".join(f'"{name}"' for name in ("event_timestamp", "asset_id", *declaration.features))
        query = (
            f"SELECT {names} FROM {declaration.name} WHERE tenant_id = %s ORDER BY event_timestamp, asset_id"
        )
        return self.connection.execute(query.encode(), [self.tenant]).fetchall()

    def forget_rows(self, declaration: Declaration) -> None:
        """Let them be computed when they are read."""
        for table in ("declared_spans", f"{declaration.name}_stored"):
            self.connection.execute(f"DELETE FROM {table} WHERE tenant_id = %s".encode(), [self.tenant])


#: A Friday before German Unity Day (a Saturday); readings, and rows, are of three days.
START = datetime(2026, 10, 1, 21, tzinfo=UTC)
#: A day's rows are few, a quarter hour's many; ranges of two days and more are computed in columns.
READINGS_OF = {HOUR / 4: 3 * 26, HOUR / 2: 3 * 26, HOUR: 3 * 80, DAY: 3 * 24 * 12}


def problems(database: str, step: timedelta = HOUR, features: dict[str, Any] | None = None) -> Iterator[str]:
    declaration = declare(f"planted_{secrets.token_hex(4)}", features or kinds(step), step)
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        yield from Meter(connection, database, READINGS_OF[step]).problems(declaration)


def kinds(step: timedelta) -> dict[str, Any]:
    """Every kind of feature that there can be with this step."""
    if step == HOUR:
        return EVERY_KIND
    features: dict[str, Any] = {
        "lag": Lag("value", step),
        "lag_2d": Lag("value", 2 * DAY),
        **{
            f"{function}_of_window": Aggregation("value", function, timedelta(days=1), step)
            for function in FUNCTIONS
        },
        "weeks": SameHour("value", "mean", 1, every=7),
        "same_time": SameHour("value", "mean", 3),
        "rise": Difference(Lag("value", step), Lag("value", DAY)),
        "share": Ratio(Lag("value", step), Aggregation("value", "max", 2 * DAY, step)),
        "day_of_week": Calendar("day_of_week"),
        "holiday": Holiday("DE"),
        "capacity": AssetAttribute("capacity"),
        "price": Series("price", by="price_zone"),
        "price_before": Lag("price@price_zone", DAY),
        "highest_price": Aggregation("price@price_zone", "max", 4 * step, step),
    }
    if step < HOUR:
        features |= {
            "portfolio": Aggregation("value@group", "mean", 2 * HOUR, step),
            "temperature": WeatherOf("temperature"),
            "warmth": Aggregation("temperature", "sum", 6 * HOUR, step),
            "coldest": SameHour("temperature", "min", 1),
            "heating": DegreeHours(18, 3 * HOUR),
        }
    return features


def quantiles(step: timedelta) -> dict[str, Any]:
    """Quantiles of every source that there is with this step."""
    features: dict[str, Any] = {
        **{f"of_{share * 100:g}": Quantile("value", share, 25 * step) for share in (0, 0.1, 0.5, 0.95, 1)},
        "middle_price": Quantile("price@price_zone", 0.5, 4 * step),
        "over_median": Difference(Lag("value", step), Quantile("value", 0.5, 3 * step)),
    }
    if step < DAY:
        features |= {
            "cold": Quantile("temperature", 0.25, 6 * step),
            "high_portfolio": Quantile("value@group", 0.9, 4 * step),
        }
    return features


#: By step in minutes.
FAULTS_OF_STEPS = {
    "quarter hours of all tenants": (15, "_QUARTERS", "quarters.tenant_id = k.tenant_id AND ", ""),
    "half hours are hours": (30, "_MERGED_COLUMNS", "{begin} AS hour", "time_bucket(INTERVAL '1 hour', quarter) AS hour"),
    "a half hour's first reading": (30, "_MERGED_COLUMNS", "max(max_value)", "min(max_value)"),
    "an hourly price of one quarter-hour alone": (15, "SERIES_IN_HOURS", "WHEN is_regular", "WHEN false"),
    "days of UTC": (1440, "ASSET_COLUMNS", "coalesce(assets.timezone, 'UTC') AS timezone", "'UTC' AS timezone"),
}  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=name, marks=[] if number == 0 else pytest.mark.long)
        for number, (name, fault) in enumerate(FAULTS_OF_STEPS.items())
    ],
)
def test_oracle__fault_in_a_step__is_found(
    database: str, monkeypatch: pytest.MonkeyPatch, fault: tuple[int, str, str, str]
) -> None:
    minutes, *planted = fault
    plant(monkeypatch, *planted)
    monkeypatch.setattr(history, "knows", lambda _: False)
    try:
        found = next(problems(database, timedelta(minutes=minutes)), None)
    except UniqueViolation as error:
        found = str(error)
    assert found, "nobody noticed"


#: The same in what is computed in columns: minutes of the step, module and code, or the name of its template.
FAULTS_IN_COLUMNS = {
    "of one tenant": (60, inputs, "", '"tenants": [each.tenant for _, each in parts]', '"tenants": [parts[0][1].tenant for _ in parts]'),
    "with weather of all tenants": (60, inputs, "_WEATHER_ROWS", "weather.tenant_id = k.tenant_id AND ", ""),
    "with weather from before it was available": (60, inputs, "_WEATHER_ROWS", "weather.available_at, {columns}", 'weather."timestamp", {columns}'),
    "of an hour too early": (60, columns, "", "starts = column.rows - leaf.offsets()[1]", "starts = column.rows - leaf.offsets()[1] - 1"),
    "of the wrong hours of the day": (60, columns, "", "stride = leaf.step if", "stride = leaf.step - 1 if"),
    "with the newer of two states": (60, columns, "", "weight += other_weight", "weight[:] = other_weight"),
    "with series of all tenants": (60, inputs, "_ISSUES", "issues.tenant_id = k.tenant_id AND ", ""),
    "with series of all zones": (60, inputs, "_ISSUES", " AND issues.zone = k.asset_id", ""),
    "with series from before they were available": (60, columns, "", "np.maximum(since + of_hour, nearest)", "np.full_like(since, nearest)"),
    "with series as rows later know them": (60, columns, "", "column[positions[done:start]] = before[done:start]", "pass"),
    "with the sum of a series": (60, columns, "", "what = (total / weight).ravel()", "what = total.ravel()"),
    "with totals of all tenants": (60, inputs, "_MEMBERS", "members.tenant_id = k.tenant_id AND ", ""),
    "with totals of all groups": (60, inputs, "_MEMBERS", ' AND members."group" = k.asset_id', ""),
    "with a part of a total": (60, inputs, "", "(members == values)", "True"),
    "with a member before it began": (60, inputs, "", "max(whole.first, begun * 1_000_000 // self._step_us)", "whole.first"),
    "with sums of quarter hours": (15, columns, "", "hours = declaration.step / HOUR", "hours = 1.0"),
    "with an hourly price of one quarter-hour alone": (15, columns, "", "np.where(is_regular, lasting, own)", "own"),
    "with days of UTC": (1440, history, "_RANGES", "coalesce(assets.timezone, 'UTC')", "'UTC'"),
    "with prices of a day as the next one knows them": (1440, steps, "", "({begin} < {time})::integer", "0"),
    "with another quantile": (60, columns, "", "leaf.quantile * (known - 1)", "0.8 * (known - 1)"),
}  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        # one shows that the oracle is asked at all
        pytest.param(fault, id=name, marks=pytest.mark.long if number else [])
        for number, (name, fault) in enumerate(FAULTS_IN_COLUMNS.items())
    ],
)
def test_oracle__fault_in_columns__is_found(
    database: str, monkeypatch: pytest.MonkeyPatch, fault: tuple[int, Any, str, str, str]
) -> None:
    minutes, module, template, old, new = fault
    source = getattr(module, template) if template else inspect.getsource(module)
    assert old in source, "the code has changed: plant the fault anew"
    if template:
        monkeypatch.setattr(module, template, source.replace(old, new))
    else:
        planted: dict[str, Any] = {"__name__": module.__name__}
        exec(compile(source.replace(old, new), module.__file__, "exec"), planted)  # noqa: S102
        for user in (history, inputs):
            for name, each in vars(user).copy().items():
                if getattr(each, "__module__", "") == module.__name__:
                    monkeypatch.setattr(user, name, planted[name])
    monkeypatch.setattr(history, "_BY_SERVER", "SELECT not_left_to_the_server()")
    monkeypatch.setattr("ai_hub.db.refresh.SESSIONS", 1)  # both tenants in a batch
    try:
        found = next(problems(database, timedelta(minutes=minutes)), None)
    except UndefinedFunction as error:
        found = str(error)
    assert found, "nobody noticed"


#: What is planted: the template of the generator, the text in it, and what stands in its place.
FAULTS = {
    "a window of 23 hours": ("WINDOW", "BETWEEN {nearest}", "BETWEEN 1 + {nearest}"),
    "the hour before is that of the row": ("READINGS", "{ago} AS ago", "{ago} - 1 AS ago"),
    "readings of all tenants": ("_HOURS", "hourly.tenant_id = k.tenant_id AND ", ""),
    "weather of all tenants": ("WEATHER", "weather.tenant_id = k.tenant_id AND ", ""),
    "weather before it was available": ("WEATHER", "AND weather.available_at <= k.hour - hours.ago * INTERVAL '{step}'", ""),
    "weather that is available now, not then": ("WEATHER", "AND weather.available_at <= k.hour - hours.ago", "AND weather.available_at <= k.hour + hours.ago"),
    "< for <= where weather is of the hour": ("WEATHER", 'weather."timestamp" <= k.hour', 'weather."timestamp" < k.hour'),
    ">= for > where weather gets old": ("WEATHER", 'weather."timestamp" > k.hour', 'weather."timestamp" >= k.hour'),
    "a row without the variable hides older ones": ("WEATHER", "AND weather.{column} IS NOT NULL", ""),
    "long ranges an hour late": ("READINGS_GRID", "{first_row} AS hour", "{first_row} + INTERVAL '1 hour' AS hour"),
    "long ranges with weather from before it was available": ("WEATHER_GRID", "AND weather.available_at <= grid.hour", ""),
    "long ranges with the target hour": ("FRAME", "{nearest} PRECEDING", "CURRENT ROW"),
    "long ranges of the wrong hours of the day": ("FRAME_OF_SAME_HOUR", "{days} PRECEDING AND 1 PRECEDING", "{days} PRECEDING AND CURRENT ROW"),
    "UTC for local time": ("REGISTER", "coalesce(assets.timezone, 'UTC')", "'UTC'"),
    "attributes of all tenants": ("REGISTER", "assets.tenant_id = rows.tenant_id AND ", ""),
    "a superseded version stays present": ("COMPUTE", "FILTER (WHERE replaces)", "FILTER (WHERE false)"),
    "old versions are present": ("VIEW", "WHERE rows.superseded_at IS NULL", "WHERE true"),
    "rows twice": ("KEYS", "known.stored", "NULL::tstzmultirange"),
    "population deviation": ("FUNCTIONS", "float8_stddev_samp", "float8_stddev_pop"),
    "first is last": ("FUNCTIONS", "ORDER BY ago DESC) FILTER (WHERE value", "ORDER BY ago) FILTER (WHERE value"),
    "hours for readings": ("FUNCTIONS", "sum(readings)", "count(value)"),
    "series of all tenants": ("SERIES", "issues.tenant_id = k.tenant_id AND ", ""),
    "series of all zones": ("SERIES", " AND issues.zone = {zone}", ""),
    "series from before it was available": ("SERIES", "AND issues.available_at <= {hour}", ""),
    "series as its own hour knew it": ("SERIES", "issues.available_at <= {hour}", 'issues.available_at <= issues."timestamp"'),
    "the first issue of a series": ("SERIES", "issues.available_at DESC", "issues.available_at"),
    "totals of all tenants": ("_TOTALS", "members.tenant_id = k.tenant_id AND ", ""),
    "totals of all groups": ("_TOTALS", ' AND members."group" = k.asset_group', ""),
    "a part of a total": ("_TOTALS", "count(value) = count(*) AND ", ""),
    "a member before it began": ("_TOTALS", "greatest({first_hour}, spans.first_hour)", "{first_hour}"),
    "Sunday is 0": ("CALENDAR", "extract(isodow FROM local.time)::bigint - 1", "extract(dow FROM local.time)::bigint"),
    "another quantile": ("FUNCTIONS", "{quantile}", "1 - {quantile} / 2"),
    "long ranges with quantiles of the target hour": ("GRID_FUNCTIONS", "OVER {frame}, {quantile}", "OVER {frame} || value, {quantile}"),
}  # fmt: skip


def plant(monkeypatch: pytest.MonkeyPatch, template: str, old: str, new: str) -> None:
    module = next(each for each in (steps, templates, sources) if hasattr(each, template))
    text = getattr(module, template)
    parts = text if isinstance(text, dict) else {"": text}
    assert any(old in part for part in parts.values()), "the generator has changed: plant the fault anew"
    planted = {name: part.replace(old, new) for name, part in parts.items()}
    monkeypatch.setattr(module, template, planted if isinstance(text, dict) else planted[""])


@pytest.mark.parametrize(
    "fault",
    [
        # some show that the oracle is asked at all
        pytest.param(fault, id=name, marks=[] if number % 24 == 0 else pytest.mark.long)
        for number, (name, fault) in enumerate(FAULTS.items())
    ],
)
def test_oracle__fault_in_the_generator__is_found(
    database: str, monkeypatch: pytest.MonkeyPatch, fault: tuple[str, str, str]
) -> None:
    plant(monkeypatch, *fault)
    monkeypatch.setattr(history, "knows", lambda _: False)
    try:
        found = next(problems(database), None)
    except UniqueViolation as error:
        found = str(error)  # a row came out twice, and the table's key refuses that
    assert found, "nobody noticed"


@pytest.mark.parametrize(
    "step",
    [
        # both are made of quarter-hours, which the drawn views and a planted fault have, too
        pytest.param(HOUR / 4, id="15min", marks=pytest.mark.long),
        pytest.param(HOUR / 2, id="30min", marks=pytest.mark.long),
        pytest.param(HOUR, id="1h"),
        pytest.param(DAY, id="1d"),
    ],
)
def test_rows__computed_when_read_or_in_columns_or_by_the_server__equal_the_oracle_with_the_same_bits(
    database: str, monkeypatch: pytest.MonkeyPatch, step: timedelta
) -> None:
    # those of other steps are merged alike
    names = FUNCTIONS if step == HOUR else ("std", "sum", "first")
    functions = {
        f"{name}_of_{number}_{at}": each
        for number, column in enumerate(
            ["value", "price@price_zone", "temperature"][: 2 if step == DAY else 3]
        )
        for name in names
        for at, each in enumerate(
            (
                Aggregation(column, name, (30 if column == "value" else 5) * step, step),
                SameHour(column, name, 2),
            )[: 2 if step == HOUR else 1]
        )
    }
    declaration = declare(f"bits_{secrets.token_hex(4)}", kinds(step) | functions | quantiles(step), step)
    batches: list[Any] = []
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        meter = Meter(connection, database, READINGS_OF[step])
        with monkeypatch.context() as patch:
            patch.setattr(history, "_BY_SERVER", "SELECT not_left_to_the_server()")
            patch.setattr(history, "evaluate", lambda *of: batches.append(of) or columns.evaluate(*of))
            assert list(meter.problems(declaration)) == []
        assert batches, "no range was long"
        in_columns = meter.rows(declaration)
        assert len(in_columns) > (2 if step == DAY else 24)
        meter.forget_rows(declaration)
        assert meter.rows(declaration) == in_columns
        fill(connection, declaration)
        monkeypatch.setattr(history, "knows", lambda _: False)
        refresh(dsn=database)
        assert meter.rows(declaration) == in_columns
