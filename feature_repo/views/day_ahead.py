"""What a forecast of the next two days is made of: a row is an issue, with arrays of the hours ahead."""

from datetime import timedelta

from entities import asset, tenant
from feast.aggregation import Aggregation
from views.ai_features import ai_features

from feast_plugins.windows import Calendar, Holiday, SameHour, SunPosition, Weather, WindPower, declared_view

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def of_issue(step: timedelta) -> dict[str, Aggregation]:
    """Load when the forecast is issued, in a view with rows every `step`."""
    return {
        "issue_value": Aggregation("value", "last", step, step),
        "issue_avg_24h": Aggregation("value", "mean", DAY, step),
        "issue_std_24h": Aggregation("value", "std", DAY, step),
        "issue_min_24h": Aggregation("value", "min", DAY, step),
        "issue_max_24h": Aggregation("value", "max", DAY, step),
    }


#: Of each step ahead. Days and weeks are the last ones of which its time of day was known.
OF_TARGETS = {
    "same_hour_1d": SameHour("value", "mean", days=1),
    "same_hour_2d": SameHour("value", "mean", days=2),
    "same_hour_3d": SameHour("value", "mean", days=3),
    "same_hour_7d": SameHour("value", "mean", days=7),
    "same_hour_14d": SameHour("value", "mean", days=14),
    "same_hour_std_14d": SameHour("value", "std", days=14),
    "same_hour_1w": SameHour("value", "mean", days=1, every=7),
    "same_hour_2w": SameHour("value", "mean", days=2, every=7),
    "target_temperature": Weather("temperature"),
    # how warm it was on the last days before each target, not on those that the load is compared with
    "same_hour_temperature_3d": SameHour("temperature", "mean", days=3),
    "same_hour_temperature_7d": SameHour("temperature", "mean", days=7),
    "same_hour_temperature_14d": SameHour("temperature", "mean", days=14),
    "target_humidity": Weather("humidity"),
    "target_solar_irradiance": Weather("solar_irradiance"),
    "target_wind_speed": Weather("wind_speed"),
    "target_wind_power": WindPower(),
    "target_hour_of_day": Calendar("hour_of_day"),
    "target_day_of_week": Calendar("day_of_week"),
    "target_day_of_year": Calendar("day_of_year"),
    "target_holiday": Holiday(),
    "target_sun_elevation": SunPosition("elevation"),
}

day_ahead_features = declared_view(
    name="day_ahead_features",
    entities=[tenant, asset],
    features=of_issue(HOUR) | OF_TARGETS,
    horizon=48 * HOUR,
    rows=ai_features,
    description="Load known at issue, and weather forecast and calendar, of each of the next 48 hours",
)
