"""A model with a horizon in production, fitted to drawn features: what it forecasts is of no interest."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pytest

from ai_hub import registry
from ai_hub.db import connect
from ai_hub.features.store import get_service, open_store
from ai_hub.forecasting import day_ahead_tracking
from ai_hub.forecasting.card import ModelCard
from ai_hub.forecasting.day_ahead import fit
from ai_hub.forecasting.issue_history import issue_features
from ai_hub.forecasting.issues import DAY, HOUR, IssueRows, instants
from ai_hub.forecasting.log import QUANTILES, Grid, Role, Run, new_run_id, write
from ai_hub.forecasting.tracking import register_model, tracked_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

MODEL = "day-ahead-electricity"
SERVICE = "day_ahead"


def logged_forecast(tenant: str, model: str, asset: str = "1", forecast_id: UUID | None = None) -> str:
    """Id of a forecast that is in the log, of a version that is nowhere."""
    at = datetime(2026, 3, 2, tzinfo=UTC)
    run = Run(
        *(tenant, model, 1, "v1.0.0", "ab" * 32, Role.LIVE, at, at),
        step=HOUR,
        horizon=2 * HOUR,
        assets=(asset,),
        run_id=forecast_id or new_run_id(),
    )
    with connect() as connection:
        write(connection, run, Grid(np.array([[1.0, 2.0]])))
    return str(run.run_id)


def promote_day_ahead(tenant: str, assets: Sequence[str], *, model: str = MODEL, seed: int = 0) -> None:
    """Fit, register and promote a model of kW for the assets."""
    registry.promote(
        tenant, model, version=str(register_day_ahead(tenant, assets, model=model, seed=seed)), reason="test"
    )


def register_day_ahead(
    tenant: str,
    assets: Sequence[str],
    *,
    model: str = MODEL,
    seed: int = 0,
    leads: int = 48,
    unit: str = "kW",
    trained: tuple[datetime, datetime] | None = None,
) -> int:
    """Fit and register a model for the assets; `trained`: what it says it was trained on."""
    store = open_store()
    features = issue_features(store, get_service(store, SERVICE), QUANTILES)
    inputs = features.recipe.inputs
    drawn = np.random.default_rng(seed)
    issues = instants(datetime(2025, 1, 1, tzinfo=UTC) + DAY * number for number in range(30))
    shape = (len(issues), leads)
    rows = IssueRows(
        tenant,
        np.array(["drawn"] * len(issues)),
        issues,
        features.declaration.step,
        {name: drawn.gamma(3, 1, len(issues)) for name in inputs.scalars},
        {name: drawn.gamma(3, 1, shape) for name in inputs.arrays},
        drawn.gamma(3, 1, shape),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ai_hub.forecasting.day_ahead.ROUNDS", 10)
        fitted = fit(rows, features.recipe)
    facts = ModelCard(
        feature_service=SERVICE,
        features=[*inputs.scalars, *inputs.arrays],
        optional=[*inputs.scalars, *inputs.arrays],
        kind="electricity",
        assets=sorted(assets),
        unit=unit,
        horizon_hours=leads,
        step_minutes=60,
        quantiles=list(QUANTILES),
    )
    registry.ensure_tenant(tenant)
    tags = day_ahead_tracking._tags(facts)
    with client_of_its_own():
        with tracked_run(tenant, model, tags):
            if trained is not None:
                mlflow.log_params({"window_start": str(trained[0]), "window_end": str(trained[1])})
            logged = day_ahead_tracking._log_model(fitted, facts)
        return int(register_model(model, logged, tags).version)


@contextmanager
def client_of_its_own() -> Iterator[None]:
    """What a command that trains sets for its whole process, taken back: the tests of this one go on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", os.environ["MLFLOW_TRACKING_URI"])
        for name in ("MLFLOW_WORKSPACE", "MLFLOW_EXPERIMENT_ID"):
            patch.setenv(name, "")
            patch.delenv(name)
        patch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
        patch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
        try:
            yield
        finally:
            mlflow.set_workspace(None)
