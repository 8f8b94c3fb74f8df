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
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from ai_hub.errors import AiHubError, BadInputError, ConflictError
from ai_hub.forecasting.card import ModelCard, check_units, require_card
from ai_hub.forecasting.models.cache import ModelCache, TamperedError, default_folder
from ai_hub.forecasting.models.registry import ProductionVersion
from ai_hub.registry.server import connection, tracking_uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import pandas as pd

    from ai_hub.registry import ModelVersion


_log = logging.getLogger("ai_hub.client")
#: MLflow's own client would retry for minutes, and its caller would wait.
_SHORT_TIMEOUT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_DESCRIPTION = "MLmodel"
_BOOSTER = "lightgbm.basic.Booster"
_SERVICE_TAGS = ("feature_service", "feast.feature_service")
#: Names that an error lists.
_NAMED = 5
_NAMED_COLUMNS = 50
#: pandas' types by those of MLflow's signatures; a missing value makes integers float
_DTYPES = {"double": "float64", "float": "float32", "long": "int64", "integer": "int32", "string": "object"}


class Contributions(NamedTuple):
    """SHAP contributions of columns: with the base value they add up to the prediction of their row."""

    #: shape (rows, columns)
    values: np.ndarray[Any, Any]
    #: shape (rows,)
    base: np.ndarray[Any, Any]
    #: shape (rows,); before the transformation of objectives that have one
    prediction: np.ndarray[Any, Any]


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
    #: None for a model that is no LightGBM booster
    _contributions: Callable[[Any], Contributions] | None = field(default=None, repr=False)

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

    def contributions(self, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Contributions:
        """What each column adds to the prediction of each row, by LightGBM's own SHAP values.

        Raises:
            BadInputError: a column is missing.
            ConflictError: the model is no LightGBM booster with one output.
        """
        if self._contributions is None:
            raise not_explained(f"{self.name} {self.semantic_version or self.version}")
        return self._contributions(rows)


def load(
    folder: Path, tenant: str, name: str, version: ProductionVersion, *, boosters_only: bool = False
) -> LoadedModel:
    """Load the verified files in `folder`: a LightGBM booster as such, anything else by `mlflow.pyfunc`.

    With `boosters_only` nothing else is loaded: the files of other models may hold code, which would run.

    Raises:
        ConflictError: `ai-hub train` made it before features had units, its booster is outside of the
            folder, or it is none.
    """
    label = f"{name} {version.semantic_version or version.version}"
    description = yaml.safe_load((folder / _DESCRIPTION).read_text())
    inputs = _inputs(description)
    card = ModelCard.from_metadata(description.get("metadata"))
    require_card(label, tenant, card, version.tags)
    contributions = None
    flavor = description.get("flavors", {}).get("lightgbm", {})
    if flavor.get("model_class", _BOOSTER) == _BOOSTER and "data" in flavor:
        path = (folder / flavor["data"]).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ConflictError(f"The booster of {label} is outside of its folder.", hint="Register it anew.")
        columns, function, contributions = _booster(
            path, label, list(card.features) if card else list(inputs)
        )
    elif boosters_only:
        raise not_explained(label)
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
        _contributions=contributions,
    )


def _inputs(description: dict[str, Any]) -> dict[str, str]:
    """Names and types of the signature's columns."""
    text = (description.get("signature") or {}).get("inputs")
    columns = json.loads(text) if text else []
    return {column["name"]: str(column["type"]) for column in columns if "name" in column}


def _booster(
    path: Path, label: str, columns: list[str]
) -> tuple[list[str], Callable[[Any], Any], Callable[[Any], Contributions]]:
    try:
        import lightgbm as lgb  # noqa: PLC0415  # takes seconds, and brings pandas
        import numpy as np  # noqa: PLC0415  # see above

        from ai_hub.forecasting.fitting import model_input  # noqa: PLC0415  # see above
    except ModuleNotFoundError as error:
        raise _not_installed(error, "ai-hub[models]") from error

    booster = lgb.Booster(model_file=str(path))
    columns = columns or booster.feature_name()

    def matrix(rows: Any) -> pd.DataFrame:
        try:
            return model_input(rows, columns)
        except KeyError as error:
            raise _missing(error) from error

    def predict(rows: Any) -> Any:
        return booster.predict(matrix(rows))

    def contributions(rows: Any) -> Contributions:
        data = matrix(rows)
        # one thread, as whoever asks has others to answer
        found = np.asarray(booster.predict(data, pred_contrib=True, num_threads=1))
        if found.shape != (len(data), len(columns) + 1):
            raise not_explained(label)
        prediction = np.asarray(booster.predict(data, raw_score=True, num_threads=1))
        return Contributions(found[:, :-1], found[:, -1], prediction)

    return columns, predict, contributions


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


