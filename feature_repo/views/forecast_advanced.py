"""A week of load and the weather: what an accurate forecast needs."""

from calendar_features import calendar_view
from feature_views import LOAD, WEATHER, hourly_view

forecast_advanced_features = hourly_view(
    "forecast_advanced_features",
    {
        name: LOAD[name]
        for name in ("historical_avg_24h", "historical_std_24h", "lag_1h", "lag_24h", "lag_168h")
    }
    | WEATHER,
    "A week of load and the weather; a row uses only what was known before its time",
)
forecast_advanced_calendar = calendar_view("forecast_advanced_calendar", forecast_advanced_features)
