"""From features and a model to predictions that say what they rest on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from ai_hub.api.schemas.features import FeatureSource
from ai_hub.client.errors import DegradedError
from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.api.schemas.features import AssetFeatures
    from ai_hub.client.models.live import LiveModel
    from ai_hub.client.models.loaded import LoadedModel

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


def wanted(model: LoadedModel) -> list[str]:
    """Features to ask for.

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
    live: LiveModel, model: LoadedModel, rows: Sequence[AssetFeatures], on_degraded: OnDegraded
) -> list[Prediction]:
    """Predictions of `model` for `rows`, in their order.

    Raises:
        DegradedError: one is degraded, and `on_degraded` is "raise".
    """
    inputs = [{name: row.features.get(name) for name in model.columns} for row in rows]
    known = [
        place for place, given in enumerate(inputs) if any(value is not None for value in given.values())
    ]
    answers = model.values([inputs[place] for place in known]) if known else ()
    values = dict(zip(known, map(float, answers), strict=True))
    stale = live.stale or live.version != model.version
    found = []
    for place, row in enumerate(rows):
        missing = tuple(name for name, value in inputs[place].items() if value is None)
        found.append(
            Prediction(
                asset_id=row.asset_id,
                value=values.get(place),
                hour=row.hour,
                version=model.version,
                semantic_version=model.semantic_version,
                missing=missing,
                degraded=row.degraded or not model.optional.issuperset(missing),
                stale=stale,
                source=row.source,
            )
        )
    if on_degraded == "raise" and any(each.degraded for each in found):
        raise DegradedError(found)
    return found
