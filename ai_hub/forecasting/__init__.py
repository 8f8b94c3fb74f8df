"""Training, evaluation and forecasts: LightGBM on Feast features, beside naive baselines."""

#: Column of what is forecast: the mean of an hour's readings.

"""Names that training, its reports and its command line share; imports nothing."""

#: Column of what is forecast: the mean of an hour's readings.
TARGET = "value"
#: Name of each naive forecast and how many hours it looks back.
NAIVE_HOURS = {"last hour": 1, "same hour yesterday": 24, "same hour last week": 168}
