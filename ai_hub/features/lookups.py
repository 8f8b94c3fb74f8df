"""Keys that an asset determines: the zone a meter is in, the tariff of a customer.

A feature view may be keyed by such an entity, as prices are by zone. Which one an asset has is in a table
with the columns `tenant_id`, `asset_id` and the key: the one that the entity's tag `lookup` names, or else
`assets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from psycopg import sql

from feast_plugins.postgres.serving import LOOKUP_TAG

if TYPE_CHECKING:
    from feast import Entity

DEFAULT_TABLE: Final = "assets"
# an asset with two of them has none: either would be a guess
_ONE = """\
SELECT asset_id, (array_agg({key}))[1] AS {key} FROM {table}
WHERE tenant_id = {tenant} AND asset_id = ANY({assets})
GROUP BY asset_id HAVING count(DISTINCT {key}) = 1"""


class Lookup(NamedTuple):
    """Where a key is found."""

    key: str
    table: str

    def query(self, tenant: sql.Composable, assets: sql.Composable) -> sql.Composed:
        """Query of the key of each of a tenant's assets that has exactly one."""
        return sql.SQL(_ONE).format(
            key=sql.Identifier(self.key), table=sql.Identifier(self.table), tenant=tenant, assets=assets
        )


def lookup_of(entity: Entity) -> Lookup:
    """Where an entity's key is found."""
    return Lookup(entity.join_key, (entity.tags or {}).get(LOOKUP_TAG, "").strip() or DEFAULT_TABLE)
