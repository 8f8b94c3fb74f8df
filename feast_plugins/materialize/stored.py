"""What Redis holds of the rows that are about to be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feast_plugins.materialize import resp

if TYPE_CHECKING:
    import pyarrow as pa

    from feast_plugins.materialize.shards import Shards


class Stored:
    """Event times of a feature view's rows, for one thread."""

    def __init__(self, shards: Shards, field: bytes) -> None:
        self._shards = shards
        self._field = field
        self._was_empty = False

    def times(self, keys: pa.BinaryArray, bulk: pa.BinaryArray) -> list[bytes | None]:
        """Serialized time of each key, which `bulk` holds as bulk strings; None: nothing is stored.

        While none is found, as in a Redis that is filled for the first time, one command asks whether there
        is any of a whole batch, which costs the server less.
        """
        if self._was_empty and self._shards.is_single and not self._shards.count(resp.exists(bulk)):
            return [None] * len(keys)
        found = self._shards.ask(keys, resp.hget(bulk, self._field))
        self._was_empty = not any(found)
        return found
