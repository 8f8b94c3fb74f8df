"""Train, test and load a model with a horizon through the command line and the SDK, on real servers."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from feast import FeatureService
from mlflow import MlflowClient
from support.feature_tables import register, write

from ai_hub import registry
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.features.store import open_store
from ai_hub.forecasting import log
from ai_hub.forecasting.day_ahead import DayAheadModel
from ai_hub.forecasting.day_ahead_training import Horizon, read, train_day_ahead
from ai_hub.forecasting.issue_history import issue_features, read_meters, view_values
from ai_hub.forecasting.issues import HOUR, IssueRule
from ai_hub.forecasting.predict import load, production_models, read_card
from ai_hub.forecasting.train import plan, train

if TYPE_CHECKING:
    from support.energy import Energy

    from ai_hub.forecasting.card import ModelCard
    from ai_hub.forecasting.train import TrainingPlan

MODEL = "day-ahead-electricity"
METERS = ("1", "11")
WEEKS = ("--weeks", "6", "--horizon", "48h")


@pytest.fixture(scope="module")
def trained(energy: Energy) -> dict[str, Any]:
    """Summary of `ai-hub train --horizon 48h`; its model is registered, not promoted."""
    meters = [option for meter in METERS for option in ("--asset", meter)]
    result = energy.run(
        "ai-hub", "train", "--tenant", energy.main, *WEEKS, "--holdout-weeks", "1", *meters, "--json"
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    (summary,) = json.loads(result.stdout)
    return dict(summary)


@pytest.fixture(scope="module")
def promoted(energy: Energy, trained: dict[str, Any]) -> dict[str, Any]:
    """The same with its model in production."""
    registry.promote(energy.main, MODEL, reason="test")
    return trained


def plan_of(energy: Energy, service: str = "day_ahead") -> TrainingPlan:
    (wanted,) = plan(energy.main, service, assets=METERS, prefix="day-ahead")
    return replace(wanted, weeks=6, holdout_weeks=1, until=energy.now)


def test_train__summary_says_what_was_done_and_the_model_beats_naive(trained: Any) -> None:
    assert (trained["model"], trained["semantic_version"]) == (MODEL, "v1.0.0")
    assert (trained["feature_service"], trained["horizon_hours"], trained["step_minutes"]) == (
        "day_ahead",
        48,
        60,
    )
    assert trained["quantiles"] == [0.1, 0.5, 0.9]
    assert trained["unit"] == "kW"
    assert list(trained["by_lead"]) == ["0-6 h", "6-12 h", "12-24 h", "24-36 h", "36-48 h"]
    assert trained["overall"]["improvement"] > 0.05
    assert trained["overall"]["model"]["n"] > 300


def test_meters__whose_readings_say_when_they_arrived__have_the_hours_until_then(energy: Energy) -> None:
    tenant, other = (f"told-{secrets.token_hex(4)}" for _ in range(2))
    times = [energy.now - number * HOUR / 2 for number in range(1, 97)]
    told = {at: at + (30 + number % 5) * HOUR for number, at in enumerate(times) if number % 7}
    with connect(autocommit=True) as connection:
        for name, asset, arrived in [(tenant, "m", told), (tenant, "n", {}), (other, "m", {})]:
            register(connection, name, asset, "UTC")
            write(connection, name, asset, dict.fromkeys(times, 1.0), arrived)
        connection.execute("UPDATE assets SET available_after = '40h' WHERE tenant_id = %s", [tenant])
    refresh()
    features = issue_features(energy.store, energy.store.get_feature_service("day_ahead"), (0.5,))
    span = (energy.now - 10 * HOUR, energy.now)
    assert read_meters(energy.store, features, other, ["m"], span).arrived is None
    arrived = read_meters(energy.store, features, tenant, ["m", "n"], span).arrived
    assert arrived is not None
    hours = sorted({at.replace(minute=0) for at in times})
    starts = np.array([[np.datetime64(at.replace(tzinfo=None), "us") for at in hours]] * 2)
    of_told, of_other = arrived.at(np.array(["m", "n"]), starts)
    assert np.isnan(of_other).all()
    for begin, found in zip(hours, of_told, strict=True):
        ends = [told.get(at, begin + 41 * HOUR) for at in times if begin <= at < begin + HOUR]
        assert found == pytest.approx((max(ends) - begin - HOUR) / HOUR), begin


def test_issues__are_features_and_values_as_the_store_has_them(energy: Energy) -> None:
    data = read(energy.store, plan_of(energy), Horizon(length=6 * HOUR), lambda _: None)
    rows = data.rows
    assert rows.leads == 6
    assert set(rows.assets) == set(METERS)
    row = int(np.flatnonzero(rows.assets == "1")[-3])
    issue = pd.Timestamp(rows.issued_at[row]).tz_localize("UTC")
    found = energy.store.get_historical_features(
        entity_df=pd.DataFrame({"tenant_id": [energy.main], "asset_id": ["1"], "event_timestamp": [issue]}),
        features=energy.store.get_feature_service("day_ahead"),
    ).to_df()
    for name in data.recipe.inputs.arrays:
        np.testing.assert_array_equal(rows.arrays[name][row], found[name][0][:6])
    for name in data.recipe.inputs.scalars:
        np.testing.assert_array_equal(rows.scalars[name][row], found[name][0])
    assert "same_hour_1d" in data.recipe.inputs.usual
    assert data.recipe.elevation == "target_sun_elevation"
    assert data.recipe.wind == "target_wind_power"
    assert not {"target_temperature", "target_hour_of_day"} & data.recipe.inputs.in_unit
    # the value of an hour is what the row after it calls the last hour's
    later = energy.store.get_historical_features(
        entity_df=pd.DataFrame(
            {
                "tenant_id": energy.main,
                "asset_id": "1",
                "event_timestamp": [issue + (i + 1) * HOUR for i in range(6)],
            }
        ),
        features=["ai_features:lag_1h"],
    ).to_df()
    assert rows.actual is not None
    expected = later.sort_values("event_timestamp")["lag_1h"].to_numpy()
    np.testing.assert_allclose(rows.actual[row], expected, rtol=1e-12)


def test_view_values__of_stored_rows__are_those_of_the_hours(energy: Energy) -> None:
    """What targets of steps other than an hour are read from."""
    features = issue_features(energy.store, energy.store.get_feature_service("day_ahead"), (0.5,))
    span = (energy.now - timedelta(days=20), energy.now)
    hours = read_meters(energy.store, features, energy.main, METERS, span).values  # noqa: PD011  # no pandas
    for known_at in (None, datetime.now(UTC)):
        found = view_values(open_store(known_at=known_at), features, energy.main, METERS, span)
        assert found is not None
        starts = np.tile(found.start + np.arange(20 * 24) * np.timedelta64(HOUR), (len(METERS), 1))
        expected = hours.at(found.assets, starts)
        assert np.isfinite(expected).sum() > 900
        np.testing.assert_allclose(found.at(found.assets, starts), expected, rtol=1e-12)
    assert view_values(energy.store, features, energy.main, ["nope"], span) is None


def test_horizon__that_the_features_do_not_have__is_refused(energy: Energy) -> None:
    for horizon, message in (
        (Horizon(length=72 * HOUR), "looks 48 h ahead"),
        (Horizon(step=timedelta(minutes=15)), "steps of 1 h"),
        (Horizon(issue=IssueRule.parse("D-2 10:00 UTC")), "ends before the day of delivery"),
    ):
        with pytest.raises(BadInputError, match=message):
            read(energy.store, plan_of(energy), horizon, lambda _: None)
    with pytest.raises(BadInputError, match="no view with a horizon"):
        read(energy.store, plan_of(energy, "forecast_basic"), Horizon(), lambda _: None)
    view = energy.store.get_feature_view("day_ahead_features")
    service = FeatureService(name="of_the_issue", features=[view[["issue_value"]]])
    with pytest.raises(BadInputError, match="no features of the steps ahead of a view with a horizon"):
        issue_features(energy.store, service, (0.5,))


def test_train__next_hour_on_features_of_the_steps_ahead__says_to_give_a_horizon(energy: Energy) -> None:
    with pytest.raises(BadInputError, match="features of the steps ahead") as caught:
        train(energy.store, plan_of(energy), lambda _: None)
    assert "--horizon 48h" in (caught.value.hint or "")


def test_registered_model__gives_the_bits_of_the_trained_one(
    energy: Energy, promoted: Any, tmp_path: Path
) -> None:
    def read_model(folder: str) -> tuple[DayAheadModel, ModelCard | None]:
        return DayAheadModel.load(Path(folder) / "data" / "day_ahead"), read_card(folder)

    # each file is checked against the manifest
    (loaded, card), _ = registry.load_production(energy.main, MODEL, read_model)
    assert (card.horizon_hours, card.point, card.assets) == (48, "median", list(METERS))
    again = train_day_ahead(energy.store, plan_of(energy), Horizon(), lambda _: None)
    rows = read(energy.store, plan_of(energy), Horizon(), lambda _: None).rows
    expected, found = again.model.forecast(rows), loaded.forecast(rows)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.quantiles, expected.quantiles)
    assert promoted["overall"]["model"]["mae"] == again.backtest.overall.model.mae

    version = registry.production_version(energy.main, MODEL)
    generic = mlflow.pyfunc.load_model(str(registry.download_version(version, tmp_path / "model")))
    features = energy.store.get_historical_features(
        entity_df=pd.DataFrame(
            {
                "tenant_id": energy.main,
                "asset_id": ["11"],
                "event_timestamp": pd.to_datetime(rows.issued_at[-1:], utc=True),
            }
        ),
        features=energy.store.get_feature_service("day_ahead"),
    ).to_df()
    features["event_timestamp"] = features["event_timestamp"].dt.tz_localize(None)
    answer = generic.predict(features[["asset_id", "event_timestamp", *card.features]])
    row = np.flatnonzero((rows.assets == "11") & (rows.issued_at == rows.issued_at[-1]))
    np.testing.assert_array_equal(answer["forecast"][0], found.values[row[0]])  # noqa: PD011  # no pandas
    np.testing.assert_array_equal(answer["q0.9"][0], found.quantiles[row[0], :, 2])
    # a null of Feast is a missing list
    features["same_hour_1d"] = [None]
    (degraded,) = generic.predict(features[["asset_id", "event_timestamp", *card.features]])["forecast"]
    assert np.isfinite(degraded).all()
    assert not np.array_equal(degraded, found.values[row[0]])  # noqa: PD011  # no pandas


def test_predict__of_the_hour_under_way__takes_no_model_with_a_horizon(energy: Energy, promoted: Any) -> None:
    del promoted
    with pytest.raises(NotFoundError, match="no forecast model in production"):
        production_models(energy.main)
    with pytest.raises(ConflictError, match="forecasts 48 hours ahead"):
        load(energy.main, MODEL)


def test_backtest__of_a_model__is_shown_drawn_and_logged_to_it(
    energy: Energy, promoted: Any, tmp_path: Path
) -> None:
    picture = tmp_path / "backtest.png"
    options = (
        "--weeks",
        "6",
        "--test-weeks",
        "1",
        "--refit-weeks",
        "1",
        "--plot",
        str(picture),
        "--json",
        "--record",
    )
    result = energy.run("ai-hub", "backtest", MODEL, "--tenant", energy.main, *options)
    assert result.returncode == 0, result.stderr
    (summary,) = json.loads(result.stdout)
    assert summary["horizon_hours"] == promoted["horizon_hours"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    with registry.tenant_scope(energy.main):
        client = MlflowClient(energy.environment["MLFLOW_TRACKING_URI"])
        run = client.get_run(summary["run_id"])
        (output,) = client.get_run(promoted["run_id"]).outputs.model_outputs
        model = client.get_logged_model(output.model_id)
        artifacts = {item.path for item in client.list_artifacts(summary["run_id"])}
    assert run.data.metrics["mae"] == pytest.approx(summary["overall"]["model"]["mae"])
    assert run.data.metrics["lead.24-36_h.coverage"] == pytest.approx(
        summary["by_lead"]["24-36 h"]["model"]["coverage"]
    )
    assert {"backtest.json", "backtest.png"} <= artifacts
    of_backtest = [each for each in model.metrics if each.run_id == summary["run_id"]]
    assert {each.key for each in of_backtest} >= {"mae", "coverage", "baseline_mae"}
    assert {each.dataset_name for each in of_backtest} == {"day_ahead-electricity-backtest"}
    # in the log, and nobody takes them for what was forecast then
    with connect() as connection:
        runs, count = log.list_runs(connection, energy.main, role=log.Role.BACKTEST, limit=1000)
        start = min(run.issued_at for run in runs)
        assert log.valid_at(connection, energy.main, "11", datetime.now(UTC), start=start, model=MODEL) == []
    assert count == summary["recorded"]
    assert {(run.version, run.details["mlflow_run"]) for run in runs} == {(None, summary["run_id"])}
    assert sum(len(run.assets) for run in runs) == summary["issues"]
