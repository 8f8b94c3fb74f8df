"""Training, evaluation and forecasts: LightGBM on Feast features, beside naive baselines.

Here are the names that all of it and its clients share; this imports no library.
"""

from enum import StrEnum

#: Column of what is forecast: the mean of an hour's readings.
TARGET = "value"
#: Type of the source of datasets that runs of `ai-hub train` are given, see `training_rows`.
TRAINING_SOURCE = "ai_hub_feature_rows"
#: Name of each naive forecast and how many hours it looks back.
NAIVE_HOURS = {"last hour": 1, "same hour yesterday": 24, "same hour last week": 168}


class By(StrEnum):
    """What scores are told apart by."""

    VERSION = "version"
    ASSET = "asset"
    DAY = "day"
    LEAD = "lead"
