"""The model as MLflow calls it, with lists as Feast gives them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from support.issue_rows import RECIPE, load, make_rows, step_values

from ai_hub.errors import BadInputError
from ai_hub.forecasting.day_ahead import _Pyfunc, fit
from ai_hub.forecasting.day_ahead_tracking import signature

if TYPE_CHECKING:
    from ai_hub.forecasting.issues import Floats, IssueRows

LEADS = 26


def frame_of(rows: IssueRows) -> pd.DataFrame:
    columns: dict[str, Any] = {"asset_id": rows.assets, "event_timestamp": rows.issued_at, **rows.scalars}
    return pd.DataFrame(columns | {name: list(each) for name, each in rows.arrays.items()})


def test_pyfunc__lists_that_look_further_and_nulls__are_cut_and_missing() -> None:
    rows = make_rows(step_values({"a": load(np.random.default_rng(3), 6 * 168)}), leads=LEADS)
    model = fit(rows, RECIPE)
    some = rows.take(np.array([3, 9, 20]))
    frame, served = frame_of(some), _Pyfunc(model)

    def forecast() -> Floats:
        return np.array(list(served.predict(frame)["forecast"]))

    expected = model.forecast(some).values  # noqa: PD011  # no pandas
    np.testing.assert_array_equal(forecast(), expected)
    for name, each in some.arrays.items():
        frame[name] = list(np.hstack([each, np.full((3, 10), 9.0)]))
    np.testing.assert_array_equal(forecast(), expected)

    day = some.arrays["same_hour_1d"].copy()
    day[1] = np.nan
    unknown = model.forecast(replace(some, arrays={**some.arrays, "same_hour_1d": day})).values  # noqa: PD011
    assert np.isfinite(unknown).all()
    for null in (None, math.nan, []):
        frame["same_hour_1d"] = [day[0], null, day[2]]
        np.testing.assert_array_equal(forecast(), unknown)
    assert signature(model).inputs.required_input_names() == ["asset_id", "event_timestamp"]

    frame["same_hour_1d"] = [each[:5] for each in day]
    with pytest.raises(BadInputError, match="has 5 elements, the model looks 26 steps ahead"):
        forecast()
