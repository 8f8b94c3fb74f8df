"""Views with a horizon: history is the oracle's, online is history now, and nothing later gets in."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureService
from feast.aggregation import Aggregation
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oracles.declared import Oracle
from oracles.features import HOUR, Asset, Issue, Weather
from oracles.leads import LeadsOracle
from support.declared_views import ENTITIES, same
from support.feature_reading import Clock, ask, run
from support.feature_tables import now, write, write_series, write_weather
from support.properties import examples
from typer.testing import CliRunner

from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError
from ai_hub.exports.reading import plan_of
from ai_hub.features.materialize import materialize
from ai_hub.features.newest import Scope
from ai_hub.features.store import open_store
from ai_hub.settings import Settings
from feast_plugins.errors import HistoryNotKnownError
from feast_plugins.offline.issues import matrix
from feast_plugins.windows import (
    Calendar,
    DegreeHours,
    Difference,
    Holiday,
    Lag,
    SameHour,
    Series,
    SunPosition,
    WindPower,
    declared_view,
)
from feast_plugins.windows import Weather as WeatherOf
from feast_plugins.windows.database import allow_losses
from feast_plugins.windows.declarations import declaration_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa
    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

DAY = timedelta(days=1)
PRICE = "price@price_zone"
PLACE = (52.5, 13.4)
LEADS = 26
LATE = 30 * HOUR + timedelta(minutes=20)


def features_of(step: timedelta) -> dict[str, Any]:
    return {
        "last": Aggregation("value", "last", step, step),
        "mean_24h": Aggregation("value", "mean", DAY, step),
        "lag_1d": Lag("value", DAY),
        "same_hour_1d": SameHour("value", "mean", days=1),
        "same_hour_5d": SameHour("value", "mean", days=5),
        "same_hour_std": SameHour("value", "std", days=4),
        "same_hour_2w": SameHour("value", "max", days=2, every=7),
        "rise": Difference(SameHour("value", "mean", days=1), Lag("value", 2 * DAY)),
        "temperature": WeatherOf("temperature"),
        "humidity": WeatherOf("humidity"),
        "heating_3h": DegreeHours(15, 3 * HOUR),
        "portfolio": SameHour("value@group", "mean", days=2),
        "price": Series("price", by="price_zone"),
        "price_1d": Lag(PRICE, DAY),
        "hour_of_day": Calendar("hour_of_day"),
        "holiday": Holiday("DE"),
        "sun": SunPosition("elevation"),
        "wind_power": WindPower(hub_height=120),
    }


@dataclass
class Meter:
    """A meter of a tenant, and what is known of it."""

    tenant: str
    name: str
    known: Asset
    available_after: timedelta = timedelta(0)
    group: str | None = None


@dataclass
class Site:
    """A view with a horizon of two tenants' meters, with data up to `now`."""

    settings: Settings
    view: Any
    service: str
    meters: list[Meter]
    now: datetime

    @property
    def tenants(self) -> list[str]:
        return sorted({meter.tenant for meter in self.meters})

    def history(self, issues: list[datetime], meters: list[Meter] | None = None, **options: Any) -> pa.Table:
        store = open_store(
            self.settings, **{name: options.pop(name) for name in ("known_at",) if name in options}
        )
        entities = pd.DataFrame(
            [
                {"tenant_id": meter.tenant, "asset_id": meter.name, "event_timestamp": issue}
                for meter in meters or self.meters
                for issue in issues
            ]
        )
        job = store.get_historical_features(entities, store.get_feature_service(self.service), **options)
        return job.to_arrow()

    def available_after(self, meter: Meter) -> timedelta:
        """Of a meter in a group that of the latest member, whose readings are in the total."""
        members = [each for each in self.meters if each.group == meter.group and each.tenant == meter.tenant]
        return max(each.available_after for each in [meter, *(members if meter.group else ())])

    def oracles(self, meter: Meter) -> tuple[Oracle, LeadsOracle]:
        """Of the meter as it is known now."""
        declaration = declaration_of(self.view)
        assert declaration is not None
        of_rows = Oracle(meter.known, datetime.now(UTC), {}, declaration.step)
        rows = set(of_rows.rows(datetime.now(UTC)))
        return of_rows, LeadsOracle(meter.known, declaration.step, self.available_after(meter), *PLACE, rows)

    def problems(
        self, row: dict[str, Any], meter: Meter, issue: datetime, oracles: tuple[Oracle, LeadsOracle]
    ) -> list[str]:
        """How the row of an issue differs from the oracle."""
        declaration = declaration_of(self.view)
        assert declaration is not None
        step = declaration.step
        issue -= (issue - datetime(1970, 1, 1, tzinfo=UTC)) % step
        of_rows, ahead = oracles
        rows, after = ahead.rows, ahead.available_after
        assert rows is not None
        if ahead.known_at is None:
            newest = max((at for at in rows if at <= issue - after), default=None)
            has_row = newest is not None and issue - after - newest <= self.view.ttl
        else:
            last = ahead.newest(issue)
            newest = None if last is None else last + step
            members = [meter.known, *(meter.known.others or ())]
            longest = max(known - at for each in members for at, known in each.arrived.items())
            farthest = max(min(longest + 7 * DAY, 90 * DAY), after + 7 * DAY)
            has_row = newest is not None and issue - newest < farthest + step
        found = []
        for name, of in declaration.as_json().items():
            if name not in declaration.of_targets:
                want = of_rows.value(newest, of) if has_row and newest is not None else None
                reach = {"last": 1, "mean_24h": DAY // step}[name]
                if newest and any(ahead.is_late(issue, newest - ago * step) for ago in range(1, reach + 1)):
                    want = None
                if not same(None if pd.isna(row[name]) else row[name], want, 1e6):
                    found.append(f"{name}: {row[name]} instead of {want}")
                continue
            array = ahead.array(issue, of, declaration.leads) if has_row else None
            got = None if row[name] is None else [None if np.isnan(each) else each for each in row[name]]
            if (got is None) != (array is None):
                found.append(f"{name}: {got} instead of {array}")
            for lead, (value, want) in enumerate(zip(got or [], array or [], strict=True)):
                if not same(value, want, 1e6):
                    found.append(f"{name}[{lead}]: {value} instead of {want}")
        return found

    def check(self, table: pa.Table, meters: list[Meter] | None = None) -> None:
        by_key = {(meter.tenant, meter.name): meter for meter in meters or self.meters}
        oracles = {key: self.oracles(meter) for key, meter in by_key.items()}
        for row in table.to_pylist():
            key, issue = (row["tenant_id"], row["asset_id"]), row["event_timestamp"]
            assert self.problems(row, by_key[key], issue, oracles[key]) == [], (by_key[key], issue)


def meter(tenant: str, name: str, now: datetime, zone: str, seed: int, **more: Any) -> Meter:
    """Nineteen days of half-hours up to `now`, some missing, with weather and prices in several issues."""
    random = np.random.default_rng(seed)
    start = now - 19 * DAY
    readings = {
        start + at * HOUR / 2: float(value)
        for at, value in enumerate(random.normal(50 * seed, 5, 19 * 48))
        if random.random() > 0.1 and not 300 < at < 340
    }
    weather = [
        Weather(
            *(start + at * HOUR, start + (at - lead) * HOUR, float(value), 50.0 if at % 3 else None),
            wind_speed=float(value) % 20,
        )
        for lead in (0, 7, 40)
        for at, value in enumerate(random.normal(10, 8, 21 * 24))
        if random.random() > 0.6
    ]
    prices = [
        Issue(start + at * HOUR, start + at * HOUR - lead * HOUR, float(value))
        for lead in (3, 30)
        for at, value in enumerate(random.normal(80, 20, 21 * 24))
        if random.random() > 0.4
    ]
    return Meter(tenant, name, Asset(zone, readings, weather, {PRICE: prices}), **more)


def arrivals(readings: dict[datetime, float], now: datetime, seed: int) -> dict[datetime, datetime]:
    """Most come the next morning; some do not say it, some come days late, some are corrected after weeks."""
    random = np.random.default_rng(seed)
    found = {}
    for at in readings:
        morning = at.replace(hour=0, minute=0) + DAY + 6 * HOUR
        kind = random.random()
        if 0.1 < kind < 0.16:
            morning += timedelta(hours=float(random.uniform(0, 100)))
        elif kind > 0.98:
            morning += 15 * DAY
        if kind > 0.1 and morning < now:
            found[at] = max(morning, at + HOUR)
    return found


def store_data(connection: Any, each: Meter) -> None:
    """Write a new meter with all that is known of it."""
    zone, group = f"zone of {each.name}", each.group
    connection.execute(
        "INSERT INTO assets"
        ' (tenant_id, asset_id, timezone, latitude, longitude, price_zone, "group", available_after)'
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        [each.tenant, each.name, each.known.zone, *PLACE, zone, group, each.available_after],
    )
    write(connection, each.tenant, each.name, each.known.readings, each.known.arrived)
    write_weather(connection, each.tenant, each.name, each.known.weather)
    write_series(connection, each.tenant, "price", zone, each.known.series[PRICE])


def store_rows(connection: Any, view: str) -> None:
    """Let the next refresh store all rows."""
    connection.execute("UPDATE declared_views SET filled_from = '-infinity' WHERE view_name = %s", [view])


@contextmanager
def site(energy: Energy, folder: Path, step: timedelta, *, is_stored: bool) -> Iterator[Site]:
    unique, present = secrets.token_hex(4), energy.now
    own = Settings(feast_registry_uri=f"sqlite:///{folder}/{unique}.db?timeout=60")
    view = declared_view(
        name=f"ahead_{unique}", entities=ENTITIES, features=features_of(step), step=step, horizon=LEADS * step
    )
    service, store = FeatureService(name=f"s_{unique}", features=[view]), open_store(own)
    mine, theirs = f"t-{unique}", f"t-{unique}-x"
    meters = [
        meter(mine, "meter", present, "Europe/Berlin", 1, group="north"),
        meter(mine, "late", present, "Asia/Kolkata", 2, available_after=LATE, group="north"),
        meter(theirs, "meter", present, "UTC", 3),
        # some say when their readings arrived; a member of their group does not, nor does the other tenant's
        meter(mine, "told", present, "Europe/Berlin", 4, available_after=3 * HOUR),
        meter(mine, "told in group", present, "UTC", 5, group="south"),
        meter(mine, "in group", present, "UTC", 6, available_after=5 * HOUR, group="south"),
        meter(theirs, "told", present, "UTC", 7, group="south"),
        # one day of this one says it, the others are known long after
        meter(theirs, "seldom told", present, "UTC", 8, available_after=14 * DAY),
    ]
    for each in meters:
        others = [other for other in meters if other.tenant == each.tenant and other.group == each.group]
        each.known.others = [other.known for other in others if other is not each] if each.group else None
    for each in meters[3:5]:
        each.known.arrived = arrivals(each.known.readings, present, seed=len(each.name))
    seldom = meters[-1].known
    day = (present - 3 * DAY, present - 2 * DAY)
    seldom.arrived = {at: at + DAY for at in seldom.readings if day[0] <= at < day[1]}
    store.apply([*ENTITIES, view, service])
    with connect(autocommit=True) as connection:
        connection.execute(
            "INSERT INTO declared_spans SELECT %s, tenant_id, asset_id, '{(,)}' FROM asset_spans", [view.name]
        )
        for each in meters:
            store_data(connection, each)
        if is_stored:
            store_rows(connection, view.name)
    refresh()
    try:
        yield Site(own, view, service.name, meters, present)
    finally:
        with allow_losses():
            store.apply([], objects_to_delete=[service, view], partial=False)


@pytest.fixture(scope="module")
def quarters(energy: Energy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(energy, tmp_path_factory.mktemp("site"), HOUR / 4, is_stored=True) as made:
        yield made


@pytest.fixture(scope="module")
def hours(energy: Energy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(energy, tmp_path_factory.mktemp("site"), HOUR, is_stored=False) as made:
        yield made


EACH_STEP = pytest.mark.parametrize("steps", ["quarters", "hours"])


@EACH_STEP
def test_history__of_issues__equals_the_oracle(steps: str, request: pytest.FixtureRequest) -> None:
    made: Site = request.getfixturevalue(steps)
    # the last one is of a time before the first reading
    ages = [timedelta(minutes=7), 3 * DAY + timedelta(minutes=50), 40 * DAY]
    made.check(made.history([made.now - age for age in ages], made.meters[:3]))


@EACH_STEP
def test_online__of_all_meters__is_history_at_now(steps: str, request: pytest.FixtureRequest) -> None:
    made: Site = request.getfixturevalue(steps)
    store = open_store(made.settings)
    if steps == "hours":  # Feast's own command
        store.materialize(made.now - DAY, datetime.now(UTC), feature_views=[made.view.name])
    else:
        materialize(store, Scope(tenants=made.tenants))
    at = datetime.now(UTC)
    declaration = declaration_of(made.view)
    assert declaration is not None
    keys = [{"tenant_id": each.tenant, "asset_id": each.name} for each in made.meters]
    answer = store.get_online_features(store.get_feature_service(made.service), keys)
    stamps = {stamp.ToDatetime(UTC) for stamp in answer.proto.results[-1].event_timestamps}
    (issue,) = stamps
    assert at - issue <= 2 * declaration.step
    history = made.history([issue]).to_pylist()
    online = answer.to_dict()
    for position, row in enumerate(history):
        for name in declaration.features:
            got, want = online[name][position], row[name]
            if name in declaration.of_targets:
                assert np.array(got).tobytes() == np.array(want).tobytes(), name
            else:
                assert got == want, name

    async def read(reader: FeatureReader) -> None:
        for row, each in zip(history, made.meters, strict=True):
            (result,) = await ask(reader, each.tenant, each.name, feature_set=made.service)
            assert result["source"] == "redis"
            assert result["event_timestamp"] == issue
            for name in declaration.of_targets:
                want = [None if np.isnan(value) else value for value in row[name]]
                assert result["features"][name] == want
                assert result["status"][name] == "PRESENT"
            late = await ask(reader, each.tenant, each.name, feature_set=made.service, timestamp=issue - DAY)
            assert set(late[0]["status"].values()) == {"NOT_FOUND"}

    run(read, Clock(issue + timedelta(minutes=1)), feast_registry_uri=made.settings.feast_registry_uri)


def test_history__as_known_earlier__is_that_of_then(hours: Site) -> None:
    mine, *others = deepcopy(hours.meters)
    with connect(autocommit=True) as connection:
        store_rows(connection, hours.view.name)
        refresh()
        then = now(connection)
        hours.meters[0].known.readings |= {hours.now - age * HOUR: 1e3 + age for age in range(20, 60)}
        write(connection, mine.tenant, mine.name, hours.meters[0].known.readings)
        weather = [Weather(hours.now + at * HOUR, hours.now - 30 * HOUR, 99.0, 9.0) for at in range(-50, 30)]
        known = {(row.valid_at, row.available_at) for row in mine.known.weather}
        weather = [row for row in weather if (row.valid_at, row.available_at) not in known]
        hours.meters[0].known.weather += weather
        write_weather(connection, mine.tenant, mine.name, weather)
    refresh()
    issues = [hours.now - age for age in (0 * HOUR, 25 * HOUR, 3 * DAY)]
    hours.check(hours.history(issues, hours.meters[:4], known_at=then), [mine, *others])
    hours.check(hours.history(issues, hours.meters[:4]))
    # nothing was known when these were issued: it was all ingested just now
    found = hours.history(issues[1:], filter_by_created_timestamp=True)
    assert found["same_hour_1d"].null_count == found.num_rows


def test_available_after__of_the_register__moves_what_an_issue_knows(hours: Site) -> None:
    mine = hours.meters[0]
    result = CliRunner().invoke(
        app, ["asset", "add", mine.name, "--tenant", mine.tenant, "--available-after", "48h"]
    )
    assert "available after 48 h" in result.output
    mine.available_after = 48 * HOUR
    try:
        found = hours.history([hours.now, hours.now - 2 * DAY], [mine])
        hours.check(found)
    finally:
        CliRunner().invoke(
            app, ["asset", "add", mine.name, "--tenant", mine.tenant, "--available-after", "0h"]
        )
        mine.available_after = timedelta(0)
    assert np.isnan(matrix(found["lag_1d"], LEADS)).all()


@pytest.mark.parametrize("steps", [pytest.param("quarters", marks=pytest.mark.long), "hours"])
def test_history__of_readings_that_say_when_they_arrived__equals_the_oracle(
    steps: str, request: pytest.FixtureRequest
) -> None:
    made: Site = request.getfixturevalue(steps)
    random = np.random.default_rng(11)
    ages = [timedelta(minutes=float(each)) for each in random.uniform(0, 17 * 24 * 60, 6)]
    told = made.meters[3:] if steps == "hours" else made.meters[3:5]
    found = made.history([made.now - age for age in [*ages, timedelta(minutes=7)]], told)
    made.check(found)
    # some numbers and some elements were not known, and others were
    assert 0 < found["mean_24h"].null_count < found.num_rows
    for name in ("lag_1d", "same_hour_1d"):
        values = matrix(found[name], LEADS)
        assert 0.05 < np.isnan(values).mean() < 0.95, name


def test_history__where_one_day_says_when_it_arrived__keeps_issues_of_the_rule(hours: Site) -> None:
    seldom = hours.meters[-1]
    # the last one is farther from its newest step than those whose readings say it may be
    for after, issue in [(14, hours.now - 3 * DAY), (14, hours.now), (88, hours.now + 91 * DAY)]:
        seldom.available_after = after * DAY
        with connect(autocommit=True) as connection:
            connection.execute(
                "UPDATE assets SET available_after = %s WHERE tenant_id = %s AND asset_id = %s",
                [seldom.available_after, seldom.tenant, seldom.name],
            )
        found = hours.history([issue], [seldom])
        hours.check(found, [seldom])
        assert found["same_hour_5d"].null_count == 0, issue
    seldom.available_after = 14 * DAY


def told_later(meters: list[Meter], issue: datetime, seed: int) -> list[Meter]:
    """Readings of steps that were not known at the issue, changed, added or corrected anew."""
    random = np.random.default_rng(seed)
    found = []
    for each in meters:
        oracle = LeadsOracle(each.known, HOUR, each.available_after)
        known, newest = oracle.known_at, oracle.newest(issue)
        assert known is not None
        assert newest is not None
        readings, arrived = {}, {}
        for at in {*each.known.readings, *(newest + number * HOUR / 2 for number in range(2, 100))}:
            begin = at.replace(minute=0)
            is_known = known.get(begin, issue + HOUR) <= issue
            if not is_known and begin > newest - 20 * DAY and random.random() < 0.7:
                readings[at] = float(random.normal(0, 1e3))
                arrived[at] = max(issue, at + HOUR) + timedelta(hours=float(random.uniform(0.1, 60)))
        found.append(replace(each, known=Asset(readings=readings, arrived=arrived)))
    return found


@settings(
    max_examples=examples(2),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**31), age=st.integers(40, 300))
def test_history__whatever_arrived_after_the_issue__keeps_each_bit(hours: Site, seed: int, age: int) -> None:
    told = [hours.meters[3]]
    issue = hours.now - age * HOUR
    before = hours.history([issue], told)
    hours.check(before, told)
    with connect(autocommit=True) as connection:
        for each, later in zip(told, told_later(told, issue, seed), strict=True):
            each.known.readings |= later.known.readings
            each.known.arrived |= later.known.arrived
            write(connection, each.tenant, each.name, later.known.readings, later.known.arrived)
    refresh()
    after = hours.history([issue], told)
    declaration = declaration_of(hours.view)
    assert declaration is not None
    for name in declaration.features:
        assert before[name].combine_chunks().equals(after[name].combine_chunks()) or (
            name in declaration.of_targets
            and matrix(before[name], LEADS).tobytes() == matrix(after[name], LEADS).tobytes()
        ), name
    hours.check(after, told)


def test_history__of_another_tenants_times__is_as_it_was(hours: Site) -> None:
    theirs = hours.meters[6]
    issues = [hours.now - 5 * DAY]
    before = hours.history(issues, [theirs])
    with connect(autocommit=True) as connection:
        # the same name in the other tenant, and a group of the same name
        for mine in hours.meters[3:5]:
            late = {at: hours.now for at in mine.known.readings if at < hours.now - HOUR}
            readings = {at: mine.known.readings[at] for at in late}
            write(connection, mine.tenant, mine.name, readings, late)
            mine.known.arrived |= late
    after = hours.history(issues, [theirs])
    declaration = declaration_of(hours.view)
    assert declaration is not None
    for name in declaration.of_targets:
        assert matrix(before[name], LEADS).tobytes() == matrix(after[name], LEADS).tobytes(), name
    # of those themselves nothing was known
    assert hours.history(issues, hours.meters[3:6])["mean_24h"].null_count == 3


def test_history__without_entity_rows_and_export__are_refused(hours: Site) -> None:
    store = open_store(hours.settings)
    with pytest.raises(BadInputError, match="are forecasts' issues"):
        plan_of(store, hours.service, (hours.now - DAY, hours.now))
    with pytest.raises(HistoryNotKnownError, match="give entity_df"):
        store.get_historical_features(
            features=store.get_feature_service(hours.service), start_date=hours.now - DAY, end_date=hours.now
        )


LATER = st.lists(
    st.tuples(st.integers(-30, 60), st.floats(-1e3, 1e3, allow_subnormal=False)), min_size=1, max_size=40
)


@settings(
    max_examples=examples(2),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(readings=LATER, weather=LATER, prices=LATER, age=st.integers(30, 200))
def test_history__whatever_was_not_known_at_issue__keeps_each_bit(
    hours: Site, readings: Any, weather: Any, prices: Any, age: int
) -> None:
    issue = hours.now - age * HOUR
    before = hours.history([issue])
    with connect(autocommit=True) as connection:
        for each in hours.meters[:2]:
            until = issue - hours.available_after(each)
            first = until - (until - datetime(1970, 1, 1, tzinfo=UTC)) % HOUR
            changed = {first + max(0, at) * HOUR: value for at, value in readings}
            each.known.readings |= changed
            write(connection, each.tenant, each.name, changed)
            rows = {
                (issue + at * HOUR, issue + timedelta(seconds=1)): Weather(
                    issue + at * HOUR, issue + timedelta(seconds=1), value, abs(value) / 10
                )
                for at, value in weather
            }
            each.known.weather += rows.values()
            write_weather(connection, each.tenant, each.name, list(rows.values()))
            issues = {
                at: Issue(issue + at * HOUR, issue + timedelta(seconds=1), value) for at, value in prices
            }
            each.known.series[PRICE] += issues.values()
            write_series(connection, each.tenant, "price", f"zone of {each.name}", list(issues.values()))
    refresh()
    after = hours.history([issue])
    declaration = declaration_of(hours.view)
    assert declaration is not None
    for name in declaration.of_targets:
        old, new = (matrix(table[name], LEADS) for table in (before, after))
        assert old.tobytes() == new.tobytes(), name
    for name in ("last", "mean_24h"):
        assert before[name].to_pylist() == after[name].to_pylist(), name
