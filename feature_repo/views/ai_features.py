"""All hourly features of an asset, as one declared view; those of the services read columns of it."""

from entities import asset, tenant
from hourly_features import FEATURES

from feast_plugins.windows import declared_view

ai_features = declared_view(
    name="ai_features",
    entities=[tenant, asset],
    features=FEATURES,
    # the services' views bring its columns into the online store
    online=False,
    description="Hourly features of an asset: load of the last day and week, weather and calendar",
)
