"""Who may ask what and in which form, all of it found out before MLflow is asked; and MLflow down, or slow.

Apart from the tests that need MLflow, because its address is in the environment of the process.
"""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support import model_service
from support.model_service import ACME, PEOPLE, ModelService, upload

if TYPE_CHECKING:
    from collections.abc import Iterator

_ID = f"{ACME}:demand:v1.0.0"
_CALLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "register": ("POST", "/register", {"json": upload(ACME, "demand")}),
    "register into production": ("POST", "/register", {"json": upload(ACME, "demand", stage="production")}),
    "list": ("GET", "", {"params": {"tenant_id": ACME}}),
    "get": ("GET", f"/{_ID}", {}),
    "promote": ("PUT", f"/{_ID}/promote", {"json": {"target_stage": "production"}}),
    "archive": ("PUT", f"/{_ID}/promote", {"json": {"target_stage": "archived"}}),
    "delete": ("DELETE", f"/{_ID}", {}),
}
_MAY = {
    "olga": set(_CALLS),
    "rita": {"register", "list", "get", "archive"},
    "paul": {"list", "get", "promote", "archive"},
    "dora": {"delete"},
    "vera": {"list", "get"},
    "noah": set(),
    "bert": set(),
}


@pytest.fixture(scope="module")
def without_mlflow() -> Iterator[ModelService]:
    """A service whose MLflow is down."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with model_service.running(f"http://127.0.0.1:{taken.getsockname()[1]}", PEOPLE) as service:
            yield service


@pytest.mark.parametrize("person", _MAY)
def test_scopes__are_asked_before_mlflow_is(without_mlflow: ModelService, person: str) -> None:
    for what, (method, path, arguments) in _CALLS.items():
        started = time.monotonic()
        answer = without_mlflow.call(person, method, path, **arguments)
        assert answer.status_code == (503 if what in _MAY[person] else 403), what
        assert time.monotonic() - started < 5
        if answer.status_code == 503:
            assert "MLflow" in answer.json()["message"]
            assert answer.headers["retry-after"] == "1"
        assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "model_id",
    [
        "demand",
        f"{ACME}:demand",
        f"{ACME}:demand:latest",
        f"{ACME}:demand:v1.2",
        f"{ACME}:demand:0",
        f"{ACME}:demand:-1",
        f"{ACME}:demand:1:2",
        f"{ACME}:de mand:1",
        f"{ACME}:de'mand:1",
        "Acme:demand:1",
        f"{ACME}:{'d' * 129}:1",
        f"{ACME}:demand:٣",
        f"{ACME}:demand:%0A1",
        f"{'a' * 5000}",
    ],
)
def test_an_id_that_is_none__gets_400_and_an_example(without_mlflow: ModelService, model_id: str) -> None:
    for method, path, arguments in [("GET", "", {}), ("DELETE", "", {}), _CALLS["promote"]]:
        suffix = "/promote" if path else ""
        answer = without_mlflow.call("olga", method, f"/{model_id}{suffix}", **arguments)
        assert answer.status_code == 400, answer.text
        assert "city-works:demand-forecast:v1.2.0" in answer.json()["hint"]


def test_register_by_another_method__gets_405(without_mlflow: ModelService) -> None:
    for method in ("GET", "DELETE"):
        answer = without_mlflow.call("olga", method, "/register")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_stage_that_is_none__gets_400(without_mlflow: ModelService) -> None:
    for method, path, arguments in [
        ("POST", "/register", {"json": upload(ACME, "demand", stage="prod")}),
        ("PUT", f"/{_ID}/promote", {"json": {"target_stage": "none"}}),
        ("GET", "", {"params": {"tenant_id": ACME, "stage": "Staging;"}}),
    ]:
        answer = without_mlflow.call("olga", method, path, **arguments)
        assert (answer.status_code, answer.json()["hint"]) == (
            (400, "Stages are staging, production, archived.")
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"metadata": {}},
        {"metadata": {"model_type": "x", "hyperparameters": {"a": float("nan")}}},
        {"metadata": {"model_type": "x", "hyperparameters": {"a": "\ud800"}}},
        {"metadata": {"model_type": "x", "training_config": {"a": json.loads("[" * 40 + "]" * 40)}}},
        {"metrics": {"mae": float("inf")}},
        {"metrics": {"custom_metrics": {"mae": 1}}},
        {"metrics": {"custom_metrics": {"a/../b": 1}}},
        {"version": "1.2"},
        {"model_name": "a/b"},
        {"artifact": {"type": "run", "run_id": "../x"}},
        {"unknown": 1},
    ],
)
def test_a_malformed_registration__gets_422(without_mlflow: ModelService, wrong: dict[str, Any]) -> None:
    body = json.dumps({**upload(ACME, "demand"), **wrong})
    headers = {"Content-Type": "application/json"}
    answer = without_mlflow.call("olga", "POST", "/register", content=body, headers=headers)
    assert answer.status_code == 422, answer.text


@contextmanager
def _silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_mlflow_that_hangs__gets_503_and_holds_up_nobody_else() -> None:
    options = {"registry_timeout_s": 2, "registry_calls": 2}
    with _silent_server() as url, model_service.running(url, PEOPLE, options) as service:
        service.call("vera", "GET", f"/{_ID}")  # MLflow is imported by now
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(service.call, "vera", "GET", f"/{_ID}") for _ in range(8)]
            assert httpx.get(f"{service.url}/health/live").status_code == 200
            assert not any(each.done() for each in waiting)
            answers = [each.result() for each in waiting]
        assert time.monotonic() - started < 10
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["error"] for answer in answers} == {"unavailable", "overloaded"}
    assert all("MLflow" in answer.json()["message"] for answer in answers)
    assert all("HTTPConnectionPool" not in answer.text for answer in answers)
