"""Features that break their limits are told, stored as findings, and refused where the policy says so."""

from __future__ import annotations

import json
import math
import secrets
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feast import FeatureService, FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64, String
from psycopg import sql
from support.declared_views import ENTITIES
from support.energy import add_meter

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.features.checks import Outcome, check_features, check_training_rows
from ai_hub.features.materialize import materialize
from ai_hub.features.newest import Scope
from ai_hub.features.store import open_store
from ai_hub.features.validation import violation_lines
from ai_hub.forecasting.train import TrainingPlan, train
from ai_hub.ingest.findings import FindingsRepository, StoredFinding
from ai_hub.ingest.options import FindingKind
from ai_hub.ingest.report import describe
from ai_hub.settings import Settings
from feast_plugins.windows import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from feast import Entity, FeatureStore
    from support.energy import Energy

HOUR = timedelta(hours=1)
DAY = 24 * HOUR
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
LEVEL = Limits(minimum=0, maximum=100, null_share=0.25, max_age=3 * HOUR, on_violation="refuse")


class OwnView:
    """A view on a table of its own in a registry of its own: `level` with limits, `note` with others."""

    def __init__(self, folder: Path, dsn: str, keys: list[Entity]) -> None:
        self.name = f"own_{secrets.token_hex(4)}"
        self.keys = [key.join_key for key in keys]
        self.dsn = dsn
        columns = "at timestamptz, made timestamptz, reading float8, note text"
        self.execute(f"CREATE TABLE {{}} ({self.keys[0]} text, {self.keys[1]} text, {columns})")
        self.view = FeatureView(
            name=self.name,
            entities=keys,
            schema=[
                *(Field(name=key, dtype=String) for key in self.keys),
                Field(name="level", dtype=Float64, tags=LEVEL.tags | {"lookback_hours": "2"}),
                Field(name="note", dtype=String, tags=Limits(null_share=0.5).tags),
            ],
            source=PostgreSQLSource(
                name=self.name,
                table=self.name,
                timestamp_field="at",
                created_timestamp_column="made",
                field_mapping={"reading": "level"},
            ),
            ttl=6 * HOUR,
        )
        self.store = open_store(Settings(feast_registry_uri=f"sqlite:///{folder}/{self.name}.db"))
        self.store.apply([*keys, self.view])

    def execute(self, statement: str, *values: Any) -> None:
        with connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(self.name)), values)  # type: ignore[arg-type]

    def write(self, tenant: str, key: str, levels: dict[int, float | None], note: str | None = "-") -> None:
        """Rows by hours before now."""
        for hours, level in levels.items():
            row = [tenant, key, NOW - hours * HOUR, level, note]
            self.execute("INSERT INTO {} VALUES (%s, %s, %s, clock_timestamp(), %s, %s)", *row)

    def drop(self) -> None:
        """Take the view out of the registry and its table out of the database."""
        self.store.apply([], objects_to_delete=[self.view], partial=False)
        self.execute("DROP TABLE {} CASCADE")  # with what tenants see of it

    def check(self, *tenants: str, now: datetime | None = None) -> Outcome:
        return check_features(self.store, view=self.name, tenants=tenants, since=DAY, now=now or NOW)


@pytest.fixture(scope="module")
def own(energy: Energy, tmp_path_factory: pytest.TempPathFactory, database: str) -> Iterator[OwnView]:
    del energy
    view = OwnView(tmp_path_factory.mktemp("own"), database, ENTITIES)
    yield view
    view.drop()


def add_asset(dsn: str, tenant: str, asset: str, first: int = 20) -> None:
    """As if its first reading came so many hours ago."""
    with connect(dsn) as connection:
        connection.execute(
            "INSERT INTO asset_spans (tenant_id, asset_id, first_hour, last_hour) VALUES (%s, %s, %s, %s)",
            [tenant, asset, NOW - first * HOUR, NOW - HOUR],
        )


def findings(dsn: str, tenant: str) -> list[StoredFinding]:
    with connect(dsn) as connection:
        return FindingsRepository(connection, tenant).find()


