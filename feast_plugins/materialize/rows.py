"""Rows of a feature view as commands for Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from feast import FeatureView, ValueType
from feast.utils import _validate_vector_field_lengths

from feast_plugins.materialize import keys, resp, times, values
from feast_plugins.materialize.plan import ViewPlan

if TYPE_CHECKING:
    from feast_plugins.materialize.stored import Stored


@dataclass(frozen=True)
class Encoder:
    """Makes commands of batches of rows."""

    plan: ViewPlan
    view: FeatureView
    project: str
    #: whether rows are compared with the times of those that are stored, which must not be newer
    check: bool
    #: whether a row of the same time replaces the stored one
    replace_equal: bool

    @property
    def replies(self) -> int:
        """Replies to the commands of one row."""
        return 2 if self.plan.ttl_seconds else 1

    def encode(self, batch: pa.RecordBatch, stored: Stored) -> tuple[pa.BinaryArray, pa.BinaryArray]:
        """Redis keys of the rows that are to be written, and the commands that write each.

        Raises:
            ValueError: a join key is NULL, or a value is none of its feature's type.
        """
        raw = resp.join(*keys.encode(self._key_columns(batch), self.project))
        bulk = resp.join(*resp.bulk((raw,)))
        event_times = times.micros(batch.column(self.plan.source.time))
        current = np.ones(len(raw), np.bool_)
        if self.check:
            known = stored.times(raw, bulk)
            current = times.is_current(event_times, known, equal=self.replace_equal)
        features = {name: batch.column(self.plan.column(name)) for name in self.plan.features}
        if features:
            _validate_vector_field_lengths(pa.record_batch(features), self.view)
        fields = [(self.plan.time_field, times.encode(event_times))]
        for name, kind in self.plan.features.items():
            fields.append((self.plan.feature_field(name), values.encode(features[name], kind)))
        commands = resp.hset(bulk, fields, self.plan.ttl_seconds)
        if current.all():
            return raw, commands
        mask = pa.array(current)
        return raw.filter(mask), commands.filter(mask)

    def _key_columns(self, batch: pa.RecordBatch) -> dict[str, tuple[pa.Array, ValueType]]:
        return {name: (batch.column(self.plan.column(name)), kind) for name, kind in self.plan.keys.items()}
