"""Predictions from features and a model, with what they were made from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from ai_hub.api.schemas.features import FeatureSource
from ai_hub.client.errors import DegradedError
from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ai_hub.api.schemas.features import AssetFeatures
    from ai_hub.client.production_model import ProductionModel
    from ai_hub.forecasting.models.loading import LoadedModel


OnDegraded = Literal["flag", "raise"]


@dataclass(frozen=True)
class Prediction:
    """What the production model says about one asset."""

    asset_id: str
    #: None: no feature of the asset has a value
    value: float | None
    #: start of the hour its features describe; None: not known
    hour: datetime | None
    #: the version that said so
    version: int
    semantic_version: str | None
    #: features the model uses that had no value
    missing: tuple[str, ...]
    #: servers behind the features were down, or a feature is missing that the model was not trained without
    degraded: bool
    #: the registry could not confirm that this version is still in Production
    stale: bool
    #: where the features came from
    source: FeatureSource


def required_features(model: LoadedModel) -> list[str]:
    """Names of the features that the model uses.

    Raises:
        ConflictError: the model does not say.
    """
    if not model.columns:
        raise ConflictError(
            f"{model.name} {model.semantic_version or model.version} does not say which features it uses.",
            hint="Log it with a signature, or ask model(…).predict(rows) with rows of your own.",
        )
    return list(model.columns)


def predict(
    production: ProductionModel, model: LoadedModel, rows: Sequence[AssetFeatures], on_degraded: OnDegraded
) -> list[Prediction]:
    """Predictions of `model` for `rows`, in their order.

    Raises:
        DegradedError: one is degraded, and `on_degraded` is "raise".
    """
    inputs = [{name: row.features.get(name) for name in model.columns} for row in rows]
    filled = [
        index
        for index, features in enumerate(inputs)
        if any(value is not None for value in features.values())
    ]
    outputs = model.values([inputs[index] for index in filled]) if filled else ()
    values = dict(zip(filled, map(float, outputs), strict=True))
    stale = production.stale or production.version != model.version
    predictions = []
    for index, row in enumerate(rows):
        missing = tuple(name for name, value in inputs[index].items() if value is None)
        predictions.append(
            Prediction(
                asset_id=row.asset_id,
                value=values.get(index),
                hour=row.hour,
                version=model.version,
                semantic_version=model.semantic_version,
                missing=missing,
                degraded=row.degraded or not model.optional.issuperset(missing),
                stale=stale,
                source=row.source,
            )
        )
    if on_degraded == "raise" and any(prediction.degraded for prediction in predictions):
        raise DegradedError(predictions)
    return predictions


#: Seconds before an asset's unit, which hardly ever changes, is asked for again.
_UNIT_TTL_S = 600.0
_UNITS = 100_000


class UnitCache:
    """Units of the features of one tenant's assets, as the service said last; may be shared by threads."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[float, bool, str | None]] = {}

    def due(self, assets: Iterable[str]) -> list[str]:
        """Those of the assets that are to be asked for."""
        now, entries = time.monotonic(), self._entries
        return [asset for asset in dict.fromkeys(assets) if entries.get(asset, (0.0,))[0] <= now]

    def put(self, assets: Sequence[str], units: Mapping[str, str | None]) -> None:
        """Keep the units of `assets`; one that is not in `units` is not registered."""
        until = time.monotonic() + _UNIT_TTL_S
        if len(self._entries) + len(assets) > _UNITS:
            self._entries = {}
        self._entries.update({asset: (until, asset in units, units.get(asset)) for asset in assets})

    def get(self, assets: Iterable[str]) -> dict[str, str | None]:
        """Units of those assets that are in the cache and registered."""
        entries = self._entries  # another thread may replace it meanwhile
        cached = {asset: entries[asset] for asset in assets if asset in entries}
        return {asset: unit for asset, (_, is_registered, unit) in cached.items() if is_registered}