def open_kinds(dsn: str, tenant: str) -> list[tuple[str, str]]:
    return sorted(
        (each.asset_id, each.finding.kind.value) for each in findings(dsn, tenant) if each.resolved_at is None
    )


def test_contract__good_data__is_within_its_limits(energy: Energy) -> None:
    outcome = check_features(energy.store, tenants=[energy.main, energy.near, energy.twin], since=7 * DAY)
    assert violation_lines(outcome.violations) == []
    assert set(outcome.rows) == {
        *("anomaly_detection_features", "forecast_advanced_features", "forecast_basic_features")
    }
    assert min(outcome.rows.values()) > 500


def test_contract__fill_value_of_a_file__is_found_by_the_command(
    energy: Energy, database: str, tenant: str
) -> None:
    for owner in (tenant, f"{tenant}-other"):
        add_meter(owner, "m", "UTC", energy.now, weeks=0, hours=30, level=1.0, seed=7)
    at = energy.now - 4 * HOUR
    with connect(database) as connection:
        connection.execute(
            'UPDATE timeseries_data SET value = 9.96921e36 WHERE tenant_id = %s AND "timestamp" = %s',
            [tenant, at],
        )
    refresh()
    done = energy.run(
        *("ai-hub", "check", "features", "forecast_basic_features", "--tenant", tenant),
        *("--tenant", f"{tenant}-other"),
    )
    assert done.returncode == 0, done.stderr  # the policy is to warn
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith(
        f"warning: {tenant} forecast_basic_features.lag_1h: 1 of 30 rows of m are outside -1e+12..1e+12, "
        "such as 4.98"
    )
    assert lines[2] == "rows checked of forecast_basic_features 60: 2 findings are new, 0 resolved"
    listed = energy.run("ai-hub", "ingest", "findings", "--tenant", tenant, "--json")
    average, lag = json.loads(listed.stdout)
    assert (average["feature"], average["rows"]) == ("forecast_basic_features.historical_avg_24h", 4)
    assert (lag["feature"], lag["first"], lag["kind"]) == (
        *("forecast_basic_features.lag_1h", (at + HOUR).isoformat(), "feature_range"),
    )
    assert findings(database, f"{tenant}-other") == []


def test_check__rows_outside__are_findings_until_they_are_corrected(
    own: OwnView, database: str, tenant: str
) -> None:
    other = f"{tenant}-other"
    for owner in (tenant, other):
        add_asset(database, owner, "a")
        own.write(owner, "a", dict.fromkeys(range(10), 5.0))
    own.write(tenant, "a", {5: 130.0, 4: math.inf, 3: -1.0})
    outcome = own.check(tenant, other)
    (line,) = violation_lines(outcome.violations)
    assert line == (
        f"refused: {tenant} {own.name}.level: 3 of 10 rows of a are outside 0..100, such as 130 of a "
        f"at {NOW - 5 * HOUR:%Y-%m-%d %H:%MZ}"
    )
    assert (outcome.rows, outcome.new, outcome.resolved) == ({own.name: 20}, outcome.violations, 0)
    assert outcome.refused == outcome.violations
    (stored,) = findings(database, tenant)
    assert describe(stored.finding) == (
        f"{own.name}.level: 3 of 10 rows are outside 0..100, such as 130, "
        f"from {NOW - 5 * HOUR:%Y-%m-%d %H:%MZ} to {NOW - 3 * HOUR:%Y-%m-%d %H:%MZ}"
    )
    assert findings(database, other) == []

    again = own.check(tenant, other)
    assert (again.violations, again.new, again.resolved) == (outcome.violations, [], 0)
    assert findings(database, tenant) == [stored]

    own.write(tenant, "a", {5: 7.0, 4: 7.0})
    assert (len(own.check(tenant).new), open_kinds(database, tenant)) == (0, [("a", "feature_range")])
    own.write(tenant, "a", {3: 7.0})
    assert own.check(other).resolved == 0
    assert own.check(tenant).resolved == 1
    assert open_kinds(database, tenant) == []


