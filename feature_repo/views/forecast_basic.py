"""Recent load of a meter: what a light forecast needs."""

from calendar_features import calendar_view
from feature_views import LOAD, hourly_view

forecast_basic_features = hourly_view(
    "forecast_basic_features",
    {name: LOAD[name] for name in ("historical_avg_24h", "lag_1h", "lag_24h")},
    "Recent load of a meter; a row uses only readings before its time",
)
forecast_basic_calendar = calendar_view("forecast_basic_calendar", forecast_basic_features)
