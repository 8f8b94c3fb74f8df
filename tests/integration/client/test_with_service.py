"""The client with the real service, its keys, features, exports and registry."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from support import client_models
from support.client_models import FEATURES, answer_of
from support.feature_reading import PATIENT
from support.registry_tenant import MODEL, Tenant
from support.service_server import running_service

import ai_hub
from ai_hub import registry
from ai_hub.access import api_keys
from ai_hub.access.principal import Scope
from ai_hub.api.schemas.features import FeatureSource
from ai_hub.client import DegradedError, KeyRefusedError
from ai_hub.db import connect
from ai_hub.errors import ConflictError, ForbiddenError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

    from ai_hub.api.schemas.features import FeaturesResponse
    from ai_hub.client import Prediction

GUIDE = Path(__file__).parents[3] / "docs/client.md"


@pytest.fixture(scope="module")
def tenant(energy: Energy, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    """`energy.main`, with a model in production."""
    url = energy.environment["MLFLOW_TRACKING_URI"]
    registry.ensure_tenant(energy.main)
    client = MlflowClient(url, url)
    with registry.tenant_scope(energy.main):
        client.create_registered_model(MODEL)
        made = Tenant(energy.main, url, client, client.create_experiment("client"))
    client_models.promote(made, tmp_path_factory.mktemp("model"))
    return made


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with running_service(options=PATIENT.model_copy(update={"auth": "required"})) as url:
        yield url


@pytest.fixture(scope="module")
def key(energy: Energy) -> str:
    _, text = api_keys.create("client-test", [energy.main], list(Scope), created_by="test")
    return str(text)


def test_predict__is_the_production_model_on_the_services_features(
    service: str, key: str, tenant: Tenant, tmp_path: Path
) -> None:
    with ai_hub.Client(service, api_key=key, tenant=tenant.name, cache_dir=tmp_path) as client:
        features = client.features(["1", "nobody"], "forecast_basic", feature_names=FEATURES)
        known, unknown, again = client.predict(MODEL, ["1", "nobody", "1"])
        assert known == again
        assert known.value == pytest.approx(answer_of(1))
        assert (known.version, known.semantic_version) == (1, "v1.0.0")
        assert (known.hour, known.missing) == (features.results[0].hour, ())
        assert (known.degraded, known.stale) == (False, False)
        assert (unknown.value, unknown.degraded, set(unknown.missing)) == (None, True, set(FEATURES))
        with pytest.raises(DegradedError, match="nobody") as refusal:
            client.predict(MODEL, ["1", "nobody"], on_degraded="raise")
        assert [each.asset_id for each in refusal.value.predictions] == ["1", "nobody"]
        (earlier,) = client.predict(MODEL, "1", at=known.hour - timedelta(days=7))
        assert earlier.hour == known.hour - timedelta(days=7)
        (listed,) = client.models(MODEL, stage="production")
        assert listed.version == "v1.0.0"
        assert "forecast_advanced" in client.feature_sets()


def test_predict__features_in_another_unit_than_the_models__are_refused(
    service: str, key: str, tenant: Tenant, tmp_path: Path
) -> None:
    """The unit is corrected after the training."""
    arguments = {"api_key": key, "tenant": tenant.name, "cache_dir": tmp_path}

    async def ask() -> list[Prediction]:
        async with ai_hub.AsyncClient(service, **arguments) as client:
            return await client.predict(MODEL, ["1", "nobody"])

    statement = "UPDATE assets SET unit = %s WHERE tenant_id = %s AND asset_id = '1'"
    with connect() as connection:
        ((unit,),) = connection.execute(
            "SELECT unit FROM assets WHERE tenant_id = %s AND asset_id = '1'", [tenant.name]
        ).fetchall()
        connection.execute(statement, ["m3", tenant.name])
    try:
        with (
            ai_hub.Client(service, **arguments) as client,
            pytest.raises(ConflictError, match="trained in kW, but features are now of 1 in m3/h"),
        ):
            client.predict(MODEL, ["1", "11"])
        with pytest.raises(ConflictError, match="1 in m3/h"):
            asyncio.run(ask())
    finally:
        with connect() as connection:
            connection.execute(statement, [unit, tenant.name])


def test_async__answers_the_same(service: str, key: str, tenant: Tenant, tmp_path: Path) -> None:
    arguments = {"api_key": key, "tenant": tenant.name, "cache_dir": tmp_path}
    assets = ["1", "11", "nobody"]

    async def ask() -> tuple[FeaturesResponse, list[Prediction]]:
        async with ai_hub.AsyncClient(service, **arguments) as client:
            return await asyncio.gather(client.features("1"), client.predict(MODEL, assets))

    with ai_hub.Client(service, **arguments) as client:
        expected = client.features("1"), client.predict(MODEL, assets)
    features, predictions = asyncio.run(ask())
    assert features.features == expected[0].features
    # what was computed for the first is in Redis for the second
    assert [replace(each, source=FeatureSource.REDIS) for each in predictions] == [
        replace(each, source=FeatureSource.REDIS) for each in expected[1]
    ]


def test_guide__its_examples_run(
    service: str,
    key: str,
    tenant: Tenant,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AI_HUB_API_URL", service)
    monkeypatch.setenv("AI_HUB_API_KEY", key)
    monkeypatch.setenv("AI_HUB_TENANT", tenant.name)
    monkeypatch.setenv("AI_HUB_CACHE_DIR", str(tmp_path))
    examples = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        here = example.replace("meter-008", "1").replace("meter-001", "11").replace("meter-0815", "nobody")
        exec(compile(here, GUIDE.name, "exec"), {})  # noqa: S102  # our own
    printed = capsys.readouterr().out
    assert "v1.0.0" in printed


def test_others__are_refused_with_what_to_do(service: str, key: str, energy: Energy, tmp_path: Path) -> None:
    with ai_hub.Client(service, api_key=key, tenant=energy.twin) as client, pytest.raises(ForbiddenError):
        client.features("1")
    with ai_hub.Client(service, api_key="ahk_wrong", tenant=energy.main) as client:
        with pytest.raises(KeyRefusedError) as refusal:
            client.features("1")
        assert refusal.value.hint
        assert refusal.value.request_id
        assert "ahk_wrong" not in str(refusal.value)
    with (
        ai_hub.Client(service, api_key=key, tenant=energy.main, cache_dir=tmp_path) as client,
        pytest.raises(NotFoundError, match="has no asset nobody"),
    ):
        client.features("nobody")