def test_check__finding_that_began_before__stays_open(own: OwnView, database: str, tenant: str) -> None:
    add_asset(database, tenant, "a")
    own.write(tenant, "a", {30: 130.0, 20: 130.0, 1: 1.0})
    own.check(tenant, now=NOW - 20 * HOUR)
    assert own.check(tenant).violations[0].rows == 1  # of one day
    (stored,) = findings(database, tenant)
    assert (stored.finding.first, stored.finding.last) == (NOW - 30 * HOUR, NOW - 20 * HOUR)
    own.write(tenant, "a", {20: 1.0})
    assert own.check(tenant).resolved == 0
    assert open_kinds(database, tenant) == [("a", "feature_range")]


def test_check__nulls__count_once_the_window_is_full(own: OwnView, database: str, tenant: str) -> None:
    add_asset(database, tenant, "new", first=10)
    add_asset(database, tenant, "torn", first=10)
    # of the first two hours nothing can be known
    own.write(tenant, "new", dict.fromkeys((10, 9, 6), None) | dict.fromkeys((8, 7, 2, 1, 0), 5.0))
    own.write(tenant, "torn", dict.fromkeys((8, 7), None) | dict.fromkeys((6, 2, 1, 0), 5.0), note=None)
    outcome = own.check(tenant)
    since = f"of torn from {NOW - 8 * HOUR:%Y-%m-%d %H:%MZ}"
    no_value = "rows of torn have no value"
    assert violation_lines(outcome.violations) == [
        f"refused: {tenant} {own.name}.level: 2 of 6 {no_value}, more than 25%, such as 2 of 6 {since}",
        f"warning: {tenant} {own.name}.note: 6 of 6 {no_value}, more than 50%, such as 6 of 6 {since}",
    ]
    assert open_kinds(database, tenant) == [("torn", "feature_nulls")] * 2


def test_check__of_another_project__leaves_findings_open_until_the_limits_are_gone(
    own: OwnView, tmp_path: Path, database: str, tenant: str
) -> None:
    add_asset(database, tenant, "a")
    own.write(tenant, "a", {1: 130.0})
    own.check(tenant)
    other = OwnView(tmp_path, database, ENTITIES)
    try:
        assert check_features(other.store, tenants=[tenant], since=DAY).resolved == 0
        # where the view is registered without limits, nothing is to be told of it
        free = copy(own.view)
        free.features = [Field(name=each.name, dtype=each.dtype) for each in own.view.features]
        other.store.apply([free])
        assert check_features(other.store, tenants=[tenant], since=DAY).resolved == 1
        assert ("a", "feature_range") not in open_kinds(database, tenant)
    finally:
        other.drop()


def test_check__old_values__are_stale_until_a_new_one_comes(own: OwnView, database: str, tenant: str) -> None:
    for name in ("late", "empty", "gone", "well"):
        add_asset(database, tenant, name)
    own.write(tenant, "late", {8: 1.0, 5: 1.0, 4: 1.0, 1: None})
    own.write(tenant, "empty", {5: None, 4: None, 1: None, 0: None})
    own.write(tenant, "well", {3: 1.0})
    outcome = own.check(tenant)
    stale = {each.entity: each.last for each in outcome.violations if each.kind is FindingKind.FEATURE_STALE}
    # nothing is known of the last two but when their first reading came
    assert stale == {"late": NOW - 4 * HOUR, "empty": NOW - 20 * HOUR, "gone": NOW - 20 * HOUR}
    own.write(tenant, "late", {0: 1.0})
    assert own.check(tenant).resolved == 1
    assert ("late", "feature_stale") not in open_kinds(database, tenant)


def test_check__other_keys__are_named(energy: Energy, tmp_path: Path, database: str, tenant: str) -> None:
    del energy
    from feast import Entity, ValueType  # noqa: PLC0415

    zone = Entity(name="zone", join_keys=["price_zone"], value_type=ValueType.STRING)
    own = OwnView(tmp_path, database, [ENTITIES[0], zone])
    try:
        own.write(tenant, "DE-LU", {0: -7.0})
        own.write(f"{tenant}-other", "DE-LU", {0: 7.0})
        assert own.check(tenant, f"{tenant}-other").violations[0].entity == "price_zone=DE-LU"
        assert open_kinds(database, tenant) == [("price_zone=DE-LU", "feature_range")]
    finally:
        own.drop()


