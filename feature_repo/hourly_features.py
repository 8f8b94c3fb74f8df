"""Hourly features of an asset, as declared: what the contract's feature views are made of.

`ai-hub migrate` makes them in TimescaleDB from its own copy of this, ai_hub/db/hourly_features.py, and
`feast apply` changes them.
"""

from datetime import timedelta

from feast.aggregation import Aggregation

from feast_plugins.windows import AssetAttribute, Calendar, Lag, Weather

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

FEATURES = {
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
