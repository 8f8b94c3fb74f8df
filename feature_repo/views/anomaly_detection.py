"""The normal range of a meter: what an anomaly detector compares a reading with."""

from calendar_features import calendar_view
from feature_views import LOAD, hourly_view

anomaly_detection_features = hourly_view(
    "anomaly_detection_features",
    {
        name: LOAD[name]
        for name in (
            "historical_avg_24h",
            "historical_std_24h",
            "historical_min_24h",
            "historical_max_24h",
            "lag_1h",
        )
    },
    "Range of the last day of a meter; a row uses only readings before its time",
)
anomaly_detection_calendar = calendar_view("anomaly_detection_calendar", anomaly_detection_features)
