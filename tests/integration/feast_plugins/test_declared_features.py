"""A declared view by the commands people use: plan, apply, backfill, history, online, export, and its end."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feast.infra.online_stores.helpers import _mmh3
from oracles.features import HOUR, floor_hour
from psycopg.errors import InsufficientPrivilege
from support.declared_repository import FEATURES, Repository, declared_repository, leave_others_out
from support.export_lab import ExportLab
from support.feature_reading import Clock, ask, run
from support.feature_tables import now, write
from typer.testing import CliRunner

from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.errors import AiHubError
from ai_hub.features.materialize import Follower, materialize
from ai_hub.features.newest import Scope
from ai_hub.features.store import online_client, open_store
from ai_hub.forecasting import TARGET
from ai_hub.forecasting.dataset import Window, build
from feast_plugins.errors import DeclarationError
from feast_plugins.materialize import run as materialize_run
from feast_plugins.online.writing import keys_of_value
from feast_plugins.windows.database import allow_losses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd
    from support.energy import Energy

    from ai_hub.exports.export import Export
    from ai_hub.features.online.reader import FeatureReader

OF_QUARTER_HOURS = """
        "lag_15m": Lag("value", timedelta(minutes=15)),
        "mean_1h": Aggregation("value", "mean", timedelta(hours=1), timedelta(minutes=15)),
        "mean_same_time_2d": SameHour("value", "mean", days=2),
"""
WITHOUT_LAG = FEATURES.replace('"lag_48h": Lag("value", timedelta(hours=48)),', "")
OF_ITS_ROWS = """
from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64

lags = FeatureView(
    name="lags_{name}",
    entities=[tenant, asset],
    schema=[Field(name="lag_48h", dtype=Float64)],
    source=PostgreSQLSource(
        name="lags_{name}",
        query="SELECT tenant_id, asset_id, event_timestamp, created_timestamp, lag_48h FROM {name}",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    ),
    ttl=timedelta(hours=3),
    tags={{"reads_declared_view": "{name}"}},
)
"""
OF_THE_SAME_NAME = """
from feast import FeatureView
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource

source = PostgreSQLSource(name="registered", table="assets", timestamp_field="registered_at")
again = FeatureView(name="{name}", entities=[tenant, asset], source=source)
"""


@pytest.fixture
def repository(database: str, energy: Energy, tmp_path: Path) -> Iterator[Repository]:
    with declared_repository(database, energy.now, tmp_path) as made:
        yield made


def ai_hub(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception:
        raise result.exception
    return result.output


def test_declared_view__from_plan_to_export__has_the_oracles_values(
    repository: Repository, energy: Energy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project, view, tenant = repository.project, repository.view, repository.tenant
    planned = project.done("plan")
    assert f"TimescaleDB: + create {view}" in planned
    assert 'lag_48h: Lag("value", 48)' in planned
    assert f"TimescaleDB: + create {view}" in project.done("plan"), "a plan changes nothing"
    assert "are computed whenever they are read" in project.done("apply")
    assert f"create {view}" not in project.done("plan")
    leave_others_out(repository)

    hours = [energy.now - back * HOUR for back in (0, 1, 30, 100, 239)]
    lab = ExportLab(energy, repository.settings, tmp_path / "exports")
    of_two_days = lab.request(hours=48, tenant=tenant, feature_set=f"{view}_service")
    unfilled = assert_unfilled(repository, hours, lab.export(of_two_days), caplog)
    assert json.loads(ai_hub("features", "backfill", view, "--json"))[0]["view"] == view
    (progress,) = [each for each in json.loads(ai_hub("features", "list", "--json")) if each["view"] == view]
    assert progress["rows"] == progress["stored"] > 0
    assert_history(repository, repository.history(hours), hours)
    assert_unknown(repository, hours, unfilled, caplog)

    with connect(autocommit=True) as connection:
        then, known = now(connection), dict(repository.asset.readings)
        corrected = {energy.now - 49 * HOUR: 500.0}
        repository.asset.readings |= corrected
        write(connection, tenant, "meter", corrected)
    refresh()
    assert_history(repository, repository.history(hours), hours)
    as_known = repository.history(hours, known_at=then)
    present, repository.asset.readings = repository.asset.readings, known
    assert_history(repository, as_known, hours)
    repository.asset.readings = present

    assert_training_set(repository, energy.now, repository.asset.readings)
    assert_training_set(repository, energy.now, known, known_at=then)
    assert "stored" not in caplog.text
    materialize(open_store(repository.settings), Scope(tenants=[tenant, f"{tenant}-x"]))

    async def read(reader: FeatureReader) -> None:
        (result,) = await ask(reader, tenant, "meter", feature_set=f"{view}_service")
        assert result["source"] == "redis"
        assert repository.problems(result["features"], energy.now) == []
        past = energy.now - 100 * HOUR
        (result,) = await ask(reader, tenant, "meter", feature_set=f"{view}_service", timestamp=past)
        assert repository.problems(result["features"], past) == []

    run(
        read,
        Clock(energy.now + timedelta(minutes=20)),
        feast_registry_uri=repository.settings.feast_registry_uri,
    )

    with connect(autocommit=True) as connection:
        with as_tenant(connection, tenant):
            query = f"SELECT DISTINCT tenant_id FROM {view}"  # noqa: S608  # made here
            owners = connection.execute(query.encode()).fetchall()
        assert owners == [(tenant,)]
        with pytest.raises(InsufficientPrivilege), as_tenant(connection, tenant):
            connection.execute(f"SELECT FROM public.{view}_stored".encode())

    assert_rows(repository, lab.table(job := lab.export(of_two_days)).to_pylist(), 48)
    assert job.message == "Completed: 48 rows."
    lab.forget()


def assert_rows(repository: Repository, rows: list[dict[str, Any]], count: int) -> None:
    assert len(rows) == count
    assert [repository.problems(row, row["event_timestamp"]) for row in rows] == [[]] * count


def assert_unfilled(
    repository: Repository, hours: list[datetime], export: Export, caplog: pytest.LogCaptureFixture
) -> datetime:
    """History and an export of two days say that nothing is stored; returns the time."""
    assert_history(repository, repository.history(hours), hours)
    # none of the last day waits for a backfill
    assert f"{repository.view}: {2 * 216} rows from" in caplog.text
    assert "25 rows of features are not stored yet" in export.message
    caplog.clear()
    return time_of_the_server()


def time_of_the_server() -> datetime:
    with connect() as connection:
        return now(connection)


def assert_unknown(
    repository: Repository, hours: list[datetime], known_at: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    """History as known before rows were stored is empty, and says so; nobody else said anything."""
    assert "stored" not in caplog.text
    assert repository.history(hours, known_at=known_at)["lag_48h"].isna().all()
    assert "or later, so nothing was known of them at" in caplog.text
    caplog.clear()


def assert_training_set(
    repository: Repository, end: datetime, readings: dict[datetime, float], **options: Any
) -> None:
    """Each hour with its own row, which another meter or a correction has no part in."""
    window = Window(*(end - days * timedelta(days=1) for days in (4, 3, 2, 0)))
    store = open_store(repository.settings, **options)
    service = store.get_feature_service(f"{repository.view}_service")
    found = build(store, service, repository.tenant, ["meter"], window)
    assert (len(found.rows), found.without_features) == (96, 0)
    for row in found.rows.to_dict("records"):
        hour = row["event_timestamp"].to_pydatetime()
        assert (row[TARGET], row["lag_48h"]) == (readings[hour], readings[hour - 48 * HOUR])


def test_quarter_hours__history_online_and_export__have_the_oracles_values_and_their_own_time(
    repository: Repository, energy: Energy, tmp_path: Path
) -> None:
    view, tenant, quarter = repository.view, repository.tenant, HOUR / 4
    before = energy.now - HOUR
    late = {before - 2 * HOUR + step * quarter: 5.0 + step for step in range(12)}
    repository.asset.readings |= late
    repository.declare(OF_QUARTER_HOURS)
    repository.project.done("apply")
    leave_others_out(repository)
    with connect(autocommit=True) as connection:
        write(connection, tenant, "meter", late)
    ai_hub("features", "backfill", view, "--json")
    assert repository.project.store().get_feature_view(view).ttl == 3 * quarter

    # between two rows the earlier one counts
    times = [before + minutes * quarter / 15 for minutes in (0, 7, 15, 30, 45, 59)]
    for row in repository.history(times).to_dict("records"):
        asset = repository.asset if row["tenant_id"] == tenant else repository.foreign
        time = row["event_timestamp"].to_pydatetime()
        assert repository.problems(row, time - (time - before) % quarter, asset) == []

    clock = Clock(before)

    async def read(reader: FeatureReader) -> None:
        sources = []
        for minutes in (3, 14, 16, 29, 31):
            clock.time = before + timedelta(minutes=minutes)
            (result,) = await ask(reader, tenant, "meter", feature_set=f"{view}_service")
            row = before + minutes // 15 * quarter
            assert result["event_timestamp"] == row
            assert repository.problems(result["features"], row) == []
            sources.append(result["source"])
        assert sources == ["timescaledb", "redis", "timescaledb", "redis", "timescaledb"]

    run(read, clock, feast_registry_uri=repository.settings.feast_registry_uri, feature_cache_ttl=900)

    lab = ExportLab(energy, repository.settings, tmp_path / "exports")
    table = lab.table(lab.export(lab.request(hours=3, tenant=tenant, feature_set=f"{view}_service")))
    lab.forget()
    assert_rows(repository, table.to_pylist(), 12)


def assert_history(repository: Repository, rows: pd.DataFrame, hours: list[datetime]) -> None:
    assert len(rows) == 2 * len(hours)
    for row in rows.to_dict("records"):
        asset = repository.asset if row["tenant_id"] == repository.tenant else repository.foreign
        assert repository.problems(row, row["event_timestamp"].to_pydatetime(), asset) == []


def test_apply__feature_that_is_gone__is_deleted_after_a_question(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    project, view = repository.project, repository.view
    project.done("apply")
    repository.declare(WITHOUT_LAG)
    assert f"deletes {view}.lag_48h with its values" in project.done("plan")
    refused = project.feast("apply", answer="n\n")
    assert refused.exit_code == 1
    assert "Delete these stored values?" in refused.output
    assert "lag_48h" in repository.expressions, "the registry is as it was"
    assert repository.history([floor_hour(datetime.now(UTC))])["lag_48h"].notna().all()
    declarations = project.declarations.read_text()
    project.declarations.write_text(declarations + OF_THE_SAME_NAME.format(name=view.upper()))
    assert "lag_48h" not in project.declarations.read_text()
    assert project.feast("apply", "--yes").exception, "Feast refuses it"
    assert repository.history([floor_hour(datetime.now(UTC))])["lag_48h"].notna().all()
    added = WITHOUT_LAG + '"lag_72h": Lag("value", timedelta(hours=72)),'
    repository.declare(added)
    known = time_of_the_server()
    project.done("apply", "--yes")
    assert "lag_48h" not in repository.expressions
    assert "lag_48h" not in project.done("plan")
    assert repository.history([floor_hour(datetime.now(UTC))])["lag_72h"].notna().all()
    repository.history([floor_hour(datetime.now(UTC))], known_at=known)
    assert f"{view}: lag_72h are declared as now since" in caplog.text
    project.done("projects", "delete", "ai_hub", "--yes")
    assert_gone(view)


@pytest.mark.parametrize("is_killed", [False, pytest.param(True, marks=pytest.mark.long)])
def test_materialize__feature_that_is_gone__has_no_value_beside_newer_ones(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    project, view = repository.project, repository.view

    def stored() -> set[str]:
        """Features of the meter's row in Redis, whatever the registry says of them."""
        (key,) = keys_of_value(
            client, project.name, [["tenant_id", "asset_id"]], "tenant_id", repository.tenant
        )
        names = ("lag_48h", "max_3d")
        fields = [_mmh3(f"{view}:{name}") for name in names]
        return {
            name for name, value in zip(names, client.hmget(key, fields), strict=True) if value is not None
        }

    project.done("apply")
    leave_others_out(repository)
    client = online_client(open_store(repository.settings))
    materialize(open_store(repository.settings), Scope([repository.tenant]))
    assert stored() == {"lag_48h", "max_3d"}
    repository.declare(WITHOUT_LAG)
    with monkeypatch.context() as patch:
        if is_killed:  # before Redis
            patch.setattr(materialize_run, "delete_outdated", lambda *_: None)
        project.done("apply", "--yes")
    behind = open_store(repository.settings)
    materialize(behind, Scope([repository.tenant]))
    assert stored() == {"max_3d"}

    repository.declare(FEATURES)
    project.done("apply", "--yes")
    materialize(open_store(repository.settings), Scope([repository.tenant]))
    assert stored() == {"lag_48h", "max_3d"}
    materialize(behind, Scope([repository.tenant]))
    assert stored() == {"lag_48h", "max_3d"}, "a writer with an earlier registry takes nothing out"


