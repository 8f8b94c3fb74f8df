"""Estimators with scikit-learn's interface, which other packages bring by entry points.

They are kept in the format of skops, which runs no code of a file: what may be in one are numbers, and
instances of classes of scikit-learn and of the package that brings the estimator.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from ai_hub.errors import BadInputError, ConflictError
from ai_hub.imports import lightgbm_knows_sklearn

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

GROUP: Final = "ai_hub.estimators"
#: What fits where no other is named.
DEFAULT: Final = "lightgbm"
#: Modules whose classes are no part of an estimator, and write files or load them.
_NEVER: Final = frozenset({"_testing", "conftest", "datasets", "tests"})


class Estimator(Protocol):
    """Regressor of scikit-learn: inputs (n, columns) with NaN, targets (n,) without."""

    def fit(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Any:
        """Fit it."""

    def predict(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One number a row."""


@dataclass(frozen=True)
class Fitted:
    """A fitted estimator, which knows nothing of columns that had no values."""

    estimator: Estimator
    #: numbers of those that had
    columns: list[int]

    def predict(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One number a row of all columns; NaN for rows with missing values that the estimator does not take.

        Raises:
            BadInputError: it takes rows without missing values neither.
        """
        x = x[:, self.columns]
        try:
            return self.estimator.predict(x)
        except Exception as error:
            known = np.isfinite(x).all(axis=1)
            if known.all():
                raise _cannot_forecast(error) from error
        found = np.full(len(x), np.nan)
        if known.any():
            try:
                found[known] = self.estimator.predict(x[known])
            except Exception as error:
                raise _cannot_forecast(error) from error
        return found


def _cannot_forecast(error: Exception) -> BadInputError:
    return BadInputError(
        f"The estimator cannot forecast: {error}", hint="Mend it, train it anew, or take another --estimator."
    )


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def make(name: str) -> Estimator:
    """A new estimator, not fitted.

    Raises:
        BadInputError: no package brings it, or it is none.
    """
    point = _installed().get(name)
    if point is None:
        raise BadInputError(
            f"There is no estimator {name}; there are {', '.join([DEFAULT, *sorted(_installed())])}.",
            hint=f"Install the package that has it as an entry point of the group {GROUP}.",
        )
    lightgbm_knows_sklearn()
    try:
        found = point.load()()
    except Exception as error:
        raise BadInputError(
            f"The estimator {name} cannot be made: {point.value}: {error}",
            hint="Its entry point is a function without arguments that returns an estimator.",
        ) from error
    if not hasattr(found, "fit") or not hasattr(found, "predict"):
        raise BadInputError(
            f"The estimator {name} has no fit and predict: {point.value} returns {type(found).__name__}.",
            hint="Its entry point is a function without arguments that returns an estimator.",
        )
    estimator: Estimator = found
    return estimator


def fit(name: str, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Fitted:
    """A new estimator, fitted.

    Raises:
        BadInputError: no package brings it, or it cannot be fitted to these inputs.
    """
    estimator = make(name)
    columns = [int(each) for each in np.flatnonzero(~np.isnan(x).all(axis=0))]
    try:
        estimator.fit(x[:, columns], y)
    except Exception as error:
        raise BadInputError(
            f"The estimator {name} cannot be fitted: {error}",
            hint="Missing values are NaN: take an estimator that knows them, or put an imputer before it.",
        ) from error
    return Fitted(estimator, columns)


def requirements(name: str) -> list[str]:
    """Distributions, with their versions, that loading it takes.

    Raises:
        BadInputError: no package brings it.
    """
    make(name)
    brings = _installed()[name].dist
    return ["scikit-learn", "skops", *([brings.name] if brings else [])]


def save(fitted: Fitted, path: Path) -> None:
    """Write it into a file."""
    import skops.io  # noqa: PLC0415  # scikit-learn takes a second

    skops.io.dump({"estimator": fitted.estimator, "columns": fitted.columns}, path)


def load(name: str, path: Path) -> Fitted:
    """What `save` wrote; nothing in the file is run.

    Raises:
        ConflictError: it has functions, or classes of other packages than the one that brings the estimator.
        BadInputError: no package brings it.
    """
    import skops.io  # noqa: PLC0415  # scikit-learn takes a second

    make(name)
    package = _installed()[name].module.partition(".")[0]
    unknown = skops.io.get_untrusted_types(file=path)
    if foreign := sorted(each for each in unknown if not _is_class_of(each, {"sklearn", package})):
        raise ConflictError(
            f"The file of the estimator {name} has what is no class of {package}: {', '.join(foreign)}.",
            hint="Train it anew, with an estimator of scikit-learn's classes and its own, without functions.",
        )
    return Fitted(**skops.io.load(path, trusted=unknown))


def _is_class_of(name: str, packages: set[str]) -> bool:
    """Whether a name is that of a class that one of the packages defines; modules of others are not imported.

    Functions are refused, since an estimator may call one with arguments that are in the file, and modules
    have those of others among their names: scikit-learn's tests import `subprocess.check_output`.
    """
    module, _, attribute = name.rpartition(".")
    if name == "numpy.dtype":  # of the nodes of trees
        return True
    if not _is_within(module, packages):
        return False
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError):
        return False
    return isinstance(found, type) and _is_within(found.__module__, packages)


def _is_within(module: str, packages: set[str]) -> bool:
    parts = module.split(".")
    return parts[0] in packages and _NEVER.isdisjoint(parts)
