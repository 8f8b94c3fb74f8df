"""Deletion of one project of several in one registry.

Feast's `FeatureStore.teardown` deletes every project of the registry, and Feast's deletion of a project
leaves the versions of its views, which keep those views from being applied again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feast.constants import PROTECTED_PROJECT_TAG
from feast.infra.passthrough_provider import PassthroughProvider
from feast.infra.registry import sql
from sqlalchemy import delete, select, union_all

from feast_plugins.errors import ProtectedProjectError, SharedRegistryError
from feast_plugins.registry import Store
from feast_plugins.windows import database as declared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import Entity, FeatureStore, FeatureView
    from feast.infra.registry.base_registry import BaseRegistry


class ProjectProvider(PassthroughProvider):
    """Feast's local provider, whose teardown deletes no other project.

    Named in `feature_store.yaml` as `provider: feast_plugins.projects.ProjectProvider`.
    """

    def teardown_infra(self, project: str, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Delete the project, as the first step of `FeatureStore.teardown`.

        Raises:
            SharedRegistryError: the registry has other projects, which the next step would delete.
        """
        store = Store(config=self.repo_config)
        others = {other.name for other in store.registry.list_projects(allow_cache=False)} - {project}
        if others:
            raise SharedRegistryError(project, others)
        super().teardown_infra(project, tables, entities)
        _delete(store.registry, project)


def teardown(store: FeatureStore) -> None:
    """Delete the store's project: its rows in the online store and its part of the registry.

    Raises:
        ProtectedProjectError: the project is protected.
    """
    _refuse_protected(store.registry, store.project)
    views = [
        *store.list_feature_views(),
        *store.list_stream_feature_views(),
        *store.list_label_views(),
    ]
    provider: Any = store.provider
    if isinstance(provider, ProjectProvider):
        provider = super(ProjectProvider, provider)
    provider.teardown_infra(store.project, views, store.list_entities())
    _delete(store.registry, store.project)
    if (lineage := store.openlineage_emitter) is not None:
        lineage.teardown_project(store.project)


def delete_project(store: FeatureStore, project: str) -> None:
    """Delete a project from the registry, with the versions and tables of its views; its online rows stay.

    Raises:
        ProjectObjectNotFoundException: the project does not exist.
        ProtectedProjectError: the project is protected.
    """
    store.get_project(project)
    _refuse_protected(store.registry, project)
    declared.teardown(store.config, project, view_names(store.registry, project))
    _delete(store.registry, project)


def view_names(registry: BaseRegistry, project: str) -> list[str]:
    """Feature views of a project, also of one that is not there."""
    views = [
        *registry.list_feature_views(project, allow_cache=False),
        *registry.list_stream_feature_views(project, allow_cache=False),
    ]
    return [view.name for view in views]


def _refuse_protected(registry: BaseRegistry, project: str) -> None:
    for registered in registry.list_projects(allow_cache=False):
        if registered.name == project and registered.tags.get(PROTECTED_PROJECT_TAG) == "true":
            raise ProtectedProjectError(project)


def _delete(registry: BaseRegistry, project: str) -> None:
    if any(registered.name == project for registered in registry.list_projects(allow_cache=False)):
        registry.delete_project(project)
    forget_versions(registry, project)


def forget_versions(registry: BaseRegistry, project: str) -> None:
    """Delete the versions of views that the project no longer has from an SQL registry."""
    if not isinstance(registry, sql.SqlRegistry):
        return
    history = sql.feature_view_version_history
    views = union_all(
        *(
            select(table.c.feature_view_name).where(table.c.project_id == project)
            for table in (
                sql.feature_views,
                sql.stream_feature_views,
                sql.on_demand_feature_views,
                sql.label_views,
            )
        )
    )
    with registry.write_engine.begin() as connection:
        connection.execute(
            delete(history).where(history.c.project_id == project, history.c.feature_view_name.not_in(views))
        )
