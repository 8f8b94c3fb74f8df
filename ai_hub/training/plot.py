"""Forecast-versus-actual plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ai_hub.training.evaluation import FORECAST
from ai_hub.training.terms import TARGET

if TYPE_CHECKING:
    from ai_hub.training.evaluation import Evaluation

_DAYS_SHOWN = 14
_ASSETS_SHOWN = 12


def forecast_plot(evaluation: Evaluation, *, title: str) -> Figure:
    """One panel an asset with its last held-out days: actual values, the forecast and the best naive one.

    Of many assets the first dozen is shown.
    """
    assets = list(evaluation.by_asset)[:_ASSETS_SHOWN]
    figure = Figure(figsize=(12, 1 + 2.6 * len(assets)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(len(assets), 1, squeeze=False)[:, 0]
    for axis, asset in zip(axes, assets, strict=True):
        comparison = evaluation.by_asset[asset]
        hours = (
            evaluation.hours[evaluation.hours["asset_id"] == asset].set_index("event_timestamp").sort_index()
        )
        hours = hours[hours.index >= hours.index.max() - pd.Timedelta(days=_DAYS_SHOWN)]
        naive = comparison.best_naive
        axis.plot(hours.index, hours[naive], color="0.75", linewidth=1, label=f"naive: {naive}")
        axis.plot(hours.index, hours[TARGET], color="0.15", linewidth=1.2, label="actual")
        axis.plot(hours.index, hours[FORECAST], color="tab:orange", linewidth=1.2, label="forecast")
        axis.set_title(
            f"{asset}: MAE {comparison.model.mae:.3g}, {naive} {comparison.naive[naive].mae:.3g}", fontsize=10
        )
        axis.margins(x=0)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper right", fontsize=8, ncols=3)
    return figure
