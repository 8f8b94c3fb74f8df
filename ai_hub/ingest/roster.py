"""The assets one file turns out to be about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai_hub.ingest import assets
from ai_hub.ingest.terms import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from psycopg import Connection

    from ai_hub.ingest.assets import Asset


class Roster:
    """Looks assets up once, and registers new ones when their first good row is about to be written."""

    def __init__(
        self,
        connection: Connection[Any] | None,
        tenant: str,
        *,
        new_kind: str,
        timezone: str | None,
        read_only: bool = False,
    ) -> None:
        """Without a connection no asset is known; with `read_only` none is registered."""
        self._read_only = read_only
        self._connection = connection
        self._tenant = tenant
        self._defaults = {"kind": new_kind, "timezone": timezone or "UTC"}
        self._assets: dict[str, Asset] = {}
        self._unregistered: set[str] = set()
        self._changed: set[str] = set()
        self._with_amounts: dict[str, bool] = {}
        #: Assets registered by this run.
        self.new: list[str] = []
        #: Assets this run had good rows of.
        self.written: set[str] = set()

    def look_up(self, asset_ids: Iterable[str]) -> dict[str, Asset]:
        """Assets by id; one that is not registered has the run's defaults."""
        wanted = set(asset_ids)
        if missing := wanted - self._assets.keys():
            found = assets.find(self._connection, self._tenant, missing) if self._connection else {}
            self._unregistered |= missing - found.keys()
            for asset_id in missing:
                self._assets[asset_id] = found.get(asset_id) or assets.check(
                    tenant_id=self._tenant, asset_id=asset_id, **self._defaults
                )
        return {asset_id: self._assets[asset_id] for asset_id in wanted}

    def has_amounts(self, asset_id: str) -> bool:
        """Whether readings were stored of an asset before this run that nobody said to be a register."""
        if asset_id not in self._with_amounts:
            found = (
                self._connection
                and self._connection.execute(
                    "SELECT FROM timeseries_data WHERE tenant_id = %s AND asset_id = %s LIMIT 1",
                    [self._tenant, asset_id],
                ).fetchone()
            )
            self._with_amounts[asset_id] = found is not None
        return self._with_amounts[asset_id]

    def registers(self, asset_ids: Iterable[str]) -> set[str]:
        """Those of the assets that are registers."""
        known = self.look_up(asset_ids)
        return {asset_id for asset_id, asset in known.items() if asset.reading is Reading.REGISTER}

    def adopt(self, asset_id: str, changes: Mapping[str, object]) -> None:
        """Fill in what the register does not say of an asset; stored with its next good row."""
        if changes:
            self._assets[asset_id] = self._assets[asset_id].model_copy(update=dict(changes))
            self._changed.add(asset_id)

    def register(self, asset_ids: Iterable[str]) -> None:
        """Make sure these assets are in the register, with what was adopted for them."""
        self.written.update(asset_ids)
        due = [
            asset_id for asset_id in sorted(set(asset_ids)) if asset_id in self._changed | self._unregistered
        ]
        if not due:
            return
        if self._connection is not None and not self._read_only:
            assets.register(self._connection, [self._assets[asset_id] for asset_id in due])
        self.new += [asset_id for asset_id in due if asset_id in self._unregistered]
        self._unregistered -= set(due)
        self._changed -= set(due)
