"""Who a feature belongs to: both keys together, so equal asset names of two tenants never meet."""

from feast import Entity, Project, ValueType

project = Project(name="ai_hub", description="Features of energy meters, one row a tenant, asset and hour")

tenant = Entity(
    name="tenant",
    join_keys=["tenant_id"],
    value_type=ValueType.STRING,
    description="Customer of the suite; owns assets and models",
)
asset = Entity(
    name="asset",
    join_keys=["asset_id"],
    value_type=ValueType.STRING,
    description="Meter or station, unique within its tenant",
)
