"""`POST /ai/features/get` and `GET /ai/features/sets` over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.feature_reading import PATIENT
from support.service_server import running_service

from ai_hub.api.schemas.features import FeaturesBatchResponse, FeatureSetsResponse, FeaturesResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

NAMES = {
    "forecast_basic": 6,
    "forecast_advanced": 13,
    "anomaly_detection": 7,
    "day_ahead": 26,
}


@pytest.fixture(scope="module")
def service(energy: Energy) -> Iterator[httpx.Client]:
    """A client of the service; the feature repository is applied."""
    del energy
    with running_service(options=PATIENT) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def get(service: httpx.Client, **body: Any) -> httpx.Response:
    return service.post("/ai/features/get", json=body)


def test_get__one_asset__as_documented(service: httpx.Client, energy: Energy) -> None:
    answer = get(service, tenant_id=energy.main, asset_id="1")
    assert answer.status_code == 200
    found = FeaturesResponse.model_validate(answer.json())
    assert list(found.features) == list(found.status)
    assert len(found.features) == NAMES["forecast_basic"]
    assert found.feature_count == sum(value is not None for value in found.features.values())
    assert set(answer.json()) == set(FeaturesResponse.model_fields)


def test_get__many_assets__in_their_order_each_in_its_place(service: httpx.Client, energy: Energy) -> None:
    assets = ["11", "ghost", "1", "11", "fresh"]
    answer = get(service, tenant_id=energy.main, asset_ids=assets, feature_set="forecast_advanced")
    found = FeaturesBatchResponse.model_validate(answer.json())
    assert [each.asset_id for each in found.results] == assets
    assert found.total == len(assets)
    assert set(found.results[1].status.values()) == {"NOT_FOUND"}
    assert found.results[0] == found.results[3]
    assert found.results[0].features != found.results[2].features
    assert set(answer.json()) == set(FeaturesBatchResponse.model_fields)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"asset_id": "10"}, 404, "has no asset 10"),
        ({"asset_id": "1", "feature_set": "forecast"}, 404, "anomaly_detection, day_ahead"),
        ({"asset_id": "1", "feature_names": ["lag_2h"]}, 404, "lag_2h"),
        ({"asset_id": "1", "timestamp": "2199-01-01T00:00:00Z"}, 400, "future"),
        ({"asset_id": "1", "timestamp": "1970-01-01T00:00:00Z"}, 200, "NOT_FOUND"),
        ({"asset_id": "1", "timestamp": "2026-01-01T00:00:00"}, 422, "timestamp"),
        ({"asset_id": "1", "asset_ids": ["1"]}, 422, "either asset_id or asset_ids"),
        ({"asset_id": "1", "lookback_hours": 0}, 422, "lookback_hours"),
        ({"asset_ids": []}, 422, "asset_ids"),
        ({}, 422, "either asset_id or asset_ids"),
    ],
)
def test_get__not_in_order__says_why(
    service: httpx.Client, energy: Energy, body: dict[str, Any], status: int, says: str
) -> None:
    answer = get(service, tenant_id=energy.main, **body)
    assert answer.status_code == status
    assert says in answer.text


def test_sets__what_is_registered(service: httpx.Client) -> None:
    found = FeatureSetsResponse.model_validate(service.get("/ai/features/sets").json())
    assert {name: len(each.features) for name, each in found.feature_sets.items()} == NAMES
    basic = found.feature_sets["forecast_basic"]
    assert basic.latency == "< 50 ms"
    assert basic.use_cases == ["short-term load forecast", "many meters at once", "edge devices"]
    assert basic.storage == "TimescaleDB view forecast_basic_features; Redis"
    assert found.total == len(NAMES)
