"""What a model is fed: the one place that training and prediction both go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def model_input(rows: pd.DataFrame | Sequence[Mapping[str, Any]], features: Sequence[str]) -> pd.DataFrame:
    """Matrix of `features` in their order, float64; a missing value is NaN.

    Raises:
        KeyError: a feature is not a column of `rows`.
    """
    frame = pd.DataFrame(rows)
    if absent := [name for name in features if name not in frame.columns]:
        raise KeyError(f"not among the columns: {', '.join(absent)}")
    return frame[list(features)].astype("float64").reset_index(drop=True)
