"""On-demand views in history: what depends on nothing but its input is computed once for each input."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
from feast.on_demand_feature_view import OnDemandFeatureView

#: Tag of an on-demand view: with "true", equal inputs give equal features. A function that uses the time,
#: chance or the entity's keys, which it does not get, must not have it.
DETERMINISTIC_TAG: Final = "deterministic"


def is_deterministic(view: OnDemandFeatureView) -> bool:
    """Whether the features of `view` depend on nothing but its inputs."""
    return bool((view.tags or {}).get(DETERMINISTIC_TAG) == "true")


def once_per_input(view: OnDemandFeatureView) -> OnDemandFeatureView:
    """The same view; one that is tagged deterministic and has one input computes each value of it once."""
    if not is_deterministic(view) or len(_inputs(view)) != 1:
        return view
    once = _OncePerInput.__new__(_OncePerInput)
    vars(once).update(vars(view))
    return once


class _OncePerInput(OnDemandFeatureView):
    """A view of one input: a year of hourly rows of many assets has each hour many times."""

    def transform_arrow(self, pa_table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        """The features alone, in the rows of `pa_table`."""
        (names,) = _inputs(self)
        name = next((each for each in names if each in pa_table.column_names), None)
        values = None if name is None else pa_table[name].combine_chunks()
        # more than 2 GB of text stay in chunks, and lists have no dictionary
        if not isinstance(values, pa.Array) or pa.types.is_nested(values.type):
            return super().transform_arrow(pa_table, full_feature_names)
        encoded = values.dictionary_encode(null_encoding="encode")
        computed = super().transform_arrow(pa.table({name: encoded.dictionary}), full_feature_names)
        return computed.take(encoded.indices)


def _inputs(view: OnDemandFeatureView) -> list[tuple[str, str]]:
    """Names of each input in a table: with and without its view's name; those of a request first."""
    requested = [
        (field.name, field.name) for source in view.source_request_sources.values() for field in source.schema
    ]
    return requested + [
        (f"{projection.name}__{feature.name}", feature.name)
        for projection in view.source_feature_view_projections.values()
        for feature in projection.features
    ]
