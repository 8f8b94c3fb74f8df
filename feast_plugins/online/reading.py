"""One request: from entity rows to commands, and from their replies to the answer.

Rows go in blocks: while Redis reads one, the next is encoded, and those read before are put into the answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from feast import metrics
from feast.protos.feast.serving.ServingService_pb2 import FeatureViewMetadata

from feast_plugins.online import answer, entities, on_demand
from feast_plugins.online.response import ColumnarResponse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from feast_plugins.online.answer import Column
    from feast_plugins.online.plan import Plan

_BLOCK = 64


@dataclass(slots=True)
class _Block:
    """Some rows: the key of each, and the hashes that are read for them, by group of views."""

    payload: bytes
    keys: list[list[bytes]] = field(default_factory=list)
    hashes: list[list[bytes]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(map(len, self.hashes))


class Read:
    """A request; what `exchange` needs of it, and the answer."""

    def __init__(self, plan: Plan, entity_rows: entities.EntityRows, project: str) -> None:
        self._given = entities.columns(entity_rows)
        self._plan = plan
        # Feast's own error where there are no columns
        self._count = {len(column) for column in self._given.values()}.pop()
        # columns of no rows are none
        self._layout = plan.layout(self._given if self._count else ())
        self._project = project.encode()
        self._entities = {
            column: entities.EntityColumn(self._given[column], kind)
            for column, _, kind in self._layout.join_keys
        }
        self._keys = {column: answer.Column(None) for column in self._entities}
        self._blocks: list[_Block] = []
        self.begin()

    def begin(self) -> None:
        """Forget all replies."""
        self._taken = 0
        self._found: list[dict[bytes, Any]] = [{} for _ in self._layout.groups]
        self._stored = [answer.StoredColumns(len(view.features), view.ttl) for view in self._plan.views]

    def blocks(self) -> Iterator[tuple[bytes, int]]:
        """Commands, one HMGET a hash, and how many they are."""
        yield from ((block.payload, block.count) for block in self._blocks)
        asked: list[set[bytes]] = [set() for _ in self._layout.groups]
        for begin in range(sum(len(block.keys[0]) for block in self._blocks), self._count, _BLOCK):
            block = self._encode(begin, min(begin + _BLOCK, self._count), asked)
            self._blocks.append(block)
            yield block.payload, block.count

    def _encode(self, begin: int, end: int, asked: list[set[bytes]]) -> _Block:
        parts = {}
        for name, column in self._entities.items():
            parts[name] = encoded = column.block(begin, end)
            answer.given(self._keys[name], encoded.values)
        block, commands = _Block(b""), []
        for group, before in zip(self._layout.groups, asked, strict=True):
            keys = group.keys(parts, end - begin, self._project)
            hashes = [key for key in dict.fromkeys(keys) if key not in before]
            before.update(hashes)
            commands += group.commands(hashes)
            block.keys.append(keys)
            block.hashes.append(hashes)
        block.payload = b"".join(commands)
        return block

    def take(self, replies: Sequence[Any]) -> None:
        """Put the replies to the next block into the answer."""
        block = self._blocks[self._taken]
        self._taken += 1
        fields, begin = [], 0
        for keys, hashes, found in zip(block.keys, block.hashes, self._found, strict=True):
            rows = replies[begin : begin + len(hashes)]
            begin += len(hashes)
            found.update(zip(hashes, rows, strict=True))
            if len(hashes) < len(keys):
                rows = [found[key] for key in keys]
            fields.append(list(zip(*rows, strict=True)))
        now = time.time_ns()
        for view, stored, place in zip(self._plan.views, self._stored, self._layout.views, strict=True):
            columns = fields[place.group]
            stamps = columns[place.stamp]
            present = stored.add(stamps, [columns[each] for each in place.features], now)
            if metrics._config.online_features:  # noqa: SLF001  # Feast's switch
                count = len(place.features)
                metrics.track_feature_statuses(
                    view.view.name, present * count, (len(stamps) - present) * count
                )

    def answer(self, *, view_metadata: bool) -> ColumnarResponse:
        """The response to the request, after all replies were taken."""
        plan, layout = self._plan, self._layout
        keys = [(name, self._keys[column]) for column, name, _ in layout.join_keys]
        stored = [view.columns for view in self._stored]
        computed: dict[str, Column] = {}
        if plan.on_demand:
            inputs = [
                (name, answer.computed(entities.inputs(self._given[name], kind)))
                for name, kind in layout.inputs
            ]
            computed = on_demand.compute(plan, keys + inputs, stored)
        features = []
        for name, view, place in plan.results:
            if view is not None:
                features.append((name, stored[view][place]))
            elif name in computed:
                features.append((name, computed[name]))
        metadata = _view_metadata(plan) if view_metadata else ()
        return ColumnarResponse(keys + features, plan.feature_types, metadata)


def _view_metadata(plan: Plan) -> list[bytes]:
    """Version of each stored view, by the name it goes by."""
    found: dict[str, bytes] = {}
    for stored in plan.views:
        projection = stored.view.projection
        name = projection.name_alias or projection.name
        version = getattr(stored.view, "current_version_number", 0) or 0
        found.setdefault(name, FeatureViewMetadata(name=name, version=version).SerializeToString())
    return list(found.values())
