"""Lineage: the files of a training set are those whose readings were known then, whatever came later."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import anyio
import numpy as np
import pytest
from mlflow import MlflowClient

from ai_hub import registry
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.errors import NotFoundError, ServiceDownError
from ai_hub.forecasting import lineage, log
from ai_hub.forecasting.log import Grid, Role, Run
from ai_hub.forecasting.service import ForecastService
from ai_hub.forecasting.training_rows import FeatureRows
from ai_hub.ingest.files import ingest_readings, ingest_weather
from ai_hub.ingest.options import Options
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import psycopg
    from support.energy import Energy

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
MODEL = "demand-forecast-electricity"
#: A cell of the oracle: asset and hour.
Cells = dict[tuple[str, datetime], float]


def add_assets(tenant: str, *assets: str) -> None:
    with connect() as connection:
        for asset in assets:
            connection.execute(
                "INSERT INTO assets (tenant_id, asset_id, kind, unit, interval_seconds, timezone)"
                " VALUES (%s, %s, 'electricity', 'kW', 3600, 'UTC')",
                [tenant, asset],
            )


def add_file(folder: Path, tenant: str, name: str, cells: Mapping[tuple[str, datetime], float]) -> None:
    path = folder / name
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "asset_id", "value"])
        writer.writerows([at.isoformat(), asset, value] for (asset, at), value in cells.items())
    ingest_readings(path, Options(tenant=tenant, timezone="UTC"), reject_file=folder / "rejected.csv")


def add_by_sql(tenant: str, cells: Cells) -> None:
    with connect() as connection:
        for (asset, at), value in cells.items():
            connection.execute(
                'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
                " VALUES (%s, %s, %s, %s)"
                ' ON CONFLICT (tenant_id, asset_id, "timestamp")'
                " DO UPDATE SET value = excluded.value, ingested_at = now()",
                [at, tenant, asset, value],
            )


def now() -> datetime:
    with connect() as connection:
        row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))])
def test_imports_used__equal_the_writers_of_then(
    database: str, tenant: str, tmp_path: Path, seed: int
) -> None:
    del database
    random = np.random.default_rng(seed)
    assets = ["a", "b", "c"]
    add_assets(tenant, *assets)
    hours = [START + number * HOUR for number in range(40)]
    #: who wrote each cell last; None: SQL
    writers: dict[tuple[str, datetime], str | None] = {}
    history: list[tuple[datetime, dict[tuple[str, datetime], str | None]]] = []
    for step in range(12):
        of = list(random.choice(assets, random.integers(1, 4), replace=False))
        first = int(random.integers(0, 36))
        chosen = hours[first : first + int(random.integers(1, 20))]
        if random.random() < 0.3:  # with holes
            chosen = [at for at in chosen if random.random() < 0.5] or chosen[:1]
        cells = {(asset, at): float(step + random.random()) for asset in of for at in chosen}
        name = None if random.random() < 0.25 else f"file-{step}.csv"
        if name is None:
            add_by_sql(tenant, cells)
        else:
            add_file(tmp_path, tenant, name, cells)
        writers |= dict.fromkeys(cells, name)
        history.append((now(), dict(writers)))
    checked = 0
    for known_at, then in history:
        for _ in range(4):
            of = list(random.choice(assets, random.integers(1, 4), replace=False))
            first, last = sorted(int(each) for each in random.integers(0, 41, 2))
            start, end = START + first * HOUR, START + last * HOUR
            within = [each for (asset, at), each in then.items() if asset in of and start <= at < end]
            with connect() as connection, as_tenant(connection, tenant):
                used, without_file = lineage.imports_used(
                    connection, tenant, of, start=start, end=end, known_at=known_at
                )
            assert {each.file_name for each in used} == {each for each in within if each}
            if known_at == history[-1][0]:
                assert without_file == sum(each is None for each in within)
            checked += len(used)
    assert checked > 20


def test_imports_used__of_deleted_readings_and_of_several_an_hour__are_not_left_out(
    database: str, tenant: str, tmp_path: Path
) -> None:
    del database
    add_assets(tenant, "a")
    half = {("a", START): 1.0, ("a", START + HOUR / 2): 2.0}
    with connect() as connection:
        connection.execute("UPDATE assets SET interval_seconds = 1800 WHERE tenant_id = %s", [tenant])
    add_file(tmp_path, tenant, "first.csv", half)
    add_file(tmp_path, tenant, "second.csv", {("a", START): 3.0})
    then = now()
    add_file(tmp_path, tenant, "third.csv", {("a", START + HOUR / 2): 4.0})
    with connect() as connection:
        connection.execute("DELETE FROM timeseries_data WHERE tenant_id = %s AND value = 3", [tenant])
        used, _ = lineage.imports_used(connection, tenant, ["a"], start=START, end=START + DAY, known_at=then)
        assert {each.file_name for each in used} == {"first.csv", "second.csv"}


def test_import__that_changes_nothing_or_is_of_weather__is_recorded(
    database: str, tenant: str, tmp_path: Path
) -> None:
    del database
    add_assets(tenant, "a")
    add_file(tmp_path, tenant, "same.csv", {("a", START): 1.0})
    add_file(tmp_path, tenant, "again.csv", {("a", START): 1.0})
    with connect() as connection, as_tenant(connection, tenant):
        rows = connection.execute(
            "SELECT file_name, row_count, finished_at > started_at, sha256,"
            " (SELECT count(*) FROM import_hours AS h WHERE h.import_id = i.import_id)"
            " FROM imports AS i ORDER BY started_at"
        ).fetchall()
    assert [row[:3] for row in rows] == [("same.csv", 1, True), ("again.csv", 0, True)]
    assert rows[0][3] == rows[1][3]
    assert [row[4] for row in rows] == [1, 0]


@pytest.fixture(scope="module")
def trained(energy: Energy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tenant with a version that was trained on one file; another one came later."""
    tenant = f"files-{energy.main}"
    folder = tmp_path_factory.mktemp("files")
    add_assets(tenant, "meter")
    random = np.random.default_rng(4)
    hours = [energy.now - (number + 1) * HOUR for number in range(28 * 24)]
    cells = {("meter", at): float(5 + at.hour % 7 + random.normal(0, 0.3)) for at in hours}
    add_file(folder, tenant, "history.csv", cells)
    with connect() as connection:  # an hour that no file has
        connection.execute(
            "UPDATE timeseries_data SET value = 5, ingested_at = now()"
            ' WHERE tenant_id = %s AND "timestamp" = %s',
            [tenant, hours[30]],
        )
    refresh()
    registry.ensure_tenant(tenant)
    options = ("--weeks", "4", "--holdout-weeks", "1", "--json")
    result = energy.run("ai-hub", "train", "--tenant", tenant, *options)
    assert result.returncode == 0, result.stderr
    (summary,) = json.loads(result.stdout)
    add_file(folder, tenant, "corrected.csv", {("meter", at): 9.0 for at in hours[100:124]})
    refresh()
    return {"tenant": tenant, "hours": hours, **summary}