def test_apply__changed_meaning__ends_online_rows_of_views_that_read_it(repository: Repository) -> None:
    project, name = repository.project, repository.view
    more = FEATURES + '"lag_24h": Lag("value", timedelta(hours=24)),'
    changed = more.replace("hours=48", "hours=47")

    def apply(features: str) -> float | None:
        repository.declare(features)
        project.declarations.write_text(project.declarations.read_text() + OF_ITS_ROWS.format(name=name))
        project.done("apply")
        return online()

    def online() -> float | None:
        """What a view over the declared one has."""
        keys = {"tenant_id": repository.tenant, "asset_id": "meter"}
        answer = project.store().get_online_features([f"lags_{name}:lag_48h"], [keys]).to_dict()
        (value,) = answer["lag_48h"]
        assert value is None or isinstance(value, float)
        return value

    assert apply(FEATURES) is None
    leave_others_out(repository)
    follower = Follower(open_store(repository.settings), Scope([repository.tenant]), ages=False)
    follower.catch_up()
    before = apply(more)
    assert before is not None, "one more changes nothing of the others"
    assert apply(changed) is None
    assert follower.catch_up().rows[f"lags_{name}"] == 1
    assert online() not in {None, before}


def test_views_of_the_services__say_that_they_read_the_declared_one(energy: Energy) -> None:
    views = energy.store.list_feature_views()
    reading = {
        view.name
        for view in views
        if "FROM ai_features" in view.batch_source.get_table_query_string().replace('"', "")
        if view.name != "ai_features"
    }
    assert len(reading) == 4
    tagged = {view.name for view in views if view.tags.get("reads_declared_view") == "ai_features"}
    assert tagged == reading


