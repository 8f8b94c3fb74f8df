"""The models in Production: threads follow the registry, and swap when another version is promoted."""

from __future__ import annotations

import logging
import random
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ai_hub.client.errors import ClosedError
from ai_hub.errors import AiHubError, ConflictError, ServiceDownError
from ai_hub.forecasting.models.cache import ModelCache, UnusableCacheError, default_folder
from ai_hub.forecasting.models.loading import LoadedModel, ModelLoader
from ai_hub.forecasting.models.registry import ProductionVersion, RegistryClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from ai_hub.settings import Settings


_log = logging.getLogger("ai_hub.client")
_JITTER = 0.2
_LONGEST_PAUSE_S = 600.0
#: How long a start waits for the version in Production when the cache has an older one.
_START_TIMEOUT_S = 30.0
_JOIN_S = 1.0


@dataclass(frozen=True)
class _State:
    """Immutable, and replaced as a whole, so that readers see a consistent state."""

    loaded: LoadedModel | None = None
    version: ProductionVersion | None = None
    #: whether the last request found `version` in Production
    confirmed: bool = False
    checked_at: datetime | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Failure:
    """A version that could not be loaded."""

    version: ProductionVersion
    attempts: int
    #: time of the next try on the monotonic clock
    retry_at: float


class ProductionModel:
    """A tenant's model in Production; returned by `Client.model`.

    A prediction uses one version from beginning to end. `current` is that version as a value, for several
    calls that need the same version.
    """

    def __init__(
        self,
        registry: RegistryClient,
        cache: ModelCache,
        tenant: str,
        name: str,
        *,
        refresh_s: float,
        on_error: Callable[[ProductionModel, Exception], None] | None = None,
    ) -> None:
        self.tenant = tenant
        self.name = name
        self._registry = registry
        self._cache = cache
        self._loader = ModelLoader(cache, tenant, name)
        self._refresh_s = refresh_s
        self._on_error = on_error
        self._state = _State()
        self._state_lock = threading.Lock()
        self._failed: _Failure | None = None
        self._last_warning = ""
        self._refresh_lock = threading.Lock()
        self._first_attempt = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"ai-hub-model-{name}", daemon=True)

    def open(self) -> None:
        """Load the version in Production, or the one last seen there while it cannot be loaded.

        The registry is asked first: what is in the cache is code, which runs only if it is the version in
        Production, or the registry does not answer.

        Raises:
            ConflictError: files are not what was registered, and no other version can be used.
            NotFoundError: nothing is in Production.
            ServiceDownError: the registry does not answer, and the cache has no version.
            UnusableCacheError: the cache cannot be used, or others can write it.
        """
        last = self._cache.last()
        if last is None:
            with self._refresh_lock:
                self._refresh()
            self._first_attempt.set()
            self._thread.start()
            return
        self._thread.start()
        try:
            self._first_attempt.wait(_START_TIMEOUT_S)
            if self._state.loaded is None:
                self._fall_back(last)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop following the registry; predictions in progress keep their version."""
        self._closed.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)  # a download may take longer; the thread ends by itself

    @property
    def current(self) -> LoadedModel:
        """The version in use, as a value."""
        if self._state.loaded is None:
            raise ConflictError(f"Model {self.name} is not open.")
        return self._state.loaded

    @property
    def version(self) -> int:
        """Number of the version in use."""
        return self.current.version

    @property
    def semantic_version(self) -> str | None:
        """Semantic version in use, such as `v1.2.0`."""
        return self.current.semantic_version

    @property
    def stale(self) -> bool:
        """Whether the last request did not confirm this version: see `checked_at` and `last_error`."""
        return not self._state.confirmed

    @property
    def checked_at(self) -> datetime | None:
        """When the version in use was last seen in Production."""
        return self._state.checked_at

    @property
    def last_error(self) -> Exception | None:
        """Why the last request to the registry, or the last swap, failed; None when it did not."""
        return self._state.error

    def predict(self, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Any:
        """Output of the version in use for `rows`.

        Raises:
            BadInputError: a column is missing.
        """
        return self.current.predict(rows)

    def refresh(self) -> bool:
        """Ask the registry now; False when that or the swap failed: see `last_error`."""
        return self._attempt(retry=True)

    def __repr__(self) -> str:
        return f"<ProductionModel {self.tenant}/{self.name} {self._label()}{' stale' if self.stale else ''}>"

    def _follow(self) -> None:
        if not self._first_attempt.is_set():
            self._attempt()
            self._first_attempt.set()
        while not self._closed.wait(self._refresh_s * random.uniform(1 - _JITTER, 1 + _JITTER)):  # noqa: S311
            self._attempt()

    def _attempt(self, *, retry: bool = False) -> bool:
        with self._refresh_lock:
            if retry:
                # with the lock held: a refresh in progress may fail and postpone the version
                self._failed = None
            try:
                self._refresh()
            except Exception as error:  # noqa: BLE001  # whatever it is, the version in use stays
                if self._closed.is_set():
                    return False
                # with the lock held: a later success is not overwritten
                self._record(error)
                failure = error
            else:
                return True
        # before the callback, which may use this model while it is opened
        self._first_attempt.set()
        self._report(failure)
        return False

    def _record(self, error: Exception) -> None:
        if type(error) is not type(self.last_error) or str(error) != str(self.last_error):
            text = "model %s of tenant %s stays at %s: %s"
            _log.warning(text, self.name, self.tenant, self._label(), error)
        self._set(confirmed=False, error=error)

    def _report(self, error: Exception) -> None:
        if self._on_error is not None:
            try:
                self._on_error(self, error)
            except Exception:  # noqa: BLE001  # the caller's code
                _log.exception("on_model_error failed")

    def _refresh(self) -> None:
        """Ask the registry, and swap if another version than the one in use is in Production."""
        version = self._registry.production(self.name)
        if version.is_same(self._state.version):
            self._confirm(self._state.loaded, version)
            return
        self._set(confirmed=False)
        if self._is_postponed(version):
            return
        before, loaded = self._label(), self._load(version)
        self._confirm(loaded, version)
        _log.info("model %s of tenant %s: %s after %s", self.name, self.tenant, version.label, before)

    def _load(self, version: ProductionVersion) -> LoadedModel:
        try:
            return self._loader.get(version)
        except Exception:
            before = self._failed
            attempts = before.attempts + 1 if before and version.is_same(before.version) else 1
            pause = min(self._refresh_s * 2**attempts, _LONGEST_PAUSE_S)
            self._failed = _Failure(version, attempts, time.monotonic() + pause)
            raise

    def _is_postponed(self, version: ProductionVersion) -> bool:
        """Whether this version failed, and its pause has not passed."""
        failed = self._failed
        return failed is not None and version.is_same(failed.version) and time.monotonic() < failed.retry_at

    def _confirm(self, loaded: LoadedModel | None, version: ProductionVersion) -> None:
        is_new = loaded is not self._state.loaded
        now = datetime.now(UTC)
        # one change: a prediction has the old version or the new one
        self._set(loaded=loaded, version=version, confirmed=True, checked_at=now, error=None)
        self._failed = None
        try:
            self._cache.remember(version)
            if is_new:
                self._cache.prune(version)
        except UnusableCacheError as error:
            # such as a full disk: the version in memory is good
            if str(error) != self._last_warning:
                _log.warning("model %s of tenant %s is not cached: %s", self.name, self.tenant, error)
            self._last_warning = str(error)

    def _fall_back(self, last: ProductionVersion) -> None:
        """Use the version last seen in Production until the one there now can be loaded."""
        error = self.last_error
        # the newer version cannot be downloaded, stored or verified: the cached one is used
        usable = ServiceDownError | ConflictError | UnusableCacheError
        if isinstance(error, AiHubError) and not isinstance(error, usable):
            raise error
        try:
            loaded = self._loader.cached(last)
        except Exception as damage:
            self._first_attempt.wait()  # nothing else can be used
            error = self.last_error
            if self._state.loaded is not None:
                return
            if error is None or isinstance(error, ServiceDownError):
                raise damage from error
            raise error from damage
        checked_at = self._cache.checked_at()
        with self._state_lock:
            if self._state.loaded is None:
                self._state = replace(self._state, loaded=loaded, version=last, checked_at=checked_at)
        _log.info("model %s of tenant %s: %s, from the cache", self.name, self.tenant, self._label())

    def _set(self, **changes: Any) -> None:
        with self._state_lock:  # concurrent changes would overwrite each other
            self._state = replace(self._state, **changes)

    def _label(self) -> str:
        return self._state.version.label if self._state.version else "nothing"


class ProductionModels:
    """The models that a client uses, by name; each is opened once, shared by threads."""

    def __init__(
        self,
        settings: Settings,
        tenant: str,
        *,
        cache_dir: Path | None,
        refresh_s: float,
        on_error: Callable[[ProductionModel, Exception], None] | None,
    ) -> None:
        self._settings = settings
        self._tenant = tenant
        self._folder = cache_dir or default_folder()
        self._refresh_s = refresh_s
        self._on_error = on_error
        self._lock = threading.Lock()
        self._opening: dict[str, Future[ProductionModel]] = {}
        self._models: dict[str, ProductionModel] = {}
        self._registry: RegistryClient | None = None
        self._closed = threading.Event()

    def get(self, name: str) -> ProductionModel:
        """The model, opened by the first caller; see `ProductionModel.open` for the errors.

        Concurrent callers wait for the first one and share its result: separate attempts would make the last
        caller wait for all the time-outs of an outage.
        """
        if self._closed.is_set():
            raise ClosedError
        if (model := self._models.get(name)) is not None:
            return model
        mine: Future[ProductionModel] = Future()
        with self._lock:
            opening = self._opening.setdefault(name, mine)
        if opening is not mine:
            return opening.result()
        try:
            mine.set_result(self._open(name))
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._opening[name]
        return mine.result()

    def close(self) -> None:
        """Stop following the registry."""
        with self._lock:
            self._closed.set()
            for model in self._models.values():
                model.close()
            if self._registry is not None:
                self._registry.close()

    def _open(self, name: str) -> ProductionModel:
        with self._lock:
            if self._closed.is_set():
                raise ClosedError
            if (model := self._models.get(name)) is not None:  # opened since `get` looked
                return model
            if self._registry is None:
                self._registry = RegistryClient(self._tenant, self._settings.require("mlflow_tracking_uri"))
            registry = self._registry
        cache = ModelCache(self._folder, registry.url, self._tenant, name)
        model = ProductionModel(
            registry, cache, self._tenant, name, refresh_s=self._refresh_s, on_error=self._on_error
        )
        try:
            model.open()
        except Exception:
            if self._closed.is_set():
                raise ClosedError from None
            raise
        with self._lock:
            self._models[name] = model
            if self._closed.is_set():
                model.close()
                raise ClosedError
        return model
