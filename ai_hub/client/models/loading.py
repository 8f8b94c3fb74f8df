"""Loads a version: from the cache, or from the registry through the cache; always verified."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import yaml

from ai_hub.client.models.cache import TamperedError
from ai_hub.errors import AiHubError, BadInputError, ConflictError
from ai_hub.forecasting.card import ModelCard, check_units, require_card

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import pandas as pd

    from ai_hub.client.models.cache import ModelCache
    from ai_hub.client.models.registry import ProductionVersion


_log = logging.getLogger("ai_hub.client")
#: MLflow's own client would retry for minutes, and its caller would wait.
_SHORT_TIMEOUT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_DESCRIPTION = "MLmodel"
_BOOSTER = "lightgbm.basic.Booster"
_SERVICE_TAGS = ("feature_service", "feast.feature_service")
#: pandas' types by those of MLflow's signatures; a missing value makes integers float
_DTYPES = {"double": "float64", "float": "float32", "long": "int64", "integer": "int32", "string": "object"}


@dataclass(frozen=True)
class LoadedModel:
    """One version of a model, in memory; immutable."""

    tenant: str
    name: str
    version: int
    semantic_version: str | None
    manifest_sha256: str
    #: input columns, in their order; empty when the model does not say
    columns: tuple[str, ...]
    #: columns that may be missing
    optional: frozenset[str]
    #: of its columns; None when the model does not say
    feature_service: str | None
    _predict: Callable[[Any], Any] = field(repr=False)
    #: metadata of `ai-hub train`; None for other models
    card: ModelCard | None = field(default=None, repr=False)

    def check_units(self, units: Mapping[str, str | None]) -> None:
        """Refuse assets whose features, in these units by asset, are not in the model's.

        Raises:
            ConflictError: some are not.
        """
        if self.card is not None:
            check_units(f"{self.name} {self.semantic_version or self.version}", self.tenant, self.card, units)

    def predict(self, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Any:
        """Output of the model for `rows`: for models of `ai-hub train`, one float a row.

        Raises:
            BadInputError: a column is missing.
        """
        return self._predict(rows)

    def values(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
        """`predict`, as one float for each row.

        Raises:
            ConflictError: the model's output is something else.
        """
        import numpy as np  # noqa: PLC0415  # here already when a model is

        output = np.asarray(self.predict(rows), dtype=float)
        if output.size != len(rows):
            raise ConflictError(
                f"{self.name} {self.semantic_version or self.version} does not return one number a row.",
                hint="Use model(…).predict(rows) for such a model.",
            )
        return output.reshape(len(rows))


def load(folder: Path, tenant: str, name: str, version: ProductionVersion) -> LoadedModel:
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
        columns, function = _booster(folder / flavor["data"], list(card.features) if card else list(inputs))
    else:
        columns, function = list(card.features) if card else list(inputs), _pyfunc(folder, inputs)
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
        _predict=function,
        card=card,
    )


def _inputs(description: dict[str, Any]) -> dict[str, str]:
    """Names and types of the signature's columns."""
    text = (description.get("signature") or {}).get("inputs")
    columns = json.loads(text) if text else []
    return {column["name"]: str(column["type"]) for column in columns if "name" in column}


def _booster(path: Path, columns: list[str]) -> tuple[list[str], Callable[[Any], Any]]:
    try:
        import lightgbm as lgb  # noqa: PLC0415  # takes seconds, and brings pandas

        from ai_hub.forecasting.fitting import model_input  # noqa: PLC0415  # see above
    except ModuleNotFoundError as error:
        raise _not_installed(error, "ai-hub[models]") from error

    booster = lgb.Booster(model_file=str(path))
    columns = columns or booster.feature_name()

    def predict(rows: Any) -> Any:
        try:
            matrix = model_input(rows, columns)
        except KeyError as error:
            raise _missing(error) from error
        return booster.predict(matrix)

    return columns, predict


def _pyfunc(folder: Path, inputs: Mapping[str, str]) -> Callable[[Any], Any]:
    try:
        import mlflow.pyfunc  # noqa: PLC0415  # takes seconds
        import pandas as pd  # noqa: PLC0415  # see above
    except ModuleNotFoundError as error:
        raise _not_installed(error, "mlflow") from error

    model = mlflow.pyfunc.load_model(str(folder))

    def predict(rows: Any) -> Any:
        frame = pd.DataFrame(rows)
        if absent := [name for name in inputs if name not in frame.columns]:
            raise _missing(f"not among the columns: {', '.join(absent)}")
        for name, kind in inputs.items():
            dtype = _DTYPES.get(kind)
            if dtype and not (dtype.startswith("int") and frame[name].isna().any()):
                frame[name] = frame[name].astype(dtype)  # type: ignore[call-overload]  # a name of a type
        return model.predict(frame[list(inputs)] if inputs else frame)

    return predict


def _not_installed(error: ModuleNotFoundError, package: str) -> BadInputError:
    return BadInputError(
        f"To load this model, {error.name} must be installed.", hint=f"Run `pip install '{package}'`."
    )


def _missing(what: object) -> BadInputError:
    text = what.args[0] if isinstance(what, KeyError) else what
    return BadInputError(f"The model needs more columns: {text}.", hint="See its `columns`.")


class ModelLoader:
    """Loads versions of one model."""

    def __init__(self, cache: ModelCache, tenant: str, name: str) -> None:
        self._cache = cache
        self._tenant = tenant
        self._name = name

    def get(self, version: ProductionVersion) -> LoadedModel:
        """Load a version; download it if it is missing or damaged in the cache.

        Raises:
            ConflictError: a file is not what was registered.
            ServiceDownError: the registry does not answer.
        """
        try:
            return self.cached(version)
        except TamperedError as error:
            if self._cache.path(version).exists():
                _log.warning("%s", error)
        self._cache.install(version, lambda folder: self._download(version, folder))
        return self.cached(version)

    def cached(self, version: ProductionVersion) -> LoadedModel:
        """Load a version from the cache.

        Raises:
            TamperedError: it is not there, or a file is not what was registered.
        """
        with self._cache.reading():
            return load(self._cache.verified(version), self._tenant, self._name, version)

    def _download(self, version: ProductionVersion, folder: Path) -> None:
        from ai_hub.registry import ModelVersion, download_version  # noqa: PLC0415  # MLflow takes seconds

        target = ModelVersion(
            tenant=self._tenant,
            model=self._name,
            version=version.version,
            semantic_version=version.semantic_version,
            stage="Production",
            aliases=("production",),
            run_id=None,
            registered_at=datetime.now(UTC),
            tags=dict(version.tags),
            metrics={},
        )
        try:
            with _short_timeout():
                download_version(target, folder)
        except AiHubError as error:
            # MLflow's own errors, which tracebacks would show, may quote the address with its login
            raise error from None


class _ShortTimeout:
    """Sets a short timeout of MLflow's client during the block, unless the user has set one.

    It is read from the environment, which the whole process shares: it is restored when the last of several
    concurrent downloads has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._downloads = 0
        self._set: list[str] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._downloads:
                self._set = [name for name in _SHORT_TIMEOUT if name not in os.environ]
                os.environ.update({name: _SHORT_TIMEOUT[name] for name in self._set})
            self._downloads += 1
        try:
            yield
        finally:
            with self._lock:
                self._downloads -= 1
                if not self._downloads:
                    for name in self._set:
                        os.environ.pop(name, None)


_short_timeout = _ShortTimeout()
