"""OpenSTEF's forecasts of the tested days of `benchmarks.public_load`.

That benchmark runs it with a Python that has OpenSTEF. Each meter has a model of its own with the preset's
parameters, fitted to what was known when it was fitted. Its horizon is that of the issue and the lateness of
values together, so that the preset's lags are those that were known at each issue; nothing else of the load
is among its features.
"""

from __future__ import annotations

import json
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from openstef_core.datasets import TimeSeriesDataset  # type: ignore[import-not-found]
from openstef_core.types import LeadTime, Q  # type: ignore[import-not-found]
from openstef_models.presets import (  # type: ignore[import-not-found]
    ForecastingWorkflowConfig,
    create_forecasting_workflow,
)
from openstef_models.presets.forecasting_workflow import LocationConfig  # type: ignore[import-not-found]

HOUR = timedelta(hours=1)
#: Of lags of up to 14 days, before what is forecast.
CONTEXT = timedelta(days=21)
#: Country of the holidays and place of the sun, which the preset needs, by the continent of the zone.
PLACES = {"America": ("US", 40.7, -74.0), "Europe": ("GB", 51.5, -0.1)}


def main(folder: Path) -> None:
    """Write the forecasts of all meters into the folder."""
    plan = json.loads((folder / "openstef.json").read_text())
    load = pd.read_csv(folder / "load.csv", parse_dates=["timestamp"], index_col="timestamp")
    load = load.tz_convert(plan["timezone"])
    found = [
        forecast(load[[meter, "temperature"]].rename(columns={meter: "load"}), meter, plan)
        for meter in load
        if meter != "temperature"
    ]
    pd.concat(found).to_csv(folder / "openstef.csv", index=False)


def forecast(data: pd.DataFrame, meter: str, plan: dict[str, Any]) -> pd.DataFrame:
    """Forecasts of a meter, fitted anew every few weeks."""
    country, latitude, longitude = PLACES[plan["timezone"].split("/")[0]]
    late = plan["late_hours"] * HOUR
    parts = []
    for fit in plan["fits"]:
        start, at, first, last = (pd.Timestamp(fit[each]) for each in ("start", "at", "first", "last"))
        workflow = create_forecasting_workflow(
            ForecastingWorkflowConfig(
                model_id=meter,
                model=plan["model"],
                quantiles=[Q(0.1), Q(0.5), Q(0.9)],
                sample_interval=HOUR,
                horizons=[LeadTime(plan["lead_hours"] * HOUR + late)],
                location=LocationConfig(
                    country_code=country, coordinate={"latitude": latitude, "longitude": longitude}
                ),
                mlflow_storage=None,
                evaluation_metrics=[],
            )
        )
        known = data[(data.index >= start) & (data.index <= at - late - HOUR)]
        workflow.fit(TimeSeriesDataset(known, HOUR))
        near = data[(data.index >= first - CONTEXT) & (data.index < last)]
        found = workflow.predict(TimeSeriesDataset(near, HOUR), forecast_start=first.to_pydatetime()).data
        parts.append(found[found.index >= first])
    columns = {"quantile_P10": "q10", "quantile_P50": "q50", "quantile_P90": "q90"}
    table: pd.DataFrame = pd.concat(parts)[list(columns)].rename(columns=columns)
    return table.tz_convert("UTC").assign(asset=meter).rename_axis("timestamp").reset_index()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
