"""Feast's registry in a database, for processes that read more than one state of it."""

# mypy: allow-untyped-calls
# Feast declares half of its types

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from feast import FeatureStore
from feast.infra.registry.sql import SqlRegistry

if TYPE_CHECKING:
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto


class NumberedRegistry(SqlRegistry):
    """Numbers each state that it reads.

    Feast keeps what it listed last by the state's id() and its `version_id`, which a database does not have:
    a state that lies where a dropped one was would have the dropped one's features.
    """

    def proto(self) -> RegistryProto:
        """The present state."""
        state = super().proto()
        state.version_id = uuid4().hex
        return state


class Store(FeatureStore):
    """A feature store whose registry, if it is in a database, numbers its states."""

    def _create_registry(self) -> BaseRegistry:
        registry = self.config.registry
        if registry.registry_type == "sql":
            return NumberedRegistry(registry, self.config.project, None)
        return super()._create_registry()