def test_apply__what_cannot_be__is_named_with_its_place(repository: Repository) -> None:
    for features, problem in (
        ('"a": Lag("value", timedelta(minutes=30)),', "no whole number of steps"),
        ('"a": Lag("pressure_of_tyres", timedelta(hours=1)),', "no column 'pressure_of_tyres'"),
        ('"a": Aggregation("value", "median", timedelta(days=1)),', "no function 'median'"),
        ('"a": Holiday("XX"),', "at least one feature of readings"),
        ('"a": Lag("value", timedelta(hours=1)), "b": Holiday("XX"),', "no holidays of XX"),
        (
            '"a": Aggregation("value", "mean", timedelta(days=1), timedelta(minutes=20)),',
            "rows come every 15min, 30min, 1h, 1d",
        ),
    ):
        repository.declare(features)
        for command in ("plan", "apply"):
            result = repository.project.feast(command)
            assert isinstance(result.exception, AiHubError | DeclarationError)
            assert problem in str(result.exception)


def test_apply__killed_after_the_registry__completes(repository: Repository) -> None:
    project, view = repository.project, repository.view
    project.done("apply")
    with connect(autocommit=True) as connection:
        # as if it had ended between the registry and the tables
        connection.execute(f"DROP VIEW tenant_wall.{view}; DROP VIEW {view}".encode())
    assert f"~ alter {view}" in project.done("plan")
    project.done("apply")
    assert repository.history([floor_hour(datetime.now(UTC))])["lag_48h"].notna().all()
    project.declarations.write_text("")
    with allow_losses():
        # as a registry of another place that has a project of this name
        project.store().registry.delete_feature_view(view, "ai_hub")
        assert f"- drop {view}" not in project.done("plan")
        assert f"{view} is declared by a project ai_hub of another registry, and stays" in project.done(
            "apply"
        )
        with connect(autocommit=True) as connection:
            # as if it had ended after the view's end in the registry
            connection.execute("UPDATE declared_views SET leaving = true WHERE view_name = %s", [view])
        assert f"- drop {view}" in project.done("plan")
        project.done("apply", "--yes")
    assert_gone(view)


def assert_gone(view: str) -> None:
    with connect() as connection:
        assert connection.execute("SELECT to_regclass(%s)", [f"{view}_stored"]).fetchone() == (None,)
