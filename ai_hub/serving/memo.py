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

#: Where what is kept is seldom asked for again, nothing is kept for so many times as many assets.
_REST: Final = 10


class Memo(Generic[Kept]):
    """Keeps things for so many assets; when there are more it begins anew."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._assets = 0
        self._hits = 0
        self._resting = 0
        self._known: dict[Hashable, Kept] = {}

    def is_worth(self, assets: int) -> bool:
        """Whether to look for so many assets here, and to keep what is made of them."""
        if self._resting > 0:
            self._resting -= assets
            return False
        return self._most > 0

    def get(self, key: Hashable, *, assets: int = 1) -> Kept | None:
        """What was kept of so many assets by this key."""
        found = self._known.get(key)
        if found is not None:
            self._hits += assets
        return found

    def all(self, keys: Sequence[Hashable]) -> list[Kept] | None:
        """What was kept by each key; None: not all of it is there."""
        known = self._known
        try:
            found = [known[key] for key in keys]
        except KeyError:
            return None
        self._hits += len(keys)
        return found

    def put(self, key: Hashable, kept: Kept, *, assets: int = 1) -> None:
        """Keep something of so many assets."""
        if self._assets + assets > self._most:
            # keeping must be worth its while, or it takes more time than it saves
            self._resting = 0 if self._hits > self._assets else _REST * self._most
            self._known.clear()
            self._assets = self._hits = 0
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
    # whoever looks further back than that sees the same
    reach = query.reach_within(lookback_hours)
    return [
        (query, reach, tenant, asset, *reply, origin.without_row, origin.too_old)
        for asset, reply, origin in zip(assets, replies, origins, strict=True)
    ]
