"""Features as declarations: each is one expression over the readings and the weather of an asset.

A declared view is a Feast feature view whose fields carry their expressions. `feast apply` makes the table
and the views that it needs in TimescaleDB, and every refresh keeps their rows up to date.
"""

from feast_plugins.windows.declarations import READS_TAG, declared_view
from feast_plugins.windows.features import (
    AssetAttribute,
    Calendar,
    DegreeHours,
    Difference,
    Holiday,
    Lag,
    Quantile,
    Ratio,
    SameHour,
    Series,
    SunPosition,
    Weather,
    WindPower,
)
from feast_plugins.windows.limits import Limits

__all__ = [
    "READS_TAG",
    "AssetAttribute",
    "Calendar",
    "DegreeHours",
    "Difference",
    "Holiday",
    "Lag",
    "Limits",
    "Quantile",
    "Ratio",
    "SameHour",
    "Series",
    "SunPosition",
    "Weather",
    "WindPower",
    "declared_view",
]
