"""What prediction must know about a model; travels inside it as MLflow model metadata."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Tag of runs and versions whose models carry a card.
MAKER_TAG = "trained_by"
MAKER = "ai-hub train"


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

    def as_metadata(self) -> dict[str, Any]:
        """Plain values, for the model's `metadata`."""
        return asdict(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any] | None) -> ModelCard | None:
        """The card in a model's `metadata`; None when it has none."""
        known = fields(cls)
        required = {field.name for field in known if field.default is MISSING}
        if not metadata or not required <= set(metadata):
            return None
        return cls(**{field.name: metadata[field.name] for field in known if field.name in metadata})
