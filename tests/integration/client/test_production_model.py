"""The production model through promotions, rollbacks, outages, changed files, kills and crowds."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from support import client_models
from support.client_models import ROWS, answer_of
from support.registry_servers import FORKS
from support.registry_tenant import MODEL, Tenant

import ai_hub
from ai_hub.errors import ConflictError, NotFoundError, ServiceDownError
from ai_hub.forecasting.models.cache import TamperedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client
    from support.registry_servers import Server

    from ai_hub.client import ProductionModel

BUCKET = "ml-models"
_SOON_S = 60
_THREADS = 8


@contextmanager
def _client(tenant: Tenant, cache: Path, **more: Any) -> Iterator[ai_hub.Client]:
    arguments = {"refresh_s": 0.05, "cache_dir": cache} | more
    with ai_hub.Client("http://127.0.0.1:9", tenant=tenant.name, **arguments) as client:
        yield client


@contextmanager
def _down(server: Server) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


def _soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SOON_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _versions(cache: Path, tenant: Tenant) -> list[str]:
    """Folders of the model, by the versions' names alone."""
    (folder,) = cache.glob(f"*/{tenant.name}/{MODEL}")
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name if name.startswith(".") else name.split("-")[0] for name in names)


def test_promotion_and_rollback__under_eight_threads__swap_between_whole_answers(
    acme: Tenant, cache: Path, tmp_path: Path
) -> None:
    client_models.promote(acme, tmp_path)
    second = client_models.register(acme, tmp_path)
    answers: list[list[float]] = [[] for _ in range(_THREADS)]
    errors: list[Exception] = []
    stop = threading.Event()

    def ask(model: ProductionModel, found: list[float]) -> None:
        while not stop.is_set():
            try:
                (answer,) = set(model.predict(ROWS))
            except Exception as error:  # noqa: BLE001  # in a thread
                errors.append(error)
                return
            found.append(answer)
            stop.wait(0.005)  # the registry wants the machine, too

    with _client(acme, cache) as client:
        model = client.model(MODEL)
        first = weakref.ref(model.current)
        threads = [threading.Thread(target=ask, args=(model, found)) for found in answers]
        for thread in threads:
            thread.start()
        _soon(lambda: all(len(found) > 5 for found in answers))
        assert acme.stage(second, "Production").ok
        _soon(lambda: model.version == 2)
        seen = [len(found) for found in answers]
        _soon(lambda: all(len(found) > before + 2 for found, before in zip(answers, seen, strict=True)))
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []
        for found in answers:
            changes = [answer for place, answer in enumerate(found) if [answer] != found[place - 1 : place]]
            assert changes == pytest.approx([answer_of(1), answer_of(2)])
        assert (model.semantic_version, model.stale, model.last_error) == ("v1.0.1", False, None)
        gc.collect()
        assert first() is None, "the old version is freed"

        assert acme.call("POST", f"/ai-hub/api/models/{MODEL}/rollback", json={"reason": "worse"}).ok
        _soon(lambda: model.version == 1)
        assert list(model.predict(ROWS)) == pytest.approx([answer_of(1)] * 3)
        client_models.promote(acme, tmp_path)
        _soon(lambda: model.version == 3)
    assert _versions(cache, acme) == ["v1.0.0", "v1.0.2"], "the last two in production"


_RESTART = """
import sys
from pathlib import Path
import ai_hub
tenant, model, cache = sys.argv[1:]
with ai_hub.Client("http://127.0.0.1:9", tenant=tenant, cache_dir=Path(cache)) as client:
    found = client.model(model)
    (answer,) = found.predict([{"hour_of_day": 1, "lag_1h": 1.0, "lag_24h": 2.0}])
    print(found.version, round(answer, 3), found.stale, "mlflow" in sys.modules)
"""


def test_registry_down__the_model_goes_on_and_starts_anew(
    registry_server: Server, acme: Tenant, cache: Path, tmp_path: Path
) -> None:
    client_models.promote(acme, tmp_path)
    with _client(acme, cache) as client:
        model = client.model(MODEL)
        assert client.model(MODEL) is model
        with _down(registry_server):
            _soon(lambda: model.stale)
            assert isinstance(model.last_error, ServiceDownError)
            assert list(model.predict(ROWS)) == pytest.approx([answer_of(1)] * 3)
            with _client(acme, cache) as second:
                again = second.model(MODEL)
                assert again.stale
                assert isinstance(again.last_error, ServiceDownError)
                assert again.checked_at is not None
                assert model.checked_at is not None
                assert abs((again.checked_at - model.checked_at).total_seconds()) < 1
            command = [sys.executable, "-c", _RESTART, acme.name, MODEL, str(cache)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True)
            assert printed.stdout == "1 10.0 True False\n", "a new process, without MLflow"
            with _client(acme, tmp_path / "empty") as fresh, pytest.raises(ServiceDownError, match="MLflow"):
                fresh.model(MODEL)
        _soon(lambda: not model.stale)
        assert model.last_error is None


def test_changed_file_in_the_cache__is_refused_and_fetched_anew(
    registry_server: Server, acme: Tenant, cache: Path, tmp_path: Path
) -> None:
    client_models.promote(acme, tmp_path)
    with _client(acme, cache) as client:
        client.model(MODEL)
    (booster,) = cache.glob(f"*/{acme.name}/{MODEL}/v1.0.0-*/model.lgb")
    whole = booster.read_bytes()
    _flip(booster)
    with _down(registry_server), _client(acme, cache) as client:
        with pytest.raises(TamperedError, match=r"v1\.0\.0-\w+/model\.lgb was changed") as refusal:
            client.model(MODEL)
        assert refusal.value.path == booster
    with _client(acme, cache) as client:
        model = client.model(MODEL)
        assert list(model.predict(ROWS)) == pytest.approx([answer_of(1)] * 3)
        _soon(lambda: not model.stale)
    assert booster.read_bytes() == whole


