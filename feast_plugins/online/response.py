"""An online response that is parsed when somebody looks at its message."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse

from feast_plugins.online import decode, wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast.value_type import ValueType

    from feast_plugins.online.answer import Column

_METADATA, _RESULTS = wire.Field(1), wire.Field(2)
_NAMES, _VIEWS = wire.Field(1), wire.Field(2)


class ColumnarResponse(OnlineResponse):
    """Feast's response, whose `to_dict` needs no message; all other methods build on the two."""

    def __init__(
        self,
        columns: Sequence[tuple[str, Column]],
        feature_types: dict[str, ValueType],
        view_metadata: Sequence[bytes] = (),
    ) -> None:
        self.columns = columns
        self.view_metadata = view_metadata
        self._feature_types = feature_types
        self._message: GetOnlineFeaturesResponse | None = None
        self._bytes = b""

    @property
    def proto(self) -> GetOnlineFeaturesResponse:  # type: ignore[override]  # made when it is looked at
        """The response as Feast's message."""
        if self._message is None:
            self._bytes = self.serialized()
            self._message = GetOnlineFeaturesResponse.FromString(self._bytes)
        return self._message

    def serialized(self) -> bytes:
        """The response as the bytes of Feast's message."""
        metadata = _names(tuple([name for name, _ in self.columns])) + _VIEWS.all(self.view_metadata)
        return _METADATA.one(metadata) + _RESULTS.all([column.vector() for _, column in self.columns])

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:  # Feast's signature
        """Values by name; with `include_event_timestamps` the times, too, as seconds since 1970."""
        if self._message is not None and self._message.SerializeToString() != self._bytes:
            return super().to_dict(include_event_timestamps)  # it was changed
        found: dict[str, list[Any]] = {}
        for name, column in self.columns:
            found[name] = decode.python_values(column.values, self._feature_types.get(name))
            if include_event_timestamps:
                stamps = column.stamps
                found[name + TIMESTAMP_POSTFIX] = (
                    [0] * len(column.values) if stamps is None else decode.seconds(stamps)
                )
        return found


@lru_cache(maxsize=1024)
def _names(names: tuple[str, ...]) -> bytes:
    """Names of the columns as a field of the metadata; requests repeat."""
    return _NAMES.one(_NAMES.all([name.encode() for name in names]))
