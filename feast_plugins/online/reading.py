"""One request: from entity rows to commands, and from their replies to the answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from feast import metrics
from feast.protos.feast.serving.ServingService_pb2 import FeatureViewMetadata

from feast_plugins.online import answer, entities, on_demand
from feast_plugins.online.exchange import Commands
from feast_plugins.online.response import ColumnarResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast_plugins.online.answer import Column
    from feast_plugins.online.layout import KeyGroup, Keys
    from feast_plugins.online.plan import Plan


class Read:
    """A request, ready to be sent as `commands`: one HMGET a hash."""

    def __init__(self, plan: Plan, entity_rows: entities.EntityRows, project: str) -> None:
        self._given = entities.columns(entity_rows)
        self._plan = plan
        # Feast's own error where there are no columns
        self._count = {len(column) for column in self._given.values()}.pop()
        # columns of no rows are none
        layout = self._layout = plan.layout(self._given if self._count else ())
        self._keys = {
            column: entities.encode(self._given[column], kind) for column, _, kind in layout.join_keys
        }
        #: rows of each group, and how many hashes are read for them; fewer, if some are the same
        self._rows: list[tuple[list[bytes], int]] = []
        self._read: list[Keys] = []
        payload = []
        for group in layout.groups:
            keys = group.keys(self._keys, self._count, project.encode())
            rows = keys.rows
            if len(set(rows)) < len(rows):
                keys = keys._replace(rows=list(dict.fromkeys(rows)))
            self._rows.append((rows, len(keys.rows)))
            self._read.append(keys)
            payload.append(group.commands(keys))
        self.commands = Commands(b"".join(payload), sum(count for _, count in self._rows))

    @property
    def groups(self) -> list[tuple[KeyGroup, Keys]]:
        """What `commands` read: of each group of views the hashes, each once, in the order of the replies."""
        return list(zip(self._layout.groups, self._read, strict=True))

    def answer(
        self, replies: Sequence[Any], *, view_metadata: bool, now: int | None = None
    ) -> ColumnarResponse:
        """The response to the request; `replies` are those to `commands`.

        `now`: when ages are judged, in nanoseconds since 1970; default: the clock's time.
        """
        plan, layout = self._plan, self._layout
        keys = [(name, answer.given(self._keys[column].values)) for column, name, _ in layout.join_keys]
        stored = self._stored(replies, time.time_ns() if now is None else now)
        computed: dict[str, Column] = {}
        if plan.on_demand:
            inputs = [
                (name, answer.given(entities.inputs(self._given[name], kind))) for name, kind in layout.inputs
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

    def _stored(self, replies: Sequence[Any], now: int) -> list[list[Column]]:
        """Columns of each stored view."""
        fields, begin = [], 0
        for rows, count in self._rows:
            group = replies[begin : begin + count]
            begin += count
            if count < len(rows):
                known = dict(zip(dict.fromkeys(rows), group, strict=True))
                group = [known[row] for row in rows]
            fields.append(list(zip(*group, strict=True)))
        found = []
        for view, place in zip(self._plan.views, self._layout.views, strict=True):
            columns = fields[place.group]
            judged = answer.Rows(columns[place.stamp], view.ttl, now)
            found.append([judged.column(columns[each]) for each in place.features])
            if metrics._config.online_features:  # noqa: SLF001  # Feast's switch
                features = len(place.features)
                metrics.track_feature_statuses(
                    view.view.name, judged.present * features, (self._count - judged.present) * features
                )
        return found


def _view_metadata(plan: Plan) -> list[bytes]:
    """Version of each stored view, by the name it goes by."""
    found: dict[str, bytes] = {}
    for stored in plan.views:
        projection = stored.view.projection
        name = projection.name_alias or projection.name
        version = getattr(stored.view, "current_version_number", 0) or 0
        found.setdefault(name, FeatureViewMetadata(name=name, version=version).SerializeToString())
    return list(found.values())
