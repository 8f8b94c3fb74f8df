"""A distribution with estimators, as another package would bring them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODULE = """
import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.impute import SimpleImputer
from sklearn.base import BaseEstimator, RegressorMixin


def trees():
    return HistGradientBoostingRegressor(loss="absolute_error", max_iter=40, random_state=1)


def ridge():
    return make_pipeline(SimpleImputer(add_indicator=True), Ridge())


def ridge_without_imputer():
    return Ridge()


def dictionary():
    return {}


def defective():
    raise OSError("no licence")


class Level(RegressorMixin, BaseEstimator):
    def fit(self, x, y):
        self.level_ = float(np.median(y))
        return self

    def predict(self, x):
        return np.full(len(x), self.level_)
"""
_NAMES = ("trees", "ridge", "ridge_without_imputer", "dictionary", "defective")


def write(site: Path) -> None:
    """Write it into a folder that is to be on Python's path."""
    record = site / "city_estimators-1.2.dist-info"
    record.mkdir(parents=True)
    (site / "city_estimators.py").write_text(_MODULE)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: city-estimators\nVersion: 1.2\n")
    points = [f"{name} = city_estimators:{name}" for name in _NAMES]
    points += ["level = city_estimators:Level", "missing = city_estimators:not_there"]
    (record / "entry_points.txt").write_text("\n".join(["[ai_hub.estimators]", *points, ""]))


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """Installed in this process."""
    write(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield
        sys.modules.pop("city_estimators", None)
