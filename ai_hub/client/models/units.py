"""What the features of assets are in, as it was read last."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: An asset is asked for again after so many seconds: its unit hardly ever changes.
_HOLDS_S = 600.0
_MOST = 100_000


class Units:
    """Units by asset of one tenant; may be shared by threads."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, bool, str | None]] = {}

    def due(self, assets: Iterable[str]) -> list[str]:
        """Assets to ask for."""
        now = time.monotonic()
        return [asset for asset in dict.fromkeys(assets) if self._known.get(asset, (0.0,))[0] <= now]

    def put(self, assets: Sequence[str], units: Mapping[str, str | None]) -> None:
        """Note what was found for `assets`; one that is not in `units` is not registered."""
        until = time.monotonic() + _HOLDS_S
        if len(self._known) + len(assets) > _MOST:
            self._known = {}
        self._known.update({asset: (until, asset in units, units.get(asset)) for asset in assets})

    def get(self, assets: Iterable[str]) -> dict[str, str | None]:
        """Units of those assets that are known and registered."""
        found = {asset: known for asset in assets if (known := self._known.get(asset)) is not None}
        return {asset: unit for asset, (_, is_registered, unit) in found.items() if is_registered}
