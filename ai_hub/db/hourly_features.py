"""Hourly features of an asset as `ai-hub migrate` makes them: what the views of the contract's services read.

As `feature_repo/hourly_features.py` declares them before anybody changes it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from feast.aggregation import Aggregation

from feast_plugins.windows import AssetAttribute, Calendar, Lag, Weather

if TYPE_CHECKING:
    from feast_plugins.windows.features import Expression

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

FEATURES: dict[str, Expression | Aggregation] = {
    "historical_avg_24h": Aggregation("value", "mean", DAY, HOUR),
    "historical_std_24h": Aggregation("value", "std", DAY, HOUR),
    "historical_min_24h": Aggregation("value", "min", DAY, HOUR),
    "historical_max_24h": Aggregation("value", "max", DAY, HOUR),
    "lag_1h": Lag("value", HOUR),
    "lag_24h": Lag("value", DAY),
    "lag_168h": Lag("value", 7 * DAY),
    "temperature": Weather("temperature"),
    "humidity": Weather("humidity"),
    "solar_irradiance": Weather("solar_irradiance"),
    "hour_of_day": Calendar("hour_of_day"),
    "day_of_week": Calendar("day_of_week"),
    "day_of_month": Calendar("day_of_month"),
    "month": Calendar("month"),
    "is_weekend": Calendar("is_weekend"),
    "local_time": Calendar("local_time"),
    "timezone": AssetAttribute("timezone"),
}
