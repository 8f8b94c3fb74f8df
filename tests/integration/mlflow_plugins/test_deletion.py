"""Deletion of versions and models in the store itself, on SQLite and PostgreSQL."""

from __future__ import annotations

import time

import pytest
from mlflow.exceptions import MlflowException
from oracles.lifecycle import Model, refused


def test_delete_version__only_when_archived(model: Model) -> None:
    first, second = model.register(), model.register()
    model.move(first, "Production")
    assert "Production" in (refused(lambda: model.store.delete_model_version(model.name, first)) or "")
    assert "Archive it first" in (refused(lambda: model.store.delete_model_version(model.name, second)) or "")
    model.move(second, "Archived")
    model.store.delete_model_version(model.name, second)
    assert model.stages() == {first: "Production"}
    assert model.store.history(model.name)[0].to_stage == "Deleted"
    model.check()
    with pytest.raises(MlflowException, match="not found"):
        model.move(second, "Staging")


def test_remove_version__force__in_any_stage(model: Model) -> None:
    first, second = model.register(), model.register()
    model.move(first, "Production")
    for version in (first, second):
        refusal = refused(lambda version=version: model.store.remove_version(model.name, version))
        assert "ai-hub delete --force" in (refusal or "")
        model.store.remove_version(model.name, version, force=True, reason="wrong data")
        newest = model.store.history(model.name)[0]
        assert (newest.version, newest.reason, newest.evidence) == (version, "wrong data", {"forced": True})
        model.check()
    assert model.aliases() == {}
    assert model.store.production_at(model.name, time.time_ns() // 1_000_000) is None


def test_delete_model__only_when_all_versions_are_archived(model: Model) -> None:
    first, second = model.register(), model.register()
    model.move(first, "Production")
    assert "Production" in (refused(lambda: model.store.delete_registered_model(model.name)) or "")
    model.move(first, "Archived")
    assert "Staging" in (refused(lambda: model.store.delete_registered_model(model.name)) or "")
    assert model.stages() == {first: "Archived", second: "Staging"}
    model.move(second, "Archived")
    model.store.delete_registered_model(model.name)
    with pytest.raises(MlflowException, match="not found"):
        model.store.get_registered_model(model.name)
    assert [row.to_stage for row in model.store.history(model.name)[:2]] == ["Deleted", "Deleted"]


def test_delete_model__a_new_one_of_the_same_name__starts_afresh(model: Model) -> None:
    version = model.register()
    model.move(version, "Production")
    model.move(version, "Archived")
    model.store.delete_registered_model(model.name)
    model.store.create_registered_model(model.name)
    again = model.register()
    assert again == version
    model.move(again, "Archived")
    # its predecessor was in production, it was not
    assert refused(lambda: model.move(again, "Production"))
    assert len(model.store.history(model.name)) == 6