def read(energy: Energy, tenant: str, *options: str) -> dict[str, Any]:
    result = energy.run("ai-hub", "lineage", "--tenant", tenant, *options, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_train__logs_tables_window_and_known_at(energy: Energy, trained: Any) -> None:
    with registry.tenant_scope(trained["tenant"]):
        run = MlflowClient(energy.environment["MLFLOW_TRACKING_URI"]).get_run(trained["run_id"])
    inputs = {tag.value: each.dataset for each in run.inputs.dataset_inputs for tag in each.tags}
    sources = {name: FeatureRows.from_json(each.source) for name, each in inputs.items()}
    window = {name: datetime.fromisoformat(at) for name, at in trained["window"].items()}
    edges = [window[name] for name in ("start", "validation", "holdout", "end")]
    assert [(each.start, each.end) for each in sources.values()] == list(pairwise(edges))
    for each in sources.values():
        assert each.tables == ("forecast_basic_features",)
        assert each.tenant == trained["tenant"]
        assert each.start - each.readings_from == timedelta(hours=24)
        assert abs(each.known_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert {each.source_type for each in inputs.values()} == {"ai_hub_feature_rows"}
    assert json.loads(inputs["training"].profile)["assets"] == ["meter"]
    assert json.loads(inputs["training"].profile)["num_rows"] == int(run.data.params["rows_train"])
    with pytest.raises(NotImplementedError, match="known_at"):
        sources["training"].load()


def test_lineage__of_a_version__has_its_file_and_not_the_later_one(energy: Energy, trained: Any) -> None:
    found = read(energy, trained["tenant"], MODEL, "--version", "1")
    assert [each["file_name"] for each in found["imports"]] == ["history.csv"]
    assert found["imports"][0]["row_count"] == len(trained["hours"])
    assert found["readings_without_file"] == 1
    assert found["gaps"][0].startswith("1 readings were written by something else")
    (version,) = found["versions"]
    assert (version["model_name"], version["version"], version["stage"]) == (MODEL, 1, "Staging")
    assert version["run_id"] == trained["run_id"]
    assert version["training_set"]["assets"] == ["meter"]


def test_lineage__of_files_and_assets__leads_to_what_was_trained_on_them(
    energy: Energy, trained: Any
) -> None:
    tenant = trained["tenant"]
    history = read(energy, tenant, "--file", "history.csv")
    assert [each["version"] for each in history["versions"]] == [1]
    by_digest = read(energy, tenant, "--file", history["imports"][0]["sha256"])
    assert by_digest == read(energy, tenant, "--file", history["imports"][0]["import_id"]) == history
    assert read(energy, tenant, "--file", "corrected.csv")["versions"] == []
    meter = read(energy, tenant, "--asset", "meter")
    assert [each["file_name"] for each in meter["imports"]] == ["corrected.csv", "history.csv"]
    assert [each["version"] for each in meter["versions"]] == [1]


def test_lineage__of_a_forecast__leads_back_to_files_and_on_to_scores(energy: Energy, trained: Any) -> None:
    tenant, issued_at = trained["tenant"], trained["hours"][90]
    version = registry.find_version(tenant, MODEL, 1)
    run = Run(
        *(tenant, MODEL, 1, "v1.0.0", version.manifest_sha256, Role.LIVE, issued_at),
        known_at=now(),
        step=HOUR,
        horizon=2 * HOUR,
        assets=("meter",),
        unit="kW",
    )
    other = replace(run, run_id=log.new_run_id(), manifest_sha256="ab" * 32)
    gone = replace(run, run_id=log.new_run_id(), version=7)
    with connect() as connection:
        for each in (run, other, gone):
            log.write(connection, each, Grid(np.array([[1.0, 2.0]])))
        # of its day, of another day, and of another version
        connection.execute(
            "INSERT INTO forecast_scores (tenant_id, asset_id, day, model, version, role, unit, lead_hours,"
            " hours, error, absolute, squared, actual, banded, covered, width)"
            " SELECT %s, 'meter', day, %s, version, 'live', 'kW', 0, 4, 1, 6, 9, 99, 0, 0, 0"
            " FROM (VALUES (%s::date, 1), (%s::date - 3, 1), (%s::date, 2)) AS v (day, version)",
            [tenant, MODEL, issued_at, issued_at, issued_at],
        )
    found = read(energy, tenant, "--forecast", str(run.run_id))
    # those of its own day, corrected meanwhile, and those of its version
    assert [each["file_name"] for each in found["imports"]] == ["corrected.csv", "history.csv"]
    assert [each["version"] for each in found["versions"]] == [1]
    assert [(each["version"], each["hours"], each["mae"]) for each in found["scores"]] == [(1, 4, 1.5)]
    assert [gap for gap in found["gaps"] if "files of" in gap or "no longer" in gap] == []
    assert "not those that the run was made with" in str(
        read(energy, tenant, "--forecast", str(other.run_id))["gaps"]
    )
    assert "7 is no longer in the registry" in str(
        read(energy, tenant, "--forecast", str(gone.run_id))["gaps"]
    ).replace("v1.0.0", "7")
    of_version = read(energy, tenant, MODEL, "--version", "1")
    assert [(each["role"], each["runs"]) for each in of_version["forecasts"]] == [("live", 2)]
    assert of_version["scores"][0]["hours"] == 8
    plain = energy.run("ai-hub", "lineage", "--tenant", tenant, MODEL, "--version", "1")
    assert "file      history.csv, 672 rows of timeseries_data" in plain.stdout
    assert "trained on forecast_basic_features" in plain.stdout
    assert "gap       1 readings" in plain.stdout


def test_forecast__is_traced_to_the_weather_that_was_forecast_for_it(
    trained: Any, tenant: str, tmp_path: Path
) -> None:
    add_assets(tenant, "meter", "station")
    with connect() as connection:
        connection.execute(
            "UPDATE assets SET weather_asset_id = 'station' WHERE tenant_id = %s AND asset_id = 'meter'",
            [tenant],
        )
        row = connection.execute(
            "SELECT weather_since AT TIME ZONE 'UTC' FROM assets WHERE tenant_id = %s AND asset_id = 'meter'",
            [tenant],
        ).fetchone()
    assert row is not None
    since = row[0]
    for name, lead in (("in-time.csv", 20), ("beyond.csv", 48)):
        path = tmp_path / name
        path.write_text(f"timestamp,asset_id,temperature\n{(START + lead * HOUR).isoformat()},station,7.5\n")
        ingest_weather(path, Options(tenant=tenant, timezone="UTC"), reject_file=tmp_path / "rejected.csv")
    # as if the version were of this tenant, and trained on a time long ago
    found = lineage.trained_version(trained["tenant"], MODEL, 1)
    assert found.training_set is not None
    edge = START - 400 * DAY
    rows = replace(found.training_set, start=edge, readings_from=edge - DAY, end=edge + DAY)
    version = replace(found, version=replace(found.version, tenant=tenant), training_set=rows)
    run = Run(
        *(tenant, MODEL, 1, "v1.0.0", found.version.manifest_sha256, Role.LIVE, START),
        known_at=now(),
        step=HOUR,
        horizon=48 * HOUR,
        assets=("meter",),
        unit="kW",
    )
    with connect() as connection:
        log.write(connection, run, Grid(np.ones((1, 48))))
    with connect() as connection, as_tenant(connection, tenant):
        back = lineage.of_forecast(connection, run, version)
        assert [each.file_name for each in back.imports] == ["in-time.csv"]
        # at the training it had another one, at the forecast this one
        (gap,) = (gap for gap in back.gaps if "stations" in gap)
        assert gap.startswith("of its training: weather is that of the stations that the meters have now (s")
        assert f"(station since {since:%Y-%m-%d %H:%MZ})" in gap
        for name, runs in (("in-time.csv", [1]), ("beyond.csv", [])):
            file = lineage.find_import(connection, tenant, name)
            on = lineage.of_import(connection, tenant, file, [version])
            assert ([each.runs for each in on.forecasts], on.gaps) == (runs, [])
    # another station since, and of an asset of before this was recorded nobody knows it
    with connect() as connection:
        connection.execute(
            "UPDATE assets SET weather_asset_id = NULL WHERE tenant_id = %s AND asset_id = 'meter'", [tenant]
        )
    with connect() as connection, as_tenant(connection, tenant):
        back = lineage.of_forecast(connection, run, version)
        assert sum("(their own since 20" in gap for gap in back.gaps) == 2
        on = lineage.of_import(connection, tenant, file, [version])
        (gap,) = on.gaps
        assert gap.startswith("1 meters have had another weather station since the file was read (meter)")
        assert "(their own since 20" in str(lineage.of_asset(connection, tenant, "meter", []).gaps)
        assert lineage.of_asset(connection, tenant, "station", []).gaps == []
    with connect() as connection:
        connection.execute(
            "UPDATE assets SET weather_asset_id = 'station' WHERE tenant_id = %s AND asset_id = 'meter'",
            [tenant],
        )
        # as if it had been removed after the forecast, and added again
        connection.execute(
            "UPDATE assets SET created_at = %(at)s, weather_since = %(at)s"
            " WHERE tenant_id = %(tenant)s AND asset_id = 'meter'",
            {"at": run.known_at + HOUR, "tenant": tenant},
        )
    with connect() as connection, as_tenant(connection, tenant):
        back = lineage.of_forecast(connection, run, version)
        assert sum("(station since 20" in gap for gap in back.gaps) == 2
        assert lineage.of_asset(connection, tenant, "meter", []).gaps == []
    with connect() as connection:
        connection.execute("UPDATE assets SET weather_since = NULL WHERE tenant_id = %s", [tenant])
    with connect() as connection, as_tenant(connection, tenant):
        assert "(station since nobody knows when)" in str(
            lineage.of_asset(connection, tenant, "meter", []).gaps
        )


def test_lineage__of_another_tenant_or_of_two_things__is_refused(energy: Energy, trained: Any) -> None:
    with pytest.raises(NotFoundError), connect() as connection, as_tenant(connection, energy.twin):
        lineage.find_import(connection, trained["tenant"], "history.csv")
    known_at = now()  # by a connection of its own
    with connect() as connection, as_tenant(connection, energy.twin):
        used, without_file = lineage.imports_used(
            connection,
            trained["tenant"],
            ["meter"],
            start=trained["hours"][-1],
            end=energy.now,
            known_at=known_at,
        )
        assert (used, without_file) == ([], 0)
    registry.ensure_tenant(energy.twin)
    result = energy.run("ai-hub", "lineage", MODEL, "--file", "x", "--tenant", energy.twin)
    assert result.returncode == 2
    assert "of one thing" in result.stderr
    result = energy.run("ai-hub", "lineage", "--file", "history.csv", "--tenant", energy.twin)
    assert "has no import history.csv" in result.stderr


def test_trace__has_one_limit_for_all_statements(
    database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del database
    monkeypatch.setattr("ai_hub.forecasting.service._TRACE_S", 2.0)
    ran: list[int] = []

    def work(connection: psycopg.Connection[Any]) -> None:
        for number in range(20):
            connection.execute("SELECT pg_sleep(0.3)")
            ran.append(number)

    async def trace() -> None:
        await ForecastService(Settings(), cast("Any", None)).trace(tenant, work)

    with pytest.raises(ServiceDownError):
        anyio.run(trace)
    # of 20; the embedded server looks at the time between statements
    assert 0 < len(ran) <= 7


def test_training_set__of_runs_that_do_not_say__is_none() -> None:
    foreign = {"source_type": "code", "source": "{}"}
    tag = {"key": "mlflow.data.context", "value": "training"}
    assert lineage.training_set({}) is None
    assert lineage.training_set({"inputs": {"dataset_inputs": [{"dataset": foreign, "tags": [tag]}]}}) is None
