"""What an online answer says of each value: present, empty, too old, or never seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from feast import FeatureView
    from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse


def mark(
    views: Sequence[tuple[FeatureView, Sequence[str]]],
    results: Sequence[GetOnlineFeaturesResponse.FeatureVector],
    now: datetime,
) -> None:
    """Empty the values of rows older than their view's time to live, and set each value's status.

    `results` has one vector for each feature of `views`, in their order. The times of the rows stay, so a
    reader can tell how old an expired one is.
    """
    vectors = iter(results)
    for view, features in views:
        oldest = (now - view.ttl).timestamp() if view.ttl else None
        for _, vector in zip(features, vectors, strict=False):
            for place, stamp in enumerate(vector.event_timestamps):
                value = vector.values[place]
                time = stamp.seconds + stamp.nanos / 1e9
                if time == 0:
                    vector.statuses[place] = FieldStatus.NOT_FOUND
                elif oldest is not None and time < oldest:
                    value.Clear()
                    vector.statuses[place] = FieldStatus.OUTSIDE_MAX_AGE
                elif value.WhichOneof("val") is None:
                    vector.statuses[place] = FieldStatus.NULL_VALUE
