"""What prediction must know about a model; stored in it as MLflow model metadata."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ai_hub.errors import ConflictError
from ai_hub.ingest.units import is_amount

if TYPE_CHECKING:
    from collections.abc import Mapping


#: Tag of runs and versions whose models carry a card.
MAKER_TAG = "trained_by"
MAKER = "ai-hub train"
#: Tag of runs and versions of models with a horizon: its hours.
HORIZON_TAG = "horizon_hours"
#: Assets that an error names.
_NAMED = 5


@dataclass(frozen=True)
class ModelCard:
    """What a model was trained on."""

    feature_service: str
    features: list[str]
    #: features missing so often in training that the model knows what to do without them
    optional: list[str]
    kind: str
    assets: list[str]
    #: unit of the hours and forecasts, such as kW; None: nobody said it
    unit: str | None
    #: ISO time whose knowledge it was trained with; None: that of the time of training
    known_at: str | None = None
    #: how far ahead it forecasts; None: the hour under way
    horizon_hours: float | None = None
    #: of its forecasts, with a horizon
    step_minutes: int | None = None
    quantiles: list[float] | None = None
    #: what its point forecast is: the median or the mean
    point: str | None = None
    #: when forecasts are issued, such as `D-1 10:00 Europe/Berlin`; None: at any time
    issue: str | None = None
    #: by feature: 1 where forecasts do not fall as it rises, -1 where they do not rise
    monotone: dict[str, int] | None = None
    #: entry point of the estimator; None: LightGBM
    estimator: str | None = None

    def as_metadata(self) -> dict[str, Any]:
        """Plain values, for the model's `metadata`."""
        return asdict(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any] | None) -> ModelCard | None:
        """The card in a model's `metadata`; None when it has none."""
        card_fields = fields(cls)
        required = {field.name for field in card_fields if field.default is MISSING}
        if not metadata or not required <= set(metadata):
            return None
        return cls(**{field.name: metadata[field.name] for field in card_fields if field.name in metadata})


def require_card(model: str, tenant: str, card: ModelCard | None, tags: Mapping[str, str]) -> None:
    """Refuse a version of `ai-hub train` that is older than units of features.

    Raises:
        ConflictError: it does not say its unit, or was trained on averages of energy.
    """
    anew = f"Train it anew with `ai-hub train --tenant {tenant}`."
    if card is None and tags.get(MAKER_TAG) == MAKER:
        raise ConflictError(f"{model} does not say the unit it was trained in.", hint=anew)
    if card is not None and is_amount(card.unit, None):
        raise ConflictError(
            f"{model} was trained on averaged readings in {card.unit}; features are mean power or flow now.",
            hint=anew,
        )


def check_units(model: str, tenant: str, card: ModelCard, units: Mapping[str, str | None]) -> None:
    """Refuse assets whose features are not in the unit that the model was trained in.

    Args:
        model: name and version, for the error.
        tenant: whose model.
        card: what the model says of itself.
        units: of the features of each asset now (`feature_unit` of `assets`); None: nobody said it.

    Raises:
        ConflictError: some are not.
    """
    other = {asset: unit for asset, unit in sorted(units.items()) if unit != card.unit}
    if other:
        named = ", ".join(
            f"{asset} in {unit or 'no known unit'}" for asset, unit in list(other.items())[:_NAMED]
        )
        raise ConflictError(
            f"{model} was trained in {card.unit or 'no known unit'}, but features are now of {named}"
            f"{' and others' if len(other) > _NAMED else ''}.",
            hint=f"Train it anew with `ai-hub train --tenant {tenant}`, or correct the asset with"
            " `ai-hub asset add ASSET --unit … --reading …`.",
        )
