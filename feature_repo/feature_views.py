"""How a feature view over a TimescaleDB view is made."""

import re
from collections.abc import Mapping
from datetime import timedelta

from calendar_features import HOURLY_ROWS, LOCAL_TIME, MEANING_TAG
from entities import asset, tenant
from feast import FeatureView, Field
from feast.types import Float64
from sources import view_source

from feast_plugins.windows import READS_TAG, Limits

# A row describes one hour. Three hours bridge a late meter or a skipped refresh; anything older says
# nothing about the hour asked for, so history leaves it empty and predictions name it stale.
ROW_TTL = timedelta(hours=3)

LOAD = {
    "historical_avg_24h": "Mean of the readings in the 24 hours before the row's hour",
    "historical_std_24h": "Sample standard deviation of the readings in the 24 hours before the row's hour",
    "historical_min_24h": "Least reading in the 24 hours before the row's hour",
    "historical_max_24h": "Greatest reading in the 24 hours before the row's hour",
    "lag_1h": "Mean of the readings in the hour before the row's hour",
    "lag_24h": "Mean of the readings in the same hour one day before",
    "lag_168h": "Mean of the readings in the same hour one week before",
}
WEATHER = {
    "temperature": "Air temperature in °C",
    "humidity": "Relative humidity in %",
    "solar_irradiance": "Solar irradiance in W/m²",
}

# No meter counts so much in an hour: broken ones do, and fill values of files. Net load may be negative.
_LOAD = Limits(minimum=-1e12, maximum=1e12)
#: Weather is what `ai-hub ingest weather` takes. Nulls are allowed: not every tenant has weather.
LIMITS = {
    **dict.fromkeys(LOAD, _LOAD),
    "historical_std_24h": Limits(minimum=0, maximum=2e12),
    "temperature": Limits(minimum=-95, maximum=65),
    "humidity": Limits(minimum=0, maximum=100),
    "solar_irradiance": Limits(minimum=0, maximum=1800),
}

#: Tag of a field: how many hours the feature looks back. Whoever asks for fewer hours is not given it.
LOOKBACK_TAG = "lookback_hours"


def lookback(name: str) -> dict[str, str]:
    """The tag of a feature, whose name ends with its hours; weather and calendar are of the hour itself."""
    hours = re.search(r"_(\d+)h$", name)
    return {LOOKBACK_TAG: hours[1] if hours else "0"}


def hourly_view(name: str, features: Mapping[str, str], description: str) -> FeatureView:
    """Feature view over the database view of the same `name`; `features` maps a column to its description."""
    return FeatureView(
        name=name,
        entities=[tenant, asset],
        schema=[
            *(
                Field(
                    name=feature,
                    dtype=Float64,
                    description=text,
                    tags={**lookback(feature), **LIMITS[feature].tags},
                )
                for feature, text in features.items()
            ),
            LOCAL_TIME,
        ],
        source=view_source(name, list(features), description),
        ttl=ROW_TTL,
        online=True,
        description=description,
        # a row is served until the next one can be there, or until a feature of it means something else
        tags={"step": "1h", MEANING_TAG: HOURLY_ROWS, READS_TAG: "ai_features"},
    )
