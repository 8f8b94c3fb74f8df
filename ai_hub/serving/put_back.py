"""Rows that were computed go into Redis, whether somebody still waits for them or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ai_hub.serving.cache import KNOWN, UNKNOWN, mark_key
from feast_plugins.online.write_back import times_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_hub.serving.cache import Cache
    from ai_hub.serving.catalog import Catalog
    from ai_hub.serving.current import Moment
    from ai_hub.serving.query import View
    from ai_hub.serving.rows import Found, Row


class Place(NamedTuple):
    """Where a row belongs in Redis: the key of its hash, and the time that was read there."""

    key: bytes
    stamp: bytes | None
    #: what is there lacks a feature
    is_partial: bool = False


class PutBack:
    """Puts rows back, and marks what was looked for in vain."""

    def __init__(self, catalog: Catalog, cache: Cache) -> None:
        self._catalog = catalog
        self._cache = cache

    def __call__(
        self,
        view: View,
        tenant: str,
        moment: Moment,
        found: Mapping[str, Found],
        places: Mapping[str, Place],
    ) -> None:
        """Begin to write what was found for `moment`, of those assets that have a place."""
        config = self._catalog.config
        rows: list[tuple[bytes, Row, bytes | None]] = []
        marks: list[tuple[bytes, bytes]] = []
        for asset, place in places.items():
            row, is_known = found[asset].row, found[asset].is_known
            computed = None
            if row is not None and (place.is_partial or _belongs(row, place.stamp)):
                rows.append((place.key, row, place.stamp))
                computed = moment.now
            if not moment.is_given and (row is None or not view.is_current(moment, row.nanos, computed)):
                marks.append((mark_key(config, view, tenant, asset), KNOWN if is_known else UNKNOWN))
        self._cache.put_back(config, view, rows, moment.now)
        self._cache.mark(config, marks)


def _belongs(row: Row, stamp: bytes | None) -> bool:
    """Whether a row is newer than the one that was read, or computed later."""
    if stamp is None:
        return True
    stored = times_of(stamp)
    # what was materialized may be a correction that came after this computation
    return row.nanos > stored.event or (row.nanos == stored.event and stored.computed is not None)
