"""Many who ask for a model at once, and those who ask too late."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

import ai_hub
from ai_hub.client import production_model
from ai_hub.client.errors import ClosedError
from ai_hub.client.production_model import ProductionModel, ProductionModels
from ai_hub.errors import ServiceDownError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_THREADS = 8


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProductionModels:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    return ProductionModels(
        Settings(), "city-works", cache_dir=tmp_path / "cache", refresh_s=3600, on_error=None
    )


def test_crowd__without_registry_and_cache__shares_one_try(
    models: ProductionModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    waiting = threading.Semaphore(0)
    here = threading.Barrier(_THREADS)

    class Opening(production_model.Future[ProductionModel]):
        def result(self, timeout: float | None = None) -> ProductionModel:
            waiting.release()
            return super().result(timeout)

    def open_(model: ProductionModel) -> None:
        tries.append(model.name)
        for _ in range(_THREADS - 1):
            assert waiting.acquire(timeout=10)
        raise ServiceDownError("MLflow", "http://mlflow.test", "refused")

    monkeypatch.setattr(production_model, "Future", Opening)
    monkeypatch.setattr(ProductionModel, "open", open_)
    refusals: list[str] = []

    def ask() -> None:
        here.wait()
        try:
            models.get("demand-forecast")
        except ServiceDownError as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tries, len(refusals)) == (["demand-forecast"], _THREADS)
    monkeypatch.setattr(ProductionModel, "open", lambda _: None)
    assert models.get("demand-forecast") is models.get("demand-forecast"), "the next who asks tries anew"


def test_closed__has_no_models_any_more(models: ProductionModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProductionModel, "open", lambda _: None)
    models.get("demand-forecast")
    models.close()
    for name in ("demand-forecast", "other"):
        with pytest.raises(ClosedError, match="The client is closed"):
            models.get(name)


def test_closed__while_a_model_is_opened__is_told_as_that(
    models: ProductionModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: ProductionModel) -> None:
        models.close()
        raise RuntimeError("Cannot send a request, as the client has been closed.")

    for during in (fail, lambda _: models.close()):
        models._closed.clear()
        monkeypatch.setattr(ProductionModel, "open", during)
        with pytest.raises(ClosedError):
            models.get("demand-forecast")


def test_client__that_is_closed__says_so(models: ProductionModels, tmp_path: Path) -> None:
    del models
    client = ai_hub.Client("http://127.0.0.1:9", tenant="city-works", cache_dir=tmp_path)
    client.close()
    asks: list[Callable[[], object]] = [
        lambda: client.features("1"),
        lambda: client.model("demand-forecast"),
        lambda: client.predict("demand-forecast", ["1"]),
    ]
    for ask in asks:
        with pytest.raises(ClosedError, match="The client is closed"):
            ask()

    async def use() -> None:
        late = ai_hub.AsyncClient("http://127.0.0.1:9", tenant="city-works", cache_dir=tmp_path)
        await late.aclose()
        with pytest.raises(ClosedError):
            await late.features("1")
        with pytest.raises(ClosedError):
            await late.predict("demand-forecast", ["1"])

    asyncio.run(use())
