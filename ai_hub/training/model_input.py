"""What a model is fed: the one place that training and prediction both go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def model_input(rows: pd.DataFrame | Sequence[Mapping[str, Any]], features: Sequence[str]) -> pd.DataFrame:
    """Matrix of `features` in their order, float64 without their last digits; a missing value is NaN.

    Raises:
        KeyError: a feature is not a column of `rows`.
    """
    frame = pd.DataFrame(rows)
    if absent := [name for name in features if name not in frame.columns]:
        raise KeyError(f"not among the columns: {', '.join(absent)}")
    return frame[list(features)].astype("float64").apply(without_last_digits).reset_index(drop=True)


def without_last_digits(values: pd.Series[float]) -> pd.Series[float]:
    """`values` rounded to 32 bits of their mantissa, more than nine digits.

    The digits after them are rounding errors, which depend on the unit and interval of a meter, and on which
    a tree must not split.
    """
    bits = values.to_numpy("float64").view("int64")
    rounded = (bits + (1 << 19)) & -(1 << 20)
    return pd.Series(rounded.view("float64"), index=values.index)
