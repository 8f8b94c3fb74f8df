"""A model in memory: which version it is, which columns it wants, and how to ask it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from ai_hub.errors import BadInputError, ConflictError
from ai_hub.training.card import ModelCard, check_units, require_card

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import pandas as pd

    from ai_hub.client.models.production import Production

_DESCRIPTION = "MLmodel"
_BOOSTER = "lightgbm.basic.Booster"
_SERVICE_TAGS = ("feature_service", "feast.feature_service")
#: pandas' types by those of MLflow's signatures; a missing value makes integers float
_DTYPES = {"double": "float64", "float": "float32", "long": "int64", "integer": "int32", "string": "object"}


@dataclass(frozen=True)
class LoadedModel:
    """One version; never changes, so what is asked of it comes from this version alone."""

    tenant: str
    name: str
    version: int
    semantic_version: str | None
    manifest_sha256: str
    #: columns it is fed, in their order; empty: it does not say
    columns: tuple[str, ...]
    #: those it can do without
    optional: frozenset[str]
    #: where its columns come from, if it says so
    feature_service: str | None
    _ask: Callable[[Any], Any] = field(repr=False)
    #: what `ai-hub train` says of it; None: it is another's model
    card: ModelCard | None = field(default=None, repr=False)

    def check_units(self, units: Mapping[str, str | None]) -> None:
        """Refuse assets whose features, in these units by asset, are not in the model's.

        Raises:
            ConflictError: some are not.
        """
        if self.card is not None:
            check_units(f"{self.name} {self.semantic_version or self.version}", self.tenant, self.card, units)

    def predict(self, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Any:
        """What the model answers to `rows`: for models of `ai-hub train`, a float a row.

        Raises:
            BadInputError: a column is missing.
        """
        return self._ask(rows)

    def values(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
        """`predict`, as one float for each row.

        Raises:
            ConflictError: the model answers something else.
        """
        import numpy as np  # noqa: PLC0415  # here already when a model is

        found = np.asarray(self.predict(rows), dtype=float)
        if found.size != len(rows):
            raise ConflictError(
                f"{self.name} {self.semantic_version or self.version} does not answer one number a row.",
                hint="Use model(…).predict(rows) for such a model.",
            )
        return found.reshape(len(rows))


def load(folder: Path, tenant: str, name: str, version: Production) -> LoadedModel:
    """Load the verified files in `folder`: a LightGBM booster as such, anything else by `mlflow.pyfunc`.

    Raises:
        ConflictError: `ai-hub train` made it before features had units.
    """
    description = yaml.safe_load((folder / _DESCRIPTION).read_text())
    inputs = _inputs(description)
    card = ModelCard.from_metadata(description.get("metadata"))
    require_card(f"{name} {version.semantic_version or version.version}", tenant, card, version.tags)
    flavor = description.get("flavors", {}).get("lightgbm", {})
    if flavor.get("model_class", _BOOSTER) == _BOOSTER and "data" in flavor:
        columns, ask = _booster(folder / flavor["data"], list(card.features) if card else list(inputs))
    else:
        columns, ask = list(card.features) if card else list(inputs), _pyfunc(folder, inputs)
    service = next((version.tags[tag] for tag in _SERVICE_TAGS if version.tags.get(tag)), None)
    return LoadedModel(
        tenant=tenant,
        name=name,
        version=version.version,
        semantic_version=version.semantic_version,
        manifest_sha256=version.manifest_sha256,
        columns=tuple(columns),
        optional=frozenset(card.optional if card else ()),
        feature_service=card.feature_service if card else service,
        _ask=ask,
        card=card,
    )


def _inputs(description: dict[str, Any]) -> dict[str, str]:
    """Names and types of the signature's columns."""
    text = (description.get("signature") or {}).get("inputs")
    columns = json.loads(text) if text else []
    return {each["name"]: str(each["type"]) for each in columns if "name" in each}


def _booster(path: Path, columns: list[str]) -> tuple[list[str], Callable[[Any], Any]]:
    try:
        import lightgbm as lgb  # noqa: PLC0415  # takes seconds, and brings pandas

        from ai_hub.training.model_input import model_input  # noqa: PLC0415  # see above
    except ModuleNotFoundError as error:
        raise _not_installed(error, "ai-hub[models]") from error

    booster = lgb.Booster(model_file=str(path))
    columns = columns or booster.feature_name()

    def ask(rows: Any) -> Any:
        try:
            matrix = model_input(rows, columns)
        except KeyError as error:
            raise _lacks(error) from error
        return booster.predict(matrix)

    return columns, ask


def _pyfunc(folder: Path, inputs: Mapping[str, str]) -> Callable[[Any], Any]:
    try:
        import mlflow.pyfunc  # noqa: PLC0415  # takes seconds
        import pandas as pd  # noqa: PLC0415  # see above
    except ModuleNotFoundError as error:
        raise _not_installed(error, "mlflow") from error

    model = mlflow.pyfunc.load_model(str(folder))

    def ask(rows: Any) -> Any:
        frame = pd.DataFrame(rows)
        if absent := [name for name in inputs if name not in frame.columns]:
            raise _lacks(f"not among the columns: {', '.join(absent)}")
        for name, kind in inputs.items():
            wanted = _DTYPES.get(kind)
            if wanted and not (wanted.startswith("int") and frame[name].isna().any()):
                frame[name] = frame[name].astype(wanted)  # type: ignore[call-overload]  # a name of a type
        return model.predict(frame[list(inputs)] if inputs else frame)

    return ask


def _not_installed(error: ModuleNotFoundError, package: str) -> BadInputError:
    return BadInputError(
        f"To load this model, {error.name} must be installed.", hint=f"Run `pip install '{package}'`."
    )


def _lacks(what: object) -> BadInputError:
    text = what.args[0] if isinstance(what, KeyError) else what
    return BadInputError(f"The model wants more than it was given: {text}.", hint="See its `columns`.")
