"""Forecasts of the production model from the newest online features."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import lightgbm as lgb
import yaml

from ai_hub.db.connection import connect
from ai_hub.errors import ConflictError, NotFoundError
from ai_hub.features.store import OnlineRow, feature_names, get_service, read_online
from ai_hub.forecasting.card import HORIZON_TAG, MAKER, MAKER_TAG, ModelCard, check_units, require_card
from ai_hub.forecasting.fitting import model_input
from ai_hub.registry import ModelVersion, load_production
from ai_hub.registry.versions import search
from mlflow_plugins.lifecycle.rules import PRODUCTION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import FeatureStore


#: Where MLflow's LightGBM flavor keeps the model, readable with LightGBM alone.
MODEL_FILE = "model.lgb"
#: What MLflow says of a model, as YAML.
DESCRIPTION = "MLmodel"
_HOUR_S = 3600


@dataclass(frozen=True)
class LoadedModel:
    """A model from the registry and what it was trained with."""

    booster: lgb.Booster
    card: ModelCard
    version: ModelVersion


@dataclass(frozen=True)
class Forecast:
    """Forecast of one asset, or why there is none."""

    asset_id: str
    #: start of the hour that is forecast
    hour: datetime | None
    value: float | None
    #: `ok`, or `late`: the hour is over and newer features are not materialized;
    #: without a forecast: `stale`, `incomplete` (features missing) or `unknown` (not in Redis)
    status: str
    #: features without a value
    missing: list[str]
    features: dict[str, float | None]


def load(tenant: str, model: str) -> LoadedModel:
    """The model in production.

    Raises:
        ConflictError: it does not say what it was trained with, or that was averages of energy, or its files
            were changed.
        NotFoundError: nothing is in production; says how to promote.
    """
    try:
        (booster, card), version = load_production(tenant, model, _read)
    except NotFoundError as error:
        raise NotFoundError(
            f"Model {model} of tenant {tenant} has no version in production.",
            hint=f"{error.hint or error.message}\n"
            f"Promote one with `ai-hub promote {model} --tenant {tenant}`, or train one with "
            f"`ai-hub train --tenant {tenant} --service forecast_basic`.",
        ) from error
    require_card(f"{model} {version.semantic_version}", tenant, card, version.tags)
    if card is None:
        raise ConflictError(
            f"{model} {version.semantic_version} does not say which features it was trained with.",
            hint="Only models made by `ai-hub train` can be asked this way.",
        )
    return LoadedModel(booster, card, version)


def production_models(tenant: str) -> list[str]:
    """Names of the tenant's models in production that `ai-hub train` made without a horizon.

    Raises:
        NotFoundError: there is none; says how to promote.
    """
    models = [version.model for version in search(tenant, stage=PRODUCTION) if _is_of_next_hour(version)]
    if not models:
        waiting = sorted({item.model for item in search(tenant) if _is_of_next_hour(item)})
        raise NotFoundError(
            f"Tenant {tenant} has no forecast model in production.",
            hint=f"Promote one with `ai-hub promote MODEL --tenant {tenant}`: {', '.join(waiting)}."
            if waiting
            else f"Train one with `ai-hub train --tenant {tenant}`.",
        )
    return sorted(models)


def _is_of_next_hour(version: ModelVersion) -> bool:
    return version.tags.get(MAKER_TAG) == MAKER and HORIZON_TAG not in version.tags


def _read(folder: str) -> tuple[lgb.Booster, ModelCard | None]:
    card = read_card(folder)
    if card is not None and card.horizon_hours is not None:
        raise ConflictError(
            f"This model forecasts {card.horizon_hours:g} hours ahead, not the hour under way.",
            hint="Use a model that was trained without --horizon.",
        )
    return lgb.Booster(model_file=str(Path(folder) / MODEL_FILE)), card


def read_card(folder: str) -> ModelCard | None:
    """The card in a model's folder; None when it has none."""
    description = yaml.safe_load((Path(folder) / DESCRIPTION).read_text())
    return ModelCard.from_metadata(description.get("metadata"))


def predict(
    store: FeatureStore, model: LoadedModel, assets: Sequence[str] = (), now: datetime | None = None
) -> list[Forecast]:
    """Forecast `assets` (default: those the model was trained on) from their newest online features.

    Raises:
        ConflictError: the feature service no longer gives what the model was trained with, or an asset's
            features are no longer in its unit.
    """
    card = model.card
    service = get_service(store, card.feature_service)
    if absent := sorted(set(card.features) - set(feature_names(service))):
        raise ConflictError(
            f"Feature service {card.feature_service} no longer has {', '.join(absent)}, "
            f"which {model.version.model} {model.version.semantic_version} was trained with.",
            hint="Restore the features and run `feast apply`, or train the model anew.",
        )
    tenant, asset_ids = model.version.tenant, assets or card.assets
    check_units(
        f"{model.version.model} {model.version.semantic_version}", tenant, card, _units(tenant, asset_ids)
    )
    rows = read_online(store, service, tenant, asset_ids)
    now = now or datetime.now(UTC)
    statuses = [_status(row, card, now) for row in rows]
    usable = [row for row, status in zip(rows, statuses, strict=True) if status in {"ok", "late"}]
    values = iter(
        model.booster.predict(model_input([row.features for row in usable], card.features)) if usable else ()
    )
    return [
        Forecast(
            asset_id=row.asset_id,
            hour=row.hour,
            value=float(next(values)) if status in {"ok", "late"} else None,
            status=status,
            missing=row.missing,
            features=row.features,
        )
        for row, status in zip(rows, statuses, strict=True)
    ]


def _units(tenant: str, assets: Sequence[str]) -> dict[str, str | None]:
    """What the features of these assets are in; one that is not registered is not among them."""
    with connect() as connection:
        rows = connection.execute(
            "SELECT asset_id, feature_unit FROM assets WHERE tenant_id = %s AND asset_id = ANY(%s)",
            [tenant, list(assets)],
        )
        return dict(rows.fetchall())


def _status(row: OnlineRow, card: ModelCard, now: datetime) -> str:
    if row.hour is None:
        return "unknown"
    if row.is_stale(now):
        return "stale"
    if set(row.missing) - set(card.optional):
        return "incomplete"
    return "ok" if (now - row.hour).total_seconds() < _HOUR_S else "late"
