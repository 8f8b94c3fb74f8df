"""Feast's Ray nodes with corrections.

The nodes of Feast 0.67 drop rows that are older than the view's TTL, give all rows to one worker, and after a
failed transformation or write they log the error, continue with their input and report success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import dill
import pyarrow as pa
from feast.infra.common.serde import SerializedArtifacts
from feast.infra.compute_engines.dag.model import DAGFormat
from feast.infra.compute_engines.dag.node import DAGNode
from feast.infra.compute_engines.dag.value import DAGValue
from feast.infra.compute_engines.feature_builder import FeatureBuilder
from feast.infra.compute_engines.ray.feature_builder import RayFeatureBuilder
from feast.infra.compute_engines.ray.nodes import RayFilterNode, RayReadNode, RayTransformationNode
from feast.transformation.mode import TransformationMode
from feast.utils import _convert_arrow_to_proto

from feast_plugins.ray.workers import count_workers

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureView
    from feast.data_source import DataSource
    from feast.infra.compute_engines.dag.context import ExecutionContext
    from feast.infra.compute_engines.dag.plan import ExecutionPlan
    from feast.infra.compute_engines.ray.config import RayComputeEngineConfig


class StrictRayFeatureBuilder(RayFeatureBuilder):
    """Builds plans of materialization tasks that fail when a node does."""

    def build(self) -> ExecutionPlan:
        """The plan; views derived from other views keep Feast's."""
        if self.feature_view.source_views:
            return super().build()
        return FeatureBuilder.build(self)

    def build_source_node(self, view: FeatureView) -> DAGNode:
        """Read rows, in one block per worker."""
        times = (self.task.start_time, self.task.end_time)
        columns = self.get_column_info(view)
        source = cast("DataSource", view.batch_source)  # Feast calls this for views with a source only
        return self._add(_ReadNode("source", source, columns, self.config, *times), [])

    def build_filter_node(self, view: FeatureView, input_node: DAGNode) -> DAGNode:
        """Apply the view's own filter, and no TTL: rows of any age are materialized."""
        condition = getattr(view, "filter", None)
        return self._add(
            RayFilterNode("filter", self.get_column_info(view), self.config, filter_condition=condition),
            [input_node],
        )

    def build_transformation_node(self, view: FeatureView, input_nodes: list[DAGNode]) -> DAGNode:
        """Run the view's function on the workers."""
        function = getattr(view, "feature_transformation", None) or getattr(view, "udf", None)
        return self._add(_TransformationNode("transformation", function, self.config), input_nodes)

    def build_output_nodes(self, view: FeatureView, final_node: DAGNode) -> DAGNode:
        """Write rows on the workers."""
        return self._add(_WriteNode("output", view, self.config), [final_node])

    def _add(self, node: DAGNode, inputs: list[DAGNode]) -> DAGNode:
        for input_node in inputs:
            node.add_input(input_node)
        self.nodes.append(node)
        return node


class _ReadNode(RayReadNode):
    """Reads rows as Feast's node does, and splits its one block for the workers."""

    def execute(self, context: ExecutionContext) -> DAGValue:
        value = super().execute(context)
        return DAGValue(value.data.repartition(count_workers(self.config)), value.format, value.metadata)


class _TransformationNode(RayTransformationNode):
    """Runs a function of data frames on the workers; one of Ray datasets runs in Feast's node."""

    def execute(self, context: ExecutionContext) -> DAGValue:
        if getattr(self.transformation, "mode", None) in {TransformationMode.RAY, "ray"}:
            return super().execute(context)
        function = dill.dumps(getattr(self.transformation, "udf", self.transformation))

        def transform(batch: pd.DataFrame) -> pd.DataFrame:
            frame: pd.DataFrame = batch if batch.empty else dill.loads(function)(batch)  # noqa: S301  # made above
            return frame

        value = self.get_single_input_value(context)
        value.assert_format(DAGFormat.RAY)
        return DAGValue(
            value.data.map_batches(transform, batch_format="pandas", concurrency=count_workers(self.config)),
            DAGFormat.RAY,
            {"transformed": True},
        )


class _WriteNode(DAGNode):
    """Writes rows to the stores of the view."""

    def __init__(self, name: str, view: FeatureView, config: RayComputeEngineConfig) -> None:
        super().__init__(name)
        self._view = view
        self._config = config

    def execute(self, context: ExecutionContext) -> DAGValue:
        value = self.get_single_input_value(context)
        value.assert_format(DAGFormat.RAY)
        written = value.data.map_batches(
            _write,
            fn_args=(SerializedArtifacts.serialize(self._view, context.repo_config),),
            batch_format="pyarrow",
            batch_size=context.repo_config.materialization_config.online_write_batch_size,
            concurrency=self._config.write_concurrency or count_workers(self._config),
        ).materialize()
        return DAGValue(written, DAGFormat.RAY, {"written": True})


def _write(rows: pa.Table, artifacts: SerializedArtifacts) -> pa.Table:
    """Write rows, and return a table of their number."""
    view, online, offline, config = artifacts.unserialize()
    keys = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    # Feast would convert only the first batch of a table
    batches = rows.combine_chunks().to_batches()
    for batch in batches if view.online else []:
        online.online_write_batch(config, view, _convert_arrow_to_proto(batch, view, keys), None)
    if view.offline and batches:
        offline.offline_write_batch(config, view, rows, None)
    return pa.table({"rows": [len(rows)]})
