"""One building gives equal targets and forecasts in any unit and interval; others are not pooled with it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ai_hub.db.connection import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, ConflictError
from ai_hub.forecasting import TARGET, predict
from ai_hub.forecasting.card import MAKER, MAKER_TAG, ModelCard
from ai_hub.forecasting.dataset import read_hours
from ai_hub.forecasting.train import TrainingPlan, train
from ai_hub.registry import ModelVersion

if TYPE_CHECKING:
    from support.energy import Energy

WEEKS = 3
QUARTER = timedelta(minutes=15)
VARIANTS = (("kWh", 15), ("Wh", 30), ("kW", 60))
PER_KW = {"kW": 1.0, "kWh": 1.0, "Wh": 1000.0, "MWh": 0.001}


def add(tenant: str, asset: str, unit: str | None, minutes: int, now: datetime, seed: int = 7) -> None:
    """The building of this seed as a meter of this unit and interval reads it, up to `now`."""
    random = np.random.default_rng(seed)
    count = WEEKS * 7 * 96
    times = [now - (count - at) * QUARTER for at in range(count)]
    quarters = np.array([3 + 2 * np.sin(at.hour / 24 * 2 * np.pi) for at in times])
    quarters = np.round(quarters + random.normal(0, 0.4, count), 3)
    size = minutes // 15
    factor = PER_KW[unit] * (minutes / 60 if unit.endswith("h") else 1) if unit else 1.0
    values = quarters.reshape(-1, size).mean(axis=1) * factor
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind, unit, interval_seconds)"
            " VALUES (%s, %s, 'electricity', %s, %s)",
            [tenant, asset, unit, minutes * 60],
        )
        connection.execute(
            'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
            " SELECT time, %s, %s, value FROM unnest(%s::timestamptz[], %s::float8[]) AS r (time, value)",
            [tenant, asset, times[::size], values.tolist()],
        )


def plan_of(tenant: str, *assets: str) -> TrainingPlan:
    return TrainingPlan(
        tenant, "forecast_basic", "electricity", assets, "demand", weeks=WEEKS, holdout_weeks=1
    )


def test_train__one_building_in_any_unit_and_interval__gives_equal_forecasts(
    energy: Energy, tenant: str
) -> None:
    for unit, minutes in VARIANTS:
        add(f"{tenant}-{minutes}", "m", unit, minutes, energy.now)
    refresh()
    start = energy.now - timedelta(weeks=WEEKS)
    targets = [read_hours(f"{tenant}-{minutes}", ["m"], start, energy.now) for _, minutes in VARIANTS]
    forecasts = []
    for _, minutes in VARIANTS:
        trained = train(energy.store, plan_of(f"{tenant}-{minutes}", "m"), lambda _: None)
        assert trained.card.unit == "kW"
        forecasts.append(trained.evaluation.hours["forecast"].to_numpy())
    assert len(forecasts[0]) == 168
    for hours, forecast in zip(targets, forecasts, strict=True):
        assert len(hours) == WEEKS * 168
        assert hours[TARGET].to_numpy() == pytest.approx(targets[0][TARGET].to_numpy(), rel=1e-9, abs=1e-9)
        assert forecast == pytest.approx(forecasts[0], rel=1e-9, abs=1e-9)


def test_train__kwh_and_mwh__are_one_model_and_other_quantities_are_refused(
    energy: Energy, tenant: str
) -> None:
    add(tenant, "house", "kWh", 60, energy.now)
    add(tenant, "plant", "MWh", 60, energy.now, seed=8)
    add(tenant, "unsaid", None, 60, energy.now)
    refresh()
    trained = train(energy.store, plan_of(tenant, "house", "plant"), lambda _: None)
    assert trained.card.unit == "kW"
    means = trained.split.train.groupby("asset_id")[TARGET].mean()
    assert means["house"] == pytest.approx(3, rel=0.1)
    assert means["plant"] == pytest.approx(3, rel=0.1)
    with pytest.raises(BadInputError, match="unsaid in no known unit") as caught:
        train(energy.store, plan_of(tenant, "house", "plant", "unsaid"), lambda _: None)
    assert "house, plant in kW" in caught.value.message


def test_load__model_made_from_averaged_energy__is_refused(
    monkeypatch: pytest.MonkeyPatch, energy: Energy
) -> None:
    del energy
    card = ModelCard("forecast_basic", ["lag_1h"], [], "electricity", ["m"], "kWh")

    class Version:
        semantic_version = "v1.0.0"
        tags = {MAKER_TAG: MAKER}  # noqa: RUF012

    monkeypatch.setattr(predict, "load_production", lambda *_: ((None, card), Version()))
    with pytest.raises(ConflictError, match="averaged readings in kWh"):
        predict.load("tenant", "demand")
    monkeypatch.setattr(predict, "load_production", lambda *_: ((None, None), Version()))
    with pytest.raises(ConflictError, match="does not say the unit"):
        predict.load("tenant", "demand")


def test_predict__asset_in_another_unit_than_the_models__is_refused(energy: Energy, tenant: str) -> None:
    add(tenant, "m", "kWh", 60, energy.now)
    refresh()
    trained = train(energy.store, plan_of(tenant, "m"), lambda _: None)
    version = ModelVersion(
        tenant, "demand", 1, "v1.0.0", "Production", ("production",), None, energy.now, {}, {}
    )
    model = predict.LoadedModel(trained.booster, trained.card, version)
    assert [each.status for each in predict.predict(energy.store, model)] == ["unknown"]
    with connect() as connection:
        connection.execute(
            "UPDATE assets SET unit = 'm3', kind = 'gas' WHERE tenant_id = %s AND asset_id = 'm'", [tenant]
        )
    with pytest.raises(ConflictError, match=r"demand v1\.0\.0 was trained in kW, but .* of m in m3/h"):
        predict.predict(energy.store, model)
