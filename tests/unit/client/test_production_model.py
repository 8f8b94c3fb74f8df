"""What a start runs: the registry is asked first; the cache is believed only if nobody else wrote it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ai_hub.client import production_model
from ai_hub.client.production_model import ProductionModel
from ai_hub.errors import ConflictError, ForbiddenError, ServiceDownError
from ai_hub.forecasting.models import loading
from ai_hub.forecasting.models.cache import ModelCache, TamperedError, UnusableCacheError
from ai_hub.forecasting.models.loading import LoadedModel
from ai_hub.forecasting.models.registry import ProductionVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DOWN = ServiceDownError("MLflow", "http://mlflow.test", "refused")
CONTENT = {number: f"weights {number}".encode() for number in (1, 2, 3)}


def _manifest(number: int) -> bytes:
    return json.dumps({"files": {"model": {"sha256": hashlib.sha256(CONTENT[number]).hexdigest()}}}).encode()


def _version(number: int) -> ProductionVersion:
    return ProductionVersion(number, f"v1.0.{number}", hashlib.sha256(_manifest(number)).hexdigest(), {})


class RegistryClient:
    """Tells what is in Production, or raises that."""

    def __init__(self) -> None:
        self.now: int | Exception = 1
        #: before a look returns
        self.looks: Callable[[], object] = lambda: None

    def production(self, model: str) -> ProductionVersion:
        assert model == "m"
        self.looks()
        if isinstance(self.now, Exception):
            raise self.now
        return _version(self.now)


class World:
    """A registry, a cache, and what was loaded from the cache."""

    def __init__(self, root: Path) -> None:
        self.registry = RegistryClient()
        self.root = root
        self.loaded: list[int] = []
        self.download: Callable[[], object] = lambda: None

    def cache(self) -> ModelCache:
        return ModelCache(self.root, "http://mlflow.test", "t-a", "m")

    def model(self, **more: Any) -> ProductionModel:
        registry: Any = self.registry
        return ProductionModel(registry, self.cache(), "t-a", "m", **{"refresh_s": 3600.0} | more)

    @contextmanager
    def opened(self, **more: Any) -> Iterator[ProductionModel]:
        model = self.model(**more)
        model.open()
        yield model
        model.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Version 1 is in Production, and in the cache."""
    world = World(tmp_path / "cache")

    def download(_: object, version: ProductionVersion, folder: Path) -> None:
        world.download()
        (folder / "manifest.json").write_bytes(_manifest(version.version))
        (folder / "model").write_bytes(CONTENT[version.version])

    def load(place: Path, tenant: str, name: str, version: ProductionVersion, **_: bool) -> LoadedModel:
        number = int((place / "model").read_text().removeprefix("weights "))
        world.loaded.append(number)
        digest = version.manifest_sha256
        return LoadedModel(tenant, name, number, version.label, digest, (), frozenset(), None, len)

    monkeypatch.setattr(loading.ModelLoader, "_download", download)
    monkeypatch.setattr(loading, "load", load)
    with world.opened():
        pass
    world.loaded.clear()
    return world


def test_start__loads_the_cached_version_when_it_is_in_production(world: World) -> None:
    with world.opened() as model:
        assert (model.version, model.stale, world.loaded) == (1, False, [1])


def test_start__never_runs_a_cached_version_that_is_not_in_production(world: World) -> None:
    world.registry.now = 2
    with world.opened() as model:
        assert (model.version, model.stale, world.loaded) == (2, False, [2])


def test_start__without_permission__runs_nothing(world: World) -> None:
    world.registry.now = ForbiddenError()
    with pytest.raises(ForbiddenError):
        world.model().open()
    assert world.loaded == []


def test_start__without_the_registry__runs_what_was_last_in_production(world: World) -> None:
    world.registry.now = DOWN
    with world.opened() as model:
        assert (model.version, model.stale, model.last_error) == (1, True, DOWN)
        assert model.checked_at is not None
        world.registry.now = 1
        assert model.refresh()
        assert (model.stale, world.loaded) == (False, [1])


def test_start__when_the_newer_version_is_bad__runs_the_one_before(world: World) -> None:
    world.registry.now = 2

    def fail() -> None:
        raise ConflictError("bad")

    world.download = fail
    with world.opened() as model:
        assert (model.version, model.stale, str(model.last_error)) == (1, True, "bad")