def test_changed_file_in_s3__the_old_version_stays_until_it_is_mended(
    acme: Tenant, s3: S3Client, cache: Path, tmp_path: Path
) -> None:
    client_models.promote(acme, tmp_path)
    told: list[Exception] = []
    with _client(acme, cache, on_model_error=lambda _, error: told.append(error)) as client:
        model = client.model(MODEL)
        second = client_models.register(acme, tmp_path)
        with _down_for_looks(model):
            assert acme.stage(second, "Production").ok
            key = f"{acme.name}/{MODEL}/v1.0.1/model.lgb"
            whole = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            s3.put_object(Bucket=BUCKET, Key=key, Body=whole[:-1] + b"?")
        _soon(lambda: bool(told))
        assert isinstance(model.last_error, ConflictError)
        assert "model.lgb" in str(model.last_error)
        assert (model.version, model.stale) == (1, True)
        assert list(model.predict(ROWS)) == pytest.approx([answer_of(1)] * 3)
        with _client(acme, cache) as restarted:
            assert (restarted.model(MODEL).version, restarted.model(MODEL).stale) == (1, True)
        assert "v1.0.1" not in _versions(cache, acme)
        s3.put_object(Bucket=BUCKET, Key=key, Body=whole)
        assert model.refresh()
        assert (model.version, model.stale, model.last_error) == (2, False, None)


def test_killed_midway_through_a_download__the_next_start_is_clean(
    registry_server: Server, acme: Tenant, cache: Path, tmp_path: Path
) -> None:
    client_models.promote(acme, tmp_path)
    process, _ = client_models.open_elsewhere(acme.name, registry_server.url, cache, dies=True)
    process.join(_SOON_S)
    assert process.exitcode == -9
    (partial,) = _versions(cache, acme)
    assert partial.startswith(".partial-")
    assert any(cache.glob(f"*/{acme.name}/{MODEL}/{partial}/*"))
    with _client(acme, cache) as client:
        assert list(client.model(MODEL).predict(ROWS)) == pytest.approx([answer_of(1)] * 3)
    assert _versions(cache, acme) == ["v1.0.0"]


def test_two_processes_at_once__both_answer_from_one_copy(
    registry_server: Server, acme: Tenant, cache: Path, tmp_path: Path
) -> None:
    client_models.promote(acme, tmp_path)
    together = FORKS.Event()
    process, answers = client_models.open_elsewhere(acme.name, registry_server.url, cache, together=together)
    with _client(acme, cache) as client:
        together.wait(_SOON_S)
        here = client.model(MODEL)
        assert list(here.predict(ROWS)) == pytest.approx([answer_of(1)] * 3)
    assert answers.recv() == (1, pytest.approx([answer_of(1)] * 3))
    process.join(_SOON_S)
    assert process.exitcode == 0
    assert _versions(cache, acme) == ["v1.0.0"]


def test_nothing_in_production__is_said_with_what_to_do(acme: Tenant, cache: Path, tmp_path: Path) -> None:
    first = client_models.register(acme, tmp_path)
    with _client(acme, cache) as client:
        with pytest.raises(NotFoundError, match=rf"is in Production.\n.*ai-hub promote {MODEL}"):
            client.model(MODEL)
        with pytest.raises(NotFoundError):
            client.model("no-such-model")
        assert acme.stage(first, "Production").ok
        model = client.model(MODEL)
        assert acme.stage(first, "Archived").ok
        _soon(lambda: model.stale)
        assert isinstance(model.last_error, NotFoundError)
        assert list(model.predict(ROWS)) == pytest.approx([answer_of(1)] * 3)
    with _client(acme, cache) as client, pytest.raises(NotFoundError):
        client.model(MODEL)


def test_async__swaps_alike_and_never_holds_the_loop(acme: Tenant, cache: Path, tmp_path: Path) -> None:
    client_models.promote(acme, tmp_path)
    second = client_models.register(acme, tmp_path)

    async def use() -> float:
        longest, ticking = 0.0, True

        async def tick() -> None:
            nonlocal longest
            while ticking:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)

        ticks = asyncio.create_task(tick())
        async with ai_hub.AsyncClient(
            "http://127.0.0.1:9", tenant=acme.name, cache_dir=cache, refresh_s=0.05
        ) as client:
            model = await client.model(MODEL)
            assert list(await model.predict(ROWS)) == pytest.approx([answer_of(1)] * 3)
            assert (await asyncio.to_thread(acme.stage, second, "Production")).ok
            await asyncio.to_thread(_soon, lambda: model.version == 2)
            assert list(await model.predict(ROWS)) == pytest.approx([answer_of(2)] * 3)
            assert await model.refresh()
            assert (model.current.semantic_version, model.stale) == ("v1.0.1", False)
        ticking = False
        await ticks
        return longest

    assert asyncio.run(asyncio.wait_for(use(), _SOON_S)) < 0.5


@contextmanager
def _down_for_looks(model: ProductionModel) -> Iterator[None]:
    """The model does not look at the registry during the block."""
    with model._refresh_lock:
        yield