def test_check__view_without_limits__says_so(energy: Energy) -> None:
    with pytest.raises(BadInputError, match="latest_reading cannot be checked: no field of it has limits"):
        check_features(energy.store, view="latest_reading", since=DAY)
    with pytest.raises(NotFoundError, match="There is no feature view 'loads'"):
        check_features(energy.store, view="loads", since=DAY)


def test_materialize__refused_row__leaves_the_earlier_one_online(
    own: OwnView, database: str, tenant: str
) -> None:
    other = f"{tenant}-other"
    scope = Scope([tenant, other])

    def online(owner: str, asset: str) -> Any:
        answer = own.store.get_online_features(
            [f"{own.name}:level"], [{"tenant_id": owner, "asset_id": asset}]
        ).to_dict()
        return answer["level"][0]

    for owner in (tenant, other):
        add_asset(database, owner, "a")
        own.write(owner, "a", {2: 5.0})
    add_asset(database, tenant, "old")
    own.write(tenant, "old", {5: 1.0})
    first = materialize(own.store, scope)
    assert (first.rows, first.refused) == ({own.name: 2}, 1)
    assert online(tenant, "old") is None
    assert open_kinds(database, tenant) == [("old", "feature_stale")]

    for owner, level in ((tenant, 130.0), (other, 6.0)):
        own.write(owner, "a", {1: level})
    second = materialize(own.store, scope)
    assert (second.rows, second.refused) == ({own.name: 1}, 2)
    assert [online(owner, "a") for owner in (tenant, other)] == [5.0, 6.0]
    (line,) = second.new_violations
    assert line.startswith(f"refused: {tenant} {own.name}.level: 1 of 1 rows of a are outside 0..100")
    assert len(second.violations) == 2
    assert materialize(own.store, scope).new_violations == []
    assert findings(database, other) == []

    # a later row in its limits says nothing of the earlier one, whose correction does
    own.write(tenant, "a", {0: 7.0})
    own.write(tenant, "old", {0: 7.0})
    assert materialize(own.store, scope).refused == 0
    assert open_kinds(database, tenant) == [("a", "feature_range")]
    own.write(tenant, "a", {1: 6.5})
    assert own.check(tenant).resolved == 1


def test_train__features_that_are_refused__is_refused(
    energy: Energy, tmp_path: Path, database: str, tenant: str
) -> None:
    add_meter(tenant, "m", "UTC", energy.now, weeks=4, level=1.0, seed=7)
    refresh()
    plan = TrainingPlan(tenant, "strict", "electricity", ("m",), "m", weeks=3, holdout_weeks=1)
    store, service = _strict(energy.store, tmp_path, "refuse")
    with pytest.raises(
        BadInputError,
        match=rf"break their limits: refused: {tenant} forecast_basic_features\.lag_1h: \d+ of 504 rows",
    ):
        train(store, plan, lambda _: None)
    assert open_kinds(database, tenant) == [("m", "feature_range")]
    (stored,) = findings(database, tenant)

    # the same as it is; nothing is stored of what was known earlier
    store, service = _strict(energy.store, tmp_path, "warn")
    trained = train(store, replace(plan, until=energy.now - DAY), lambda _: None)
    assert trained.warnings[0].startswith(f"warning: {tenant} forecast_basic_features.lag_1h: ")
    assert [each.finding.first for each in findings(database, tenant)] <= [stored.finding.first]
    rows = trained.split.train.assign(tenant_id=f"{tenant}-other")
    assert check_training_rows(service, rows, store_findings=False).violations
    assert findings(database, f"{tenant}-other") == []


def _strict(store: FeatureStore, folder: Path, policy: str) -> tuple[FeatureStore, FeatureService]:
    """A store whose service allows no `lag_1h` above 2.5."""
    view = store.get_feature_view("forecast_basic_features")
    for field in view.features:
        if field.name == "lag_1h":
            field.tags |= Limits(maximum=2.5, on_violation=policy).tags
    strict = open_store(Settings(feast_registry_uri=f"sqlite:///{folder}/{policy}.db"))
    service = FeatureService(name="strict", features=[view[["local_time", "lag_1h"]]])
    strict.apply([*ENTITIES, view, service])
    return strict, service
