"""Our tables live beside MLflow's, with and without workspaces."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from mlflow.entities.model_registry import ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _upgrade_db
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
from mlflow.utils.workspace_context import ServerWorkspaceContext
from oracles.lifecycle import Model, refused
from support.registry_servers import each_database

from mlflow_plugins import database
from mlflow_plugins.store.lifecycle_store import LifecycleStore

if TYPE_CHECKING:
    from pathlib import Path


@each_database
def test_migrate__agrees_with_the_tables_the_code_uses(model: Model) -> None:
    inspector = sa.inspect(model.store.engine)
    for table in database.metadata.tables.values():
        present = {column["name"]: column["nullable"] for column in inspector.get_columns(table.name)}
        expected = {column.name: bool(column.nullable) for column in table.columns}
        # SQLite does not say that its row id is never null
        assert {**present, "id": False} == expected


@each_database
def test_migrate__twice_and_at_once__does_nothing(model: Model) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(database.migrate, [model.store.engine] * 4)) == [len(database.MIGRATIONS)] * 4
    model.register()
    model.check()


def test_migrate__from_nothing_at_once__happens_once(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'new.db'}")
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(database.migrate, [engine] * 4)) == {len(database.MIGRATIONS)}
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_migrate__from_the_first_version__keeps_the_trail(
    kind: str, native_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    if kind == "postgresql":
        with psycopg.connect(native_postgres, autocommit=True) as connection:
            connection.execute("CREATE DATABASE first_version")
        url = urlsplit(native_postgres)._replace(path="/first_version").geturl()
    engine = sa.create_engine(url)
    monkeypatch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
    database.migrate(engine)
    row = {"workspace": "acme", "name": "demand", "model_created": 1, "version": 1, "to_stage": "Staging"}
    row |= {"actor": "ada", "evidence": "{}", "at_ms": 1}
    with engine.begin() as connection:
        connection.execute(sa.insert(database.transitions).values(**row, actor_source="claimed"))
        with pytest.raises(sa.exc.IntegrityError), connection.begin_nested():
            connection.execute(sa.insert(database.transitions).values(**row, actor_source="delegated"))
    monkeypatch.undo()
    assert database.migrate(engine) == len(database.MIGRATIONS)
    with engine.begin() as connection:
        connection.execute(sa.insert(database.transitions).values(**row, actor_source="delegated"))
        with pytest.raises(sa.exc.IntegrityError), connection.begin_nested():
            connection.execute(sa.insert(database.transitions).values(**row, actor_source="sworn"))
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), connection.begin_nested():
            connection.execute(sa.delete(database.transitions))
        kept = connection.execute(sa.select(database.transitions).order_by(database.transitions.c.id)).all()
    assert kept[0].id == 1
    assert [each.actor_source for each in kept] == ["claimed", "delegated"]
    assert kept[1].id > kept[0].id
    engine.dispose()


def test_migrate__another_database__is_refused() -> None:
    with pytest.raises(MlflowException, match="SQLite and PostgreSQL"):
        database.migrate(sa.create_mock_engine("mysql://", lambda *_: None))


@each_database
def test_mlflows_own_upgrade__still_works_beside_our_tables(model: Model) -> None:
    version = model.register()
    model.move(version, "Production")
    _upgrade_db(model.store.engine)
    model.check()


def test_entry_point__finds_the_store(sqlite_template: Path, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(sqlite_template, path)
    stores = ModelRegistryStoreRegistry()
    stores.register_entrypoints()
    store = stores.get_store(f"lifecycle+sqlite:///{path}")
    assert isinstance(store, LifecycleStore)
    store._dispose_engine()


@each_database
def test_versions_older_than_the_plugin__join_the_life(model: Model) -> None:
    stock = SqlAlchemyStore(model.store.db_uri)
    for stage in ("None", "Staging", "Production", "Production"):
        version = stock.create_model_version(model.name, "runs-elsewhere").version
        stock.transition_model_version_stage(model.name, version, stage, archive_existing_versions=False)
    assert "Move it to Staging first" in (refused(lambda: model.move(1, "Production")) or "")
    model.move(1, "Staging")
    model.tag(1, "note", "no number yet")
    assert refused(lambda: model.tag(1, "semantic_version", "v1.0.0"))
    model.move(2, "Production")
    assert model.stages() == {1: "Staging", 2: "Production", 3: "Archived", 4: "Archived"}
    assert model.aliases() == {"production": 2, "staging": 1, "archived": 4}
    assert model.store.history(model.name)[0].evidence["gates"]["manifest"]["manifest"] == "none"
    stock.delete_registered_model(model.name)  # with it no other test could open this registry


@each_database
def test_workspaces__keep_models_of_one_name_apart(
    store_uri: str, monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    store = LifecycleStore(store_uri)
    for workspace in ("acme", "beta"):
        with ServerWorkspaceContext(workspace):
            store.create_registered_model(model.name)
            tag = ModelVersionTag("semantic_version", "v4.0.0")
            store.create_model_version(model.name, "runs-elsewhere", tags=[tag])
    with ServerWorkspaceContext("acme"):
        store.move_version(model.name, 1, "Production")
        Model(store, model.name).check()
    with ServerWorkspaceContext("beta"):
        assert store.get_model_version(model.name, 1).current_stage == "Staging"
        assert [row.to_stage for row in store.history(model.name)] == ["Staging"]
        assert store.production_at(model.name, 2**50) is None
        with pytest.raises(MlflowException, match="nothing to roll back"):
            store.roll_back(model.name)
        Model(store, model.name).check()
    monkeypatch.delenv("MLFLOW_ENABLE_WORKSPACES")
    with pytest.raises(MlflowException, match="Cannot disable workspaces"):
        LifecycleStore(store_uri)
    # the PostgreSQL server is shared with tests that use no workspaces
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    for workspace in ("acme", "beta"):
        with ServerWorkspaceContext(workspace):
            store.move_version(model.name, 1, "Archived")
            store.delete_registered_model(model.name)