def not_explained(label: str) -> ConflictError:
    """The error for a model that has no SHAP contributions here."""
    return ConflictError(
        f"{label} is no LightGBM booster with one output, and only such are explained.",
        hint="Choose a model of `ai-hub train`, or register one of MLflow's LightGBM flavor.",
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

    def cached(self, version: ProductionVersion, *, boosters_only: bool = False) -> LoadedModel:
        """Load a version from the cache; with `boosters_only`, no model that may hold code.

        Raises:
            TamperedError: it is not there, or a file is not what was registered.
        """
        with self._cache.reading():
            folder = self._cache.verified(version)
            return load(folder, self._tenant, self._name, version, boosters_only=boosters_only)

    def contributions(
        self, version: ProductionVersion, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[tuple[str, ...], Contributions]:
        """The columns of a booster in the cache, and what each adds to the predictions of rows.

        Raises:
            BadInputError: a column is missing.
            ConflictError: it is no LightGBM booster with one output, or a file is not what was registered.
        """
        model = self.cached(version, boosters_only=True)
        return model.columns, model.contributions(rows)

    def explain(
        self, version: ProductionVersion, row: Mapping[str, Any]
    ) -> tuple[tuple[str, ...], Contributions]:
        """`contributions` for one row that has just the model's columns; optional ones may be missing.

        Raises:
            BadInputError: it has others, or too few.
            ConflictError: see `contributions`.
        """
        model = self.cached(version, boosters_only=True)
        if unknown := sorted(row.keys() - set(model.columns)):
            raise BadInputError(
                f"{model.name} has no features {', '.join(unknown[:_NAMED])}.",
                hint=f"It has {', '.join(model.columns[:_NAMED_COLUMNS])}.",
            )
        return model.columns, model.contributions([dict.fromkeys(model.optional) | dict(row)])

    def card(self, version: ProductionVersion) -> ModelCard | None:
        """What `ai-hub train` says of a version in the cache; None for other models.

        Raises:
            TamperedError: it is not there, or a file is not what was registered.
        """
        with self._cache.reading():
            description = yaml.safe_load((self._cache.verified(version) / _DESCRIPTION).read_text())
        return ModelCard.from_metadata(description.get("metadata"))

    def fetch(self, version: ProductionVersion) -> None:
        """Download a version if it is missing or damaged in the cache; keep it, and the one in Production.

        Raises:
            ConflictError: a file is not what was registered.
            ServiceDownError: the registry does not answer.
        """
        try:
            with self._cache.reading():
                self._cache.verified(version)
        except TamperedError:
            self._cache.install(version, lambda folder: self._download(version, folder))
            self._cache.prune(version, self._cache.last())

    @contextmanager
    def files(self, version: ProductionVersion) -> Iterator[Path]:
        """The verified folder of a version, for models of other kinds; `fetch` has the errors."""
        self.fetch(version)
        with self._cache.reading():
            yield self._cache.verified(version)

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


def loader_of(version: ModelVersion) -> tuple[ModelLoader, ProductionVersion]:
    """What loads a registered version through this machine's model cache; another process can use it, too.

    Raises:
        ConflictError: the version has no manifest, so that its files cannot be checked.
    """
    digest = version.manifest_sha256
    if digest is None:
        raise ConflictError(
            f"Version {version.version} of {version.model} has no manifest, so its files cannot be checked.",
            hint="Register the model anew from its run.",
        )
    cache = ModelCache(default_folder(), connection(tracking_uri())[0], version.tenant, version.model)
    return ModelLoader(cache, version.tenant, version.model), ProductionVersion(
        version.version, version.semantic_version, digest, version.tags
    )


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
