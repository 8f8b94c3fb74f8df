"""The assets one file turns out to be about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai_hub.errors import BadInputError
from ai_hub.ingest import assets
from ai_hub.ingest.kinds import check_unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import Connection

    from ai_hub.ingest.assets import Asset


class Roster:
    """Looks assets up once, and registers new ones when their first good row is about to be written."""

    def __init__(
        self,
        connection: Connection[Any],
        tenant: str,
        *,
        new_kind: str,
        timezone: str | None,
        unit: str | None,
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._defaults = {"kind": new_kind, "timezone": timezone or "UTC"}
        self._unit = unit
        self._assets: dict[str, Asset] = {}
        self._unregistered: set[str] = set()
        #: Assets registered by this run.
        self.new: list[str] = []
        #: Assets this run had good rows of.
        self.written: set[str] = set()

    def look_up(self, asset_ids: Iterable[str]) -> dict[str, Asset]:
        """Assets by id; one that is not registered has the run's defaults."""
        wanted = set(asset_ids)
        if missing := wanted - self._assets.keys():
            found = assets.find(self._connection, self._tenant, missing)
            self._unregistered |= missing - found.keys()
            for asset_id in missing:
                self._assets[asset_id] = found.get(asset_id) or assets.check(
                    tenant_id=self._tenant, asset_id=asset_id, **self._defaults
                )
        return {asset_id: self._assets[asset_id] for asset_id in wanted}

    def unit_conflict(self, asset: Asset) -> str:
        """Why the run's unit does not fit the asset; empty where it does."""
        if self._unit is None:
            return ""
        try:
            unit = check_unit(asset.kind, self._unit)
        except BadInputError as error:
            return error.message
        if asset.unit is None or asset.unit == unit:
            return ""
        return f"asset {asset.asset_id} is registered in {asset.unit}, not {unit}"

    def register(self, asset_ids: Iterable[str]) -> None:
        """Make sure these assets are in the register, with the run's unit where they had none."""
        self.written.update(asset_ids)
        changed = []
        for asset_id in sorted(set(asset_ids)):
            asset = self._assets[asset_id]
            if self._unit is not None and asset.unit is None:
                asset = asset.model_copy(update={"unit": check_unit(asset.kind, self._unit)})
            if asset is not self._assets[asset_id] or asset_id in self._unregistered:
                changed.append(asset)
        if not changed:
            return
        assets.register(self._connection, changed)
        self._assets |= {asset.asset_id: asset for asset in changed}
        self.new += [asset.asset_id for asset in changed if asset.asset_id in self._unregistered]
        self._unregistered -= {asset.asset_id for asset in changed}