def test_start__when_the_newer_version_takes_long__runs_the_one_before_until_it_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(production_model, "_START_TIMEOUT_S", 0.01)
    world.registry.now = 2
    go_on = threading.Event()
    world.download = go_on.wait
    with world.opened() as model:
        assert (model.version, model.stale) == (1, True)
        go_on.set()
        assert model.refresh()
        assert (model.version, model.stale, world.loaded) == (2, False, [1, 2])


def test_start__with_a_changed_file__waits_for_what_is_still_to_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(production_model, "_START_TIMEOUT_S", 0.01)
    (world.cache().path(_version(1)) / "model").write_text("weights 3")
    world.registry.now = DOWN
    with pytest.raises(TamperedError, match="model was changed"):
        world.model().open()
    world.registry.now = 2
    never = threading.Event()
    world.download = lambda: never.wait(0.1)
    with world.opened() as model:
        assert (model.version, world.loaded) == (2, [2])


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_version__that_others_can_write__is_not_run(world: World, mode: int) -> None:
    place = world.cache().path(_version(1))
    place.chmod(mode)
    world.registry.now = DOWN
    with pytest.raises(TamperedError, match=r"v1\.0\.1\S* was opened to other users"):
        world.model().open()
    assert world.loaded == []
    world.registry.now = 1
    with world.opened() as model:
        assert (model.version, world.loaded) == (1, [1])
    assert place.stat().st_mode & 0o777 == 0o700, "fetched anew"


def test_pointer__that_others_can_write__is_not_believed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    pointer = world.cache().folder / "production.json"
    pointer.chmod(0o666)
    world.registry.now = DOWN
    with pytest.raises(ServiceDownError):
        world.model().open()
    assert world.loaded == []
    assert "production.json can be written by other users, so it is not used" in caplog.text
    world.registry.now = 1
    with world.opened():
        pass
    assert pointer.stat().st_mode & 0o777 == 0o600


def test_swap__after_the_cache_was_deleted__goes_on(world: World) -> None:
    with world.opened() as model:
        shutil.rmtree(world.root)
        assert model.refresh()
        world.registry.now = 2
        assert model.refresh()
        assert (model.version, model.stale, model.last_error) == (2, False, None)
    assert world.cache().last() == _version(2)


def test_swap__into_a_cache_that_others_can_write__waits_with_the_old_version(world: World) -> None:
    with world.opened() as model:
        world.root.chmod(0o777)
        world.registry.now = 2
        assert not model.refresh()
        assert (model.version, model.stale) == (1, True)
        assert isinstance(model.last_error, UnusableCacheError)
        world.root.chmod(0o700)
        assert model.refresh()
        assert (model.version, model.last_error) == (2, None)


def test_start__with_a_full_disk__runs_the_version_before(world: World) -> None:
    world.registry.now = 2

    def fill() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    world.download = fill
    with world.opened() as model:
        assert (model.version, model.stale) == (1, True)
        assert "No space left" in str(model.last_error)


def test_start__that_cannot_write_the_pointer__is_no_failure_and_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.utime", refuse)
    with world.opened() as model:
        assert model.refresh()
        assert model.refresh()
        assert (model.version, model.stale, model.last_error) == (1, False, None)
    assert caplog.text.count("is not cached: The model cache is not used") == 1


def test_start__without_a_cache__is_told_with_a_remedy(world: World) -> None:
    shutil.rmtree(world.root)
    world.root.touch()
    with pytest.raises(UnusableCacheError, match=r"\(Not a directory\)\.\n.*AI_HUB_CACHE_DIR"):
        world.model().open()


def test_failure__that_is_told_late__leaves_a_later_success_alone(world: World) -> None:
    with world.opened() as model:
        later = threading.Thread(target=model.refresh)

        class Meanwhile(logging.Handler):
            """Another thread looks successfully as soon as it may after the failure."""

            def emit(self, _: logging.LogRecord) -> None:
                world.registry.now = 1
                later.start()
                later.join(0.3)

        handler = Meanwhile(logging.WARNING)
        logging.getLogger("ai_hub.client").addHandler(handler)
        world.registry.now = DOWN
        try:
            assert not model.refresh()
        finally:
            logging.getLogger("ai_hub.client").removeHandler(handler)
        later.join()
        assert (model.stale, model.last_error) == (False, None)


def test_start__whose_failure_is_told__does_not_wait_for_who_is_told(world: World) -> None:
    world.registry.now = DOWN
    opened = threading.Event()
    told = threading.Event()

    def tell(*_: object) -> None:
        # as if it asked for the model, which is there when the start has ended
        if opened.wait(10):
            told.set()

    with world.opened(on_error=tell) as model:
        opened.set()
        assert told.wait(10)
        assert (model.version, model.stale) == (1, True)
