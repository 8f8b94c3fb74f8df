"""Registration as clients of the suite send it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from support.model_service import ACME, upload

if TYPE_CHECKING:
    from support.model_service import ModelService

CONTENT = b"\x80\x04K\x01."
FILE = base64.b64encode(CONTENT).decode()
DATE = "2025-10-01T02:00:00+02:00"
BESIDE: dict[str, Any] = {"model_type": "forecast", "algorithm": "LSTM", "training_date": DATE}


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"tenant_id": ACME, "model_name": model, "version": "v1.0.0", "model_file": FILE, **more}


@pytest.mark.parametrize("inside", [True, False])
def test_file_algorithm_and_training_date__are_kept(service: ModelService, model: str, inside: bool) -> None:
    metadata: dict[str, Any] = {"framework": "tensorflow", "training_config": {"epochs": 3}}
    sent = {"metadata": metadata | BESIDE} if inside else {"metadata": metadata, **BESIDE}
    made = service.register("olga", body(model, **sent))
    assert made.status_code == 201, made.text
    model_id = made.json()["model_id"]
    found = service.call("olga", "GET", f"/{model_id}").json()
    assert found["model_type"] == "forecast"
    assert found["metadata"]["training_config"] == {
        "epochs": 3,
        "algorithm": "LSTM",
        "training_date": "2025-10-01T00:00:00Z",
    }
    assert found["metadata"]["framework"] == "tensorflow"
    # a key of one tenant need not name it
    listed = service.call("rita", "GET", "/", params={"model_name": model}).json()
    assert (listed["tenant_id"], [each["model_id"] for each in listed["models"]]) == (ACME, [model_id])
    removed = service.call("dora", "DELETE", f"/{model_id}?force=true").json()
    assert f"{ACME}/{model}/v1.0.0/model.joblib" in removed["files_deleted"]


@pytest.mark.parametrize(
    ("version", "nearest"),
    [
        ("2024-01-15-001", "v2024.1.15"),
        ("1.2", "v1.2.0"),
        ("v3", "v3.0.0"),
        ("1.2.3-rc1", "v1.2.3"),
        ("new", "v1.0.0"),
    ],
)
def test_version_that_is_not_semantic__is_refused_with_the_nearest_one(
    service: ModelService, model: str, version: str, nearest: str
) -> None:
    answer = service.register("olga", body(model, **BESIDE, version=version))
    assert answer.status_code == 422
    (problem,) = answer.json()["details"]
    assert problem["field"] == "body.version"
    assert problem["problem"].endswith(f"the nearest one is {nearest}")


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"artifact": upload(ACME, "x")["artifact"]}, 422, "body"),
        ({"model_file": None}, 422, "body"),
        ({"model_type": None}, 422, "body"),
        ({"model_file": "no base64"}, 400, "is not Base64"),
        ({"metadata": {"algorithm": "GRU"}}, 400, "algorithm and metadata.algorithm differ"),
        ({"training_date": "2025-10-01"}, 422, "body.training_date"),
    ],
)
def test_request_that_cannot_be__is_refused_with_words(
    service: ModelService, model: str, changes: dict[str, Any], status: int, text: str
) -> None:
    answer = service.register("olga", body(model, **BESIDE) | changes)
    assert answer.status_code == status, answer.text
    assert text in answer.json()["message"]
    missing = service.call("olga", "GET", f"/{ACME}:{model}:v1.0.0")
    assert missing.status_code == 404
