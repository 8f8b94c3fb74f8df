"""The gate that asks Feast's real registry whether what a model needs is served."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, String
from support.gate_candidates import candidate

from ai_hub.features.promotion_gate import FeatureServiceGate

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow_plugins.gates.gate import Verdict


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of Feast's, not yet made."""
    path = tmp_path / "feast.db"
    monkeypatch.setenv("FEAST_REGISTRY_URI", f"sqlite:///{path}")
    return path


def _apply(registry: Path, *features: str) -> FeatureStore:
    """What `feast apply` does with a service `forecast` of these features, in the product's project."""
    asset = Entity(name="asset", join_keys=["asset_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="hours",
        entities=[asset],
        schema=[
            Field(name="asset_id", dtype=String),
            *(Field(name=name, dtype=Float64) for name in features),
        ],
        source=FileSource(name="hours", path="hours.parquet", timestamp_field="event_timestamp"),
        ttl=timedelta(hours=3),
    )
    store = FeatureStore(
        config=RepoConfig(
            project="ai_hub",
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{registry}"},
            online_store={"type": "sqlite", "path": str(registry.with_name("online.db"))},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    store.apply([asset, view, FeatureService(name="forecast", features=[view])])
    return store


def _ask(service: str | None, *features: str) -> Verdict:
    metadata: dict[str, Any] = {"feature_service": service, "feature_names": list(features)}
    return FeatureServiceGate().check(candidate(metadata=metadata))


def test_service__with_all_features__passes(registry: Path) -> None:
    _apply(registry, "lag_1h", "lag_24h")
    verdict = _ask("forecast", "lag_1h", "hours__lag_24h", "asset_id")
    assert verdict.passed, verdict.text
    assert verdict.evidence == {
        "service": "forecast",
        "features": ["asset_id", "hours__lag_24h", "lag_1h"],
    }


def test_service__missing_or_lacking_features__is_refused_by_name(registry: Path) -> None:
    store = _apply(registry, "lag_1h", "lag_24h")
    for service, features, found in (
        (None, ("lag_1h",), "It names no feature service. Set the run's tag feature_service"),
        ("forecast", (), "It has no signature"),
        ("forcast", ("lag_1h",), "Feast has no feature service forcast. Have it back by `feast apply`"),
        ("forecast", ("lag_1h", "humidity"), "does not serve humidity, which the model takes. Put them back"),
    ):
        verdict = _ask(service, *features)
        assert not verdict.passed
        assert found in verdict.text
    # what was applied a moment ago counts, whatever a cache still holds
    assert _ask("forecast", "lag_24h").passed
    _apply(registry, "lag_1h")
    assert "lag_24h" in _ask("forecast", "lag_24h").text
    store.delete_feature_service("forecast")
    assert "no feature service forecast" in _ask("forecast", "lag_1h").text


def test_registry__that_does_not_answer__is_no_pass(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal() -> str:
        verdict = _ask("forecast", "lag_1h")
        assert not verdict.passed
        return verdict.text

    assert "missing tables" in refusal()
    assert not registry.exists() or registry.stat().st_size == 0
    monkeypatch.setenv("FEAST_REGISTRY_URI", "postgresql+psycopg://me:secret@127.0.0.1:1/feast")
    assert "refused" in refusal()
    assert "secret" not in refusal()
    monkeypatch.setenv("FEAST_REGISTRY_URI", "")
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(registry.parent / "nothing"))
    assert "FEAST_REGISTRY_URI is not set" in refusal()
