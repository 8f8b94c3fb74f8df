"""Anomalies over HTTP: what is answered is computed right, kept, and found by its tenant alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import psutil
import pytest
from oracles import outliers
from support.city_works import ASSETS, OTHER, TENANT
from support.service_process import serving
from support.service_server import running_service

from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES, Scope
from ai_hub.api.schemas.anomalies import Detection, DetectionList
from ai_hub.db import connect
from ai_hub.forecasting.anomalies import DECOMPOSITION, METHODS
from ai_hub.forecasting.log import Grid, Role, Run, write
from ai_hub.settings import ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from support.city_works import CityWorks

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
ODD = {100: 90.0, 120: 4.0}


@pytest.fixture(scope="module")
def client(city_works: CityWorks) -> Iterator[httpx.Client]:
    with city_works.client() as client:
        yield client


def points(values: Sequence[float], first: int = 0) -> list[dict[str, Any]]:
    return [
        {"timestamp": (START + (first + index) * HOUR).isoformat(), "value": value}
        for index, value in enumerate(values)
    ]


@pytest.fixture(scope="module")
def values() -> list[float]:
    hours = np.arange(168)
    found = 50 + 5 * np.sin(hours / 24 * 2 * np.pi) + np.random.default_rng(1).normal(0, 1, 168)
    for index, value in ODD.items():
        found[index] = value
    return [float(value) for value in found]


@pytest.fixture(scope="module")
def body(values: list[float]) -> dict[str, Any]:
    """A valid request."""
    return {"tenant_id": TENANT, "asset_id": ASSETS[0], "time_series": points(values)}


def test_detection__is_what_its_definition_says_and_is_found_again(
    client: httpx.Client, body: dict[str, Any], values: list[float]
) -> None:
    training = values[24:96]
    request = body | {
        "method": "z_score",
        "sensitivity": 2.5,
        "training_data": points(training, -100),
        "time_series": list(reversed(body["time_series"])),
    }
    answer = client.post("/ai/anomaly", json=request)
    assert answer.status_code == 200, answer.text
    found = Detection.model_validate(answer.json())
    assert set(answer.json()) == set(Detection.model_fields)
    scores = outliers.z_scores(training, values)
    odd = [index for index, score in enumerate(scores) if score > 2.5]
    assert set(ODD) <= set(odd)
    assert [each.timestamp for each in found.anomalies] == [START + index * HOUR for index in odd]
    assert [each.anomaly_score for each in found.anomalies] == pytest.approx([scores[i] for i in odd])
    assert [each.value for each in found.anomalies] == [values[index] for index in odd]
    assert found.anomalies[odd.index(100)].severity == "critical"
    mean, std = np.mean(training), np.std(training, ddof=1)
    expected = found.anomalies[0].expected_range
    assert expected.min == pytest.approx(mean - 2.5 * std)
    assert expected.max == pytest.approx(mean + 2.5 * std)
    assert (expected.mean, expected.std) == pytest.approx((mean, std))
    summary = found.summary
    assert (summary.total_points, summary.anomalies_detected) == (168, len(odd))
    assert summary.anomaly_rate == pytest.approx(len(odd) / 168)
    assert summary.mean_anomaly_score == pytest.approx(np.mean(scores))
    assert summary.max_anomaly_score == pytest.approx(max(scores))
    assert (summary.method_used, summary.sensitivity) == ("z_score", 2.5)

    again = client.get(f"/ai/anomaly/{found.detection_id}")
    assert (again.status_code, again.content) == (200, answer.content)


@pytest.mark.parametrize("method", [*METHODS, DECOMPOSITION])
def test_every_method__finds_what_is_odd(client: httpx.Client, body: dict[str, Any], method: str) -> None:
    first, second = (client.post("/ai/anomaly", json=body | {"method": method}) for _ in range(2))
    assert first.status_code == 200, first.text
    found = Detection.model_validate(first.json())
    assert found.summary.method_used == method
    assert {START + index * HOUR for index in ODD} <= {each.timestamp for each in found.anomalies}
    assert found.summary.anomalies_detected < 10
    # the same request, the same answer
    assert second.json()["anomalies"] == first.json()["anomalies"]
    assert second.json()["detection_id"] != first.json()["detection_id"]
    said = {each.explanation for each in found.anomalies}
    assert all("STL of statsmodels, in place of Prophet" in text for text in said) is (
        method == DECOMPOSITION
    )


def test_forecast_band__is_that_of_the_newest_live_forecast(
    city_works: CityWorks, tenant: str, body: dict[str, Any]
) -> None:
    first, asset = START + 1000 * HOUR, "meter"

    def post(request: dict[str, Any], scopes: Collection[Scope] = ALL_SCOPES) -> httpx.Response:
        key = str(api_keys.create(f"band-{uuid4()}", [tenant], scopes, created_by="test")[1])
        return httpx.post(
            f"{city_works.address}/ai/anomaly", json=request, headers={"X-API-Key": key}, timeout=60
        )

    quantiles = {0.1: -1.28155, 0.5: 0.0, 0.9: 2 * 1.28155}

    def issue(begin: datetime, level: float, role: Role = Role.LIVE, unit: str = "kW") -> None:
        """A forecast of six hours whose values are `level`, and spread by 2 below it and by 4 above."""
        run = Run(
            *(tenant, "load-forecast", 1, "v1.0.0", "0" * 64, role, begin, begin, HOUR, 6 * HOUR, (asset,)),
            unit=unit,
        )
        grid = Grid(
            np.full((1, 6), level),
            {each: np.full((1, 6), level + 2 * place) for each, place in quantiles.items()},
        )
        with connect(Settings().require("timescale_dsn")) as connection:
            assert write(connection, run, grid)

    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, unit) VALUES (%s, %s, 'kWh')", [tenant, asset]
        )
    issue(first, 100)
    issue(first + 3 * HOUR, 200)
    issue(first + 3 * HOUR, 900, Role.BACKTEST)
    # before the meter had its unit of now
    issue(first + 3 * HOUR, 900, unit="MW")
    values = [100.0, 93.0, 111.0, 200.0, 215.0, 100.0]
    request = body | {"tenant_id": tenant, "asset_id": asset, "method": "forecast_band"}
    request["time_series"] = points(values, 1000)
    answer = post(request)
    assert answer.status_code == 200, answer.text
    found = Detection.model_validate(answer.json())
    assert [(each.timestamp, each.value) for each in found.anomalies] == [
        (first + index * HOUR, values[index]) for index in (1, 4, 5)
    ]
    scores = [each.anomaly_score for each in found.anomalies]
    assert scores == pytest.approx([3.5, 3.75, 50], abs=1e-3)
    expected = found.anomalies[0].expected_range
    assert (expected.min, expected.mean, expected.max) == pytest.approx((94, 100, 112), abs=1e-3)
    assert found.summary.mean_anomaly_score == pytest.approx((0 + 3.5 + 2.75 + 0 + 3.75 + 50) / 6, abs=1e-3)
    late = post(request | {"time_series": points([1, 2], 1008)})
    assert (late.status_code, "1 of 2 points" in late.json()["message"]) == (400, True)
    refused = post(request, ALL_SCOPES - {Scope.FORECASTS_READ})
    assert (refused.status_code, "forecasts:read" in refused.json()["message"]) == (403, True)


def test_list__has_the_newest_first_by_asset_and_method(
    client: httpx.Client, body: dict[str, Any], city_works: CityWorks
) -> None:
    headers = {"X-API-Key": city_works.other_key}
    wanted = [("iqr", 0), ("z_score", 1), ("iqr", 1)]
    made = [
        client.post(
            "/ai/anomaly",
            json=body | {"tenant_id": OTHER, "asset_id": ASSETS[asset], "method": method},
            headers=headers,
        ).json()
        for method, asset in wanted
    ]

    def listed(**parameters: Any) -> DetectionList:
        answer = client.get("/ai/anomalies", params=parameters, headers=headers)
        assert answer.status_code == 200, answer.text
        return DetectionList.model_validate(answer.json())

    every = listed()
    assert [str(each.detection_id) for each in every.detections[:3]] == [
        each["detection_id"] for each in reversed(made)
    ]
    assert every.detections[0].model_dump(mode="json") == {
        name: value for name, value in made[2].items() if name != "anomalies"
    }
    assert every.tenant_id == OTHER
    assert {each.asset_id for each in listed(asset_id=ASSETS[1]).detections} == {ASSETS[1]}
    assert {each.summary.method_used for each in listed(method="iqr").detections} == {"iqr"}
    first, second = listed(limit=1), listed(limit=1, offset=1)
    assert [len(first.detections), first.total] == [1, every.total]
    assert first.detections[0] == every.detections[0]
    assert second.detections[0] == every.detections[1]


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"asset_id": "ghost"}, 404, "has no asset ghost"),
        ({"time_series": points([1, 2, 3]) + points([4])}, 400, "has the time 2026-03-02T00:00:00Z twice"),
        ({"training_data": points([1, 2, 3]) + points([4])}, 400, "training_data has the time"),
        ({"time_series": points([1, 2]), "lookback_hours": 1}, 400, "one point in the last 1 hours"),
        ({"method": DECOMPOSITION, "time_series": points([1, 2])}, 400, "needs 48 steps"),
        ({"time_series": points([1])}, 422, "body.time_series"),
        ({"time_series": points([1] * 10_001)}, 422, "body.time_series"),
        ({"time_series": [{"timestamp": "2026-03-02T00:00:00", "value": 1}] * 2}, 422, "timestamp"),
        ({"time_series": [{"timestamp": "2026-03-02T00:00:00Z", "value": None}] * 2}, 422, "value"),
        ({"time_series": [{"timestamp": "2026-03-02T00:00:00Z", "value": "NaN"}] * 2}, 422, "value"),
        ({"time_series": [{"timestamp": "2026-03-02T00:00:00Z", "value": 1e200}] * 2}, 422, "value"),
        ({"method": "prophet"}, 422, "body.method"),
        ({"method": "forecast_band"}, 400, "168 of 168 points have no live forecast"),
        (
            {"method": "forecast_band", "time_series": points([1]) + points([2], 366 * 24 + 1)},
            400,
            "spans more than 366 days",
        ),
        ({"method": "forecast_band", "training_data": points([1, 2])}, 400, "not with training_data"),
        ({"sensitivity": 0.5}, 422, "body.sensitivity"),
        ({"sensitivity": 6}, 422, "body.sensitivity"),
        ({"lookback_hours": 0}, 422, "body.lookback_hours"),
        ({"unknown": 1}, 422, "body.unknown"),
    ],
)
def test_request_that_cannot_be__is_refused_with_words(
    client: httpx.Client, body: dict[str, Any], changes: dict[str, Any], status: int, text: str
) -> None:
    answer = client.post("/ai/anomaly", json=body | changes)
    assert answer.status_code == status, answer.text
    assert text in answer.json()["message"]
    assert answer.json()["hint"]


def test_values_that_are_no_numbers_of_json__are_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    text = json.dumps(points([float("nan"), 1]))
    assert "NaN" in text
    content = f'{{"tenant_id": "{TENANT}", "asset_id": "{body["asset_id"]}", "time_series": {text}}}'
    answer = client.post("/ai/anomaly", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    untyped = client.post("/ai/anomaly", content=content, headers={"Content-Type": "text/plain"})
    assert (untyped.status_code, "Content-Type" in untyped.json()["hint"]) == (422, True)


def test_another_tenants_detection__is_as_unknown_as_none(
    client: httpx.Client, body: dict[str, Any], city_works: CityWorks
) -> None:
    made = client.post("/ai/anomaly", json=body | {"method": "iqr"}).json()["detection_id"]
    other = {"X-API-Key": city_works.other_key}
    missing = str(uuid4())
    foreign, unknown = (
        client.get(f"/ai/anomaly/{each}", headers=other).json()["message"] for each in (made, missing)
    )
    assert foreign.replace(made, missing) == unknown
    assert client.get(f"/ai/anomaly/{made}", headers=other).status_code == 404
    assert client.get(f"/ai/anomaly/{made}", params={"tenant_id": TENANT}, headers=other).status_code == 403
    assert made not in client.get("/ai/anomalies", headers=other).text
    assert client.get("/ai/anomaly/no-id").status_code == 422


def test_detections__are_kept_as_long_as_the_setting_says(
    city_works: CityWorks, body: dict[str, Any]
) -> None:
    settings = city_works.settings.model_copy(update={"analysis_retention_days": 7})
    with running_service(settings, ServiceSettings(auth="off")) as address:
        client = httpx.Client(base_url=address, timeout=60)
        with client:
            request = body | {"method": "z_score"}
            old, young = (client.post("/ai/anomaly", json=request).json()["detection_id"] for _ in range(2))
            with connect(Settings().require("timescale_dsn")) as connection:
                for made, days in ((old, 8), (young, 6)):
                    connection.execute(
                        "UPDATE analyses SET created_at = now() - make_interval(days => %s)"
                        " WHERE analysis_id = %s",
                        [days, UUID(made)],
                    )
            tenant = {"tenant_id": TENANT}
            found = [client.get(f"/ai/anomaly/{each}", params=tenant) for each in (old, young)]
            assert [each.status_code for each in found] == [404, 200]
            assert "kept for 7 days" in found[0].json()["hint"]
            listed = client.get("/ai/anomalies", params=tenant | {"limit": 1000}).text
            assert (old in listed, young in listed) == (False, True)
            client.post("/ai/anomaly", json=request)
            with connect(Settings().require("timescale_dsn")) as connection:
                rows = connection.execute(
                    "SELECT analysis_id FROM analyses WHERE analysis_id = ANY (%s)",
                    [[UUID(old), UUID(young)]],
                ).fetchall()
            assert rows == [(UUID(young),)]


# of a whole service; test_serve.py ends one of two processes always
@pytest.mark.long
def test_process_beside_a_worker__gives_way_and_ends_with_it(
    city_works: CityWorks, body: dict[str, Any], tmp_path: Path
) -> None:
    settings = city_works.settings.environment() | {"AI_HUB_API_AUTH": "off"}
    arguments = ("--no-export-worker", "--workers=2")
    with serving(settings, *arguments, log=tmp_path / "log") as (address, process):
        answer = httpx.post(f"{address}/ai/anomaly", json=body | {"method": "z_score"}, timeout=60)
        assert answer.status_code == 200, answer.text
        (beside,) = (
            each
            for each in psutil.Process(process.pid).children(recursive=True)
            if "anyio.to_process" in each.cmdline()
        )
        assert beside.nice() == 10
        process.terminate()
        assert process.wait(30) == 0
    assert psutil.wait_procs([beside], 10)[1] == []


def test_health__says_what_answers(city_works: CityWorks) -> None:
    with httpx.Client(base_url=city_works.address) as client:  # without a key
        for path in ("/health", "/api/health"):
            answer = client.get(path)
            assert answer.status_code == 200
            found = answer.json()
            assert set(found) == {"status", "service", "version", "timestamp", "environment"}
            assert (found["status"], found["service"], found["environment"]) == (
                "healthy", "ai-hub", "production"
            )  # fmt: skip
            assert abs(datetime.fromisoformat(found["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=5)
