"""Train, register, promote and predict through the command line and the SDK, on real servers."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from support.energy import add_meter

from ai_hub import registry
from ai_hub.db.connection import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.forecasting import TARGET, dataset
from ai_hub.forecasting.dataset import Window
from ai_hub.forecasting.fitting import model_input
from ai_hub.forecasting.predict import load, predict, production_models
from ai_hub.forecasting.train import plan, train

if TYPE_CHECKING:
    from pathlib import Path

    from support.energy import Energy

MODEL = "demand-forecast-electricity"
METERS = ("1", "11")
WEEKS = ("--weeks", "6", "--holdout-weeks", "1")


@pytest.fixture(scope="module")
def trained(energy: Energy) -> dict[str, Any]:
    """Summary of `ai-hub train`; its model is registered, not promoted."""
    meters = [option for meter in METERS for option in ("--asset", meter)]
    result = energy.run("ai-hub", "train", "--tenant", energy.main, *WEEKS, *meters, "--json")
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    (summary,) = json.loads(result.stdout)
    return dict(summary)


@pytest.fixture(scope="module")
def promoted(energy: Energy, trained: dict[str, Any]) -> dict[str, Any]:
    """The same with its model in production, and the newest features in Redis."""
    with pytest.raises(NotFoundError, match="no version in production") as caught:
        load(energy.main, MODEL)
    assert f"ai-hub promote {MODEL} --tenant {energy.main}" in (caught.value.hint or "")
    with pytest.raises(NotFoundError, match="no forecast model in production") as caught:
        production_models(energy.main)
    assert MODEL in (caught.value.hint or "")
    registry.promote(energy.main, MODEL, reason="test")
    energy.store.materialize(energy.now - timedelta(days=1), energy.now)
    return trained


def test_train__summary_says_what_was_done_and_the_model_beats_naive(energy: Energy, trained: Any) -> None:
    assert trained["model"] == MODEL
    assert trained["semantic_version"] == "v1.0.0"
    assert trained["feature_service"] == "forecast_basic"
    assert trained["assets"] == list(METERS)
    assert trained["unit"] == "kW"
    window = {name: datetime.fromisoformat(at) for name, at in trained["window"].items()}
    assert window == vars(Window.ending(energy.now, weeks=6, holdout_weeks=1))
    for comparison in (trained["overall"], *trained["by_asset"].values()):
        assert comparison["improvement"] > 0.1
    # every hour but those of the gap and what follows a gap by an hour, a day or a week
    assert 2 * 168 - 4 * 20 < trained["overall"]["model"]["hours"] < 2 * 168


def test_train__one_kind_of_two__prints_it_and_names_the_other(energy: Energy) -> None:
    tenant = f"mixed-{secrets.token_hex(4)}"
    add_meter(tenant, "school", "UTC", energy.now, weeks=3, level=2.0, seed=6)
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind, unit, timezone)"
            " VALUES (%s, 'boiler', 'gas', 'kW', 'UTC')",
            [tenant],
        )
        connection.execute(
            'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value) VALUES (%s, %s, %s, 1)',
            [energy.now - timedelta(hours=1), tenant, "boiler"],
        )
    refresh()
    options = ("--weeks", "3", "--holdout-weeks", "1", "--no-register", "--json")
    result = energy.run("ai-hub", "train", "--tenant", tenant, *options)
    assert result.returncode == 4, result.stderr
    assert [summary["model"] for summary in json.loads(result.stdout)] == [MODEL]
    assert "Not trained: gas (boiler): " in result.stderr
    assert "Traceback" not in result.stderr


def test_train__run_holds_what_makes_the_training_set_again(energy: Energy, trained: Any) -> None:
    with registry.tenant_scope(energy.main):
        client = MlflowClient(energy.environment["MLFLOW_TRACKING_URI"])
        run = client.get_run(trained["run_id"])
        artifacts = {item.path for item in client.list_artifacts(trained["run_id"])}
    assert run.info.status == "FINISHED"
    assert {"forecast_vs_actual.png", "feast_features.json", "evaluation.json"} <= artifacts
    assert run.data.params["feature_service"] == "forecast_basic"
    assert run.data.params["features"].split(",") == trained["features"]
    assert run.data.metrics["mae"] == pytest.approx(trained["overall"]["model"]["mae"])
    assert run.data.metrics["baseline_mae"] > run.data.metrics["mae"]
    assert [tag.value for item in run.inputs.dataset_inputs for tag in item.tags] == [
        "training",
        "validation",
        "holdout",
    ]
    window = Window.ending(datetime.fromisoformat(run.data.params["window_end"]), weeks=6, holdout_weeks=1)
    service = energy.store.get_feature_service(run.data.params["feature_service"])
    again = dataset.build(energy.store, service, energy.main, METERS, window)
    counted = sum(int(run.data.params[f"rows_{part}"]) for part in ("train", "validation", "holdout"))
    assert len(again.rows) == counted


def test_training_set__equals_the_readings_beside_the_view(energy: Energy) -> None:
    service = energy.store.get_feature_service("forecast_basic")
    window = Window.ending(energy.now, weeks=6, holdout_weeks=1)
    found = dataset.build(energy.store, service, energy.main, METERS, window)
    # from the raw readings, the mean of each hour; the first hour of a meter has no feature row
    query = """
        SELECT v.tenant_id, v.asset_id, v.event_timestamp, r.value,
            v.hour_of_day, v.day_of_week, v.is_weekend, v.historical_avg_24h, v.lag_1h, v.lag_24h
        FROM forecast_basic_features AS v
        JOIN (
            SELECT tenant_id, asset_id, date_trunc('hour', "timestamp") AS hour, avg(value) AS value
            FROM timeseries_data WHERE tenant_id = %(tenant)s GROUP BY 1, 2, 3
        ) AS r ON (r.tenant_id, r.asset_id, r.hour) = (v.tenant_id, v.asset_id, v.event_timestamp)
        WHERE v.tenant_id = %(tenant)s AND v.asset_id = ANY(%(assets)s)
        ORDER BY 3, 2
    """
    with connect() as connection:
        rows = connection.execute(query, {"tenant": energy.main, "assets": list(METERS)}).fetchall()
    columns = ["tenant_id", "asset_id", "event_timestamp", TARGET, *found.features]
    expected = pd.DataFrame(rows, columns=columns)
    pd.testing.assert_frame_equal(
        found.rows.drop(columns="event_timestamp"),
        expected.drop(columns="event_timestamp"),
        check_dtype=False,
        rtol=1e-12,
    )
    assert found.rows["event_timestamp"].to_list() == expected["event_timestamp"].to_list()
    assert found.without_features == 2


def test_train__twice_on_the_same_window__gives_the_same_model(energy: Energy) -> None:
    (wanted,) = plan(energy.main, "forecast_basic", assets=["1"])
    wanted = replace(wanted, weeks=4, holdout_weeks=1, until=energy.now)
    first, second = (train(energy.store, wanted, lambda _: None) for _ in range(2))
    assert first.booster.model_to_string() == second.booster.model_to_string()
    assert first.evaluation.overall == second.evaluation.overall


def test_plan__what_is_not_there__says_what_is(energy: Energy) -> None:
    with pytest.raises(NotFoundError, match="no meter nope") as caught:
        plan(energy.main, "forecast_basic", assets=["nope"])
    assert "fresh (electricity)" in (caught.value.hint or "")
    with pytest.raises(NotFoundError, match="no gas meters"):
        plan(energy.main, "forecast_basic", kind="gas")
    with pytest.raises(NotFoundError, match="no meters") as caught:
        plan("nobody", "forecast_basic")
    assert "ai-hub ingest" in (caught.value.hint or "")
    (wanted,) = plan(energy.main, "forecast_basic", assets=["fresh"])
    with pytest.raises(BadInputError, match="no training rows"):
        train(energy.store, wanted, lambda _: None)
    long_ago = replace(wanted, until=energy.now - timedelta(days=3650))
    with pytest.raises(NotFoundError, match="no readings of fresh"):
        train(energy.store, long_ago, lambda _: None)


def test_registered_model__loads_with_lightgbm_alone_and_as_pyfunc(
    energy: Energy, promoted: Any, tmp_path: Path
) -> None:
    version = registry.production_version(energy.main, MODEL)
    assert version.tags["feature_service"] == "forecast_basic"
    folder = registry.download_version(version, tmp_path / "model")
    booster = lgb.Booster(model_file=str(folder / "model.lgb"))
    assert booster.feature_name() == promoted["features"]
    response = energy.store.get_online_features(
        features=energy.store.get_feature_service("forecast_basic"),
        entity_rows=[{"tenant_id": energy.main, "asset_id": meter} for meter in METERS],
    ).to_df()
    matrix = model_input(response, promoted["features"])
    generic = mlflow.pyfunc.load_model(str(folder))
    np.testing.assert_array_equal(generic.predict(matrix), booster.predict(matrix))


def test_predict__production_model__gives_its_forecast_of_the_newest_features(
    energy: Energy, promoted: Any
) -> None:
    result = energy.run("ai-hub", "predict", "--tenant", energy.main, "--json")
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    (prediction,) = json.loads(result.stdout)
    assert (prediction["model"], prediction["semantic_version"]) == (MODEL, "v1.0.0")
    forecasts = {each["asset_id"]: each for each in prediction["forecasts"]}
    assert list(forecasts) == list(METERS)

    entities = pd.DataFrame({"tenant_id": energy.main, "asset_id": METERS, "event_timestamp": energy.now})
    offline = energy.store.get_historical_features(
        entity_df=entities, features=energy.store.get_feature_service("forecast_basic")
    ).to_df()
    expected = load(energy.main, MODEL).booster.predict(model_input(offline, promoted["features"]))
    assert [each["value"] for each in forecasts.values()] == pytest.approx(list(expected), abs=0)
    for each in forecasts.values():
        assert each["status"] in {"ok", "late"}
        assert datetime.fromisoformat(each["hour"]) == energy.now
        assert each["missing"] == []
    # a weekend's quietest hour is 0.3 of a meter's level, a working day's busiest 3
    assert 0.3 < forecasts["1"]["value"] < 12
    assert 0.1 < forecasts["11"]["value"] < 4


def test_predict__features_that_do_not_suffice__are_named_and_nothing_is_forecast(
    energy: Energy, promoted: Any
) -> None:
    del promoted
    model = load(energy.main, MODEL)
    known, fresh, unknown = predict(energy.store, model, ["1", "fresh", "nope"], energy.now)
    assert (known.status, known.missing) == ("ok", [])
    assert known.value is not None
    # its meter has five hours of readings
    assert (fresh.status, fresh.missing, fresh.value) == ("incomplete", ["lag_24h"], None)
    assert (unknown.status, unknown.hour, unknown.value) == ("unknown", None, None)

    for age, status in ((timedelta(hours=3), "late"), (timedelta(hours=3, seconds=1), "stale")):
        (aged,) = predict(energy.store, model, ["1"], energy.now + age)
        assert aged.status == status
        assert (aged.value is None) == (status == "stale")


def test_predict__other_tenant_with_the_same_asset__has_no_such_model(energy: Energy, promoted: Any) -> None:
    del promoted
    registry.ensure_tenant(energy.twin)
    with pytest.raises(NotFoundError, match="no version in production"):
        load(energy.twin, MODEL)
