"""What a meter read last: online as soon as it is pushed, hours before it is part of an hourly row."""

from datetime import timedelta

from entities import asset, tenant
from feast import FeatureView, Field
from feast.types import Float64, String
from sources import readings

latest_reading = FeatureView(
    name="latest_reading",
    entities=[tenant, asset],
    schema=[
        Field(name="value", dtype=Float64, description="The reading, in the asset's unit"),
        Field(name="quality", dtype=String, description="good, estimated or suspect"),
    ],
    source=readings,
    # most meters report at least once a day; what is older says nothing of the present
    ttl=timedelta(days=1),
    online=True,
    description="The newest reading of a meter",
)
