"""Large bodies: from callers that may send them, not too many at once, and nobody else waits for them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.model_service import ACME, encoded, upload

from ai_hub.api.routes import models

if TYPE_CHECKING:
    from support.model_service import ModelService

MEGABYTE = 1_000_000


def longest_wait(service: ModelService, work: Any) -> tuple[Any, float]:
    """What `work` gives, and the longest time in which a health check was answered meanwhile."""
    with httpx.Client(base_url=service.url, timeout=60) as client, ThreadPoolExecutor(1) as pool:
        client.get("/health/live")
        done, longest = pool.submit(work), 0.0
        while not done.done():
            started = time.monotonic()
            assert client.get("/health/live").status_code == 200
            longest = max(longest, time.monotonic() - started)
            time.sleep(0.01)
        return done.result(), longest


@pytest.mark.parametrize(("person", "status"), [("vera", 403), ("rita", 422)])
def test_millions_of_values__refused_at_once__and_nobody_waits(
    service: ModelService, model: str, person: str, status: int
) -> None:
    body = upload(ACME, model)
    many = b'{"a":[' + b",".join([b"[1]"] * (4 * MEGABYTE)) + b"]}"
    content = httpx.Request("POST", "http://x", json=body).content.replace(
        b'"model_type"', b'"hyperparameters":' + many + b',"model_type"'
    )

    def work() -> httpx.Response:
        return service.call(
            person, "POST", "/register", content=content, headers={"Content-Type": "application/json"}
        )

    started = time.monotonic()
    answer, longest = longest_wait(service, work)
    seconds = time.monotonic() - started
    assert answer.status_code == status, answer.text
    assert seconds < 10
    # a loop that reads the body itself answers nobody until it has; a busy machine is slow with both
    assert longest < max(1, seconds / 2)
    if status == 422:
        assert "values" in answer.json()["message"]


def test_large_file__registered__and_nobody_waits_long(service: ModelService, model: str) -> None:
    body = upload(ACME, model)
    body["artifact"]["files"] += encoded({"data/large.bin": bytes(20 * MEGABYTE)})
    started = time.monotonic()
    answer, longest = longest_wait(service, lambda: service.register("rita", body))
    assert answer.status_code == 201, answer.text
    assert longest < max(2, (time.monotonic() - started) / 2)


def test_many_at_once__more_than_memory_is_for__are_told_to_come_again(
    service: ModelService, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "MAX_CONCURRENT", 0.04)  # of 64 megabytes
    body = upload(ACME, model)
    body["artifact"]["files"] += encoded({"data/large.bin": bytes(MEGABYTE)})
    content = httpx.Request("POST", "http://x", json=body).content
    all_sent = threading.Barrier(3, timeout=30)

    def slowly() -> Any:
        yield content[:-10]
        all_sent.wait()  # what the service refuses it reads to its end
        yield content[-10:]

    def send() -> httpx.Response:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        return service.call("rita", "POST", "/register", content=slowly(), headers=headers)

    with ThreadPoolExecutor(3) as pool:
        sent = [pool.submit(send) for _ in range(3)]
        statuses = sorted(each.result().status_code for each in sent)
    assert statuses == [201, 503, 503], "there is room for one"
    again = service.register("rita", {**body, "version": "v2.0.0"})
    assert again.status_code == 201, again.text
