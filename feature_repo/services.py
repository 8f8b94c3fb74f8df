"""Feature services: the sets of features that models are trained with and inference asks for."""

from feast import FeatureService
from views.anomaly_detection import anomaly_detection_calendar, anomaly_detection_features
from views.day_ahead import day_ahead_features
from views.forecast_advanced import forecast_advanced_calendar, forecast_advanced_features
from views.forecast_basic import forecast_basic_calendar, forecast_basic_features

forecast_basic = FeatureService(
    name="forecast_basic",
    features=[
        forecast_basic_calendar[["hour_of_day", "day_of_week", "is_weekend"]],
        forecast_basic_features[["historical_avg_24h", "lag_1h", "lag_24h"]],
    ],
    description="Light load forecast of the next hour from the calendar and the last day",
    tags={
        "latency": "< 50 ms",
        "description": "Calendar and recent load",
        "use_cases": "short-term load forecast, many meters at once, edge devices",
    },
)

forecast_advanced = FeatureService(
    name="forecast_advanced",
    features=[
        forecast_advanced_calendar[["hour_of_day", "day_of_week", "day_of_month", "month", "is_weekend"]],
        forecast_advanced_features[
            [
                "historical_avg_24h",
                "historical_std_24h",
                "lag_1h",
                "lag_24h",
                "lag_168h",
                "temperature",
                "humidity",
                "solar_irradiance",
            ]
        ],
    ],
    description="Accurate load or generation forecast from the calendar, the last week and the weather",
    tags={
        "latency": "< 100 ms",
        "description": "Calendar, a week of load and the weather",
        "use_cases": "load forecast of the next hour, solar generation of the next hour, control of storage",
    },
)

anomaly_detection = FeatureService(
    name="anomaly_detection",
    features=[
        anomaly_detection_calendar[["hour_of_day", "day_of_week"]],
        anomaly_detection_features[
            ["historical_avg_24h", "historical_std_24h", "historical_min_24h", "historical_max_24h", "lag_1h"]
        ],
    ],
    description="Normal range of a meter, to judge a new reading against",
    tags={
        "latency": "< 50 ms",
        "description": "Calendar and the range of the last day",
        "use_cases": "faulty meters, unusual consumption, alarms",
    },
)

day_ahead = FeatureService(
    name="day_ahead",
    features=[day_ahead_features],
    description="Load forecast of the next 48 hours from what is known at issue; arrays of the hours ahead",
    tags={
        "latency": "< 100 ms",
        "description": "Known days and weeks, weather forecast and calendar of each hour ahead",
        "use_cases": "day-ahead load forecast, scheduling, trading",
    },
)
