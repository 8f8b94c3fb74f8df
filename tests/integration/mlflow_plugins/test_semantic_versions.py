"""Semantic versions in the store itself, on SQLite and PostgreSQL."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException
from oracles.lifecycle import Model, refused


@pytest.mark.parametrize("number", ["v1.0.1", "1.0.1"])
def test_semantic_version__names_a_version_where_mlflow_expects_a_stage_or_alias(
    model: Model, number: str
) -> None:
    for _ in range(3):
        model.register()
    assert [item.version for item in model.store.get_latest_versions(model.name, [number])] == [2]
    both = model.store.get_latest_versions(model.name, ["Staging", number])
    assert {item.version for item in both} == {2, 3}
    assert model.store.get_model_version_by_alias(model.name, number).version == 2
    model.move(2, "Archived")
    assert model.store.get_model_version_by_alias(model.name, number).aliases == ["archived"]
    model.store.remove_version(model.name, 2)
    for absent in (number, "v7.0.0"):
        with pytest.raises(MlflowException, match=r"has no version v") as refusal:
            model.store.get_latest_versions(model.name, [absent])
        assert refusal.value.get_http_status_code() == 404


def test_semantic_version__given__is_unique_and_valid(model: Model) -> None:
    model.register(semantic_version="v2.0.0")
    assert "v2.0.1" in (refused(lambda: model.register(semantic_version="2.0.0")) or "")
    with pytest.raises(MlflowException, match=r"v1\.2\.0") as refusal:
        model.register(semantic_version="two")
    assert refusal.value.get_http_status_code() == 400
    assert model.stages() == {1: "Staging"}
    assert model.register(semantic_version="v1.9.9") == 2
    assert model.store.get_model_version(model.name, model.register()).tags["semantic_version"] == "v2.0.1"


def test_semantic_version__of_a_deleted_version__is_not_used_twice(model: Model) -> None:
    version = model.register()
    model.move(version, "Archived")
    model.store.delete_model_version(model.name, version)
    assert "deleted" in (refused(lambda: model.register(semantic_version="v1.0.0")) or "")
    assert model.store.get_model_version(model.name, model.register()).tags["semantic_version"] == "v1.0.1"


def test_fixed_tags__cannot_change(model: Model) -> None:
    version = model.register(manifest_sha256="forged")
    assert model.store.get_model_version(model.name, version).tags == {"semantic_version": "v1.0.0"}
    assert refused(lambda: model.tag(version, "semantic_version", "v9.0.0"))
    assert refused(lambda: model.tag(version, "manifest_sha256", "forged"))
    assert refused(lambda: model.store.delete_model_version_tag(model.name, version, "semantic_version"))
    model.tag(version, "semantic_version", "v1.0.0")
    model.tag(version, "note", "fine")
    model.store.delete_model_version_tag(model.name, version, "note")
