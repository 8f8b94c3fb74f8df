"""The assets one file turns out to be about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai_hub.ingest import assets

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
