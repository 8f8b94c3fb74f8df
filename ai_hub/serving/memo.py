"""What was made from the same bytes before: Redis is asked each time, but the work is not done again.

Most requests of an hour ask for assets that were asked for before, and find the rows that were found then.
Their commands follow from the keys. Their features follow from the bytes of the rows, and from the keys,
which on-demand views may use; so it is these that features are kept by, all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from ai_hub.serving.answers import Origin
    from ai_hub.serving.query import Query

Kept = TypeVar("Kept")

#: Assets, counted for each feature set; a row takes one to three kilobytes, its commands half of one.
MOST_ASSETS: Final = 10_000


class Memo(Generic[Kept]):
    """Keeps things for so many assets; when there are more it begins anew."""

    def __init__(self, most: int = MOST_ASSETS) -> None:
        self._most = most
        self._assets = 0
        self._known: dict[Hashable, Kept] = {}

    def get(self, key: Hashable) -> Kept | None:
        """What was kept by this key."""
        return self._known.get(key)

    def all(self, keys: Sequence[Hashable]) -> list[Kept] | None:
        """What was kept by each key; None: not all of it is there."""
        known = self._known
        try:
            return [known[key] for key in keys]
        except KeyError:
            return None

    def put(self, key: Hashable, kept: Kept, *, assets: int = 1) -> None:
        """Keep something of so many assets."""
        if self._assets + assets > self._most:
            self._known.clear()
            self._assets = 0
        if key not in self._known:
            self._assets += assets
        self._known[key] = kept


def row_keys(
    query: Query,
    tenant: str,
    assets: Sequence[str],
    replies: Sequence[Sequence[Any]],
    origins: Sequence[Origin],
    *,
    lookback_hours: int,
) -> list[Hashable]:
    """Everything that the features of each asset follow from; `replies` are those of Redis."""
    return [
        (query, lookback_hours, tenant, asset, *reply, origin.without_row, origin.too_old)
        for asset, reply, origin in zip(assets, replies, origins, strict=True)
    ]
