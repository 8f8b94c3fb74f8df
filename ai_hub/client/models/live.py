"""The production model of the moment: a thread follows the registry, and swaps when production changes."""

from __future__ import annotations

import logging
import random
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ai_hub.client.models.loaded import LoadedModel, load
from ai_hub.client.models.seal import TamperedError, verify
from ai_hub.errors import AiHubError, ConflictError, ServiceDownError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from ai_hub.client.models.cache import Cache
    from ai_hub.client.models.production import Production, Registry

_log = logging.getLogger("ai_hub.client")
_JITTER = 0.2
_LONGEST_PAUSE_S = 600.0
#: What a start waits for a newer version while an older one is at hand.
_PATIENCE_S = 30.0
_JOIN_S = 1.0


class LiveModel:
    """A tenant's model as it is in Production; made by `Client.model`.

    A prediction uses one version from its beginning to its end. `current` is that version as a value, for
    whoever asks several things of the same version.
    """

    def __init__(
        self,
        registry: Registry,
        cache: Cache,
        tenant: str,
        name: str,
        *,
        refresh_s: float,
        on_error: Callable[[LiveModel, Exception], None] | None = None,
    ) -> None:
        self.tenant = tenant
        self.name = name
        #: why the last look at the registry, or the last swap, failed; None: it did not
        self.last_error: Exception | None = None
        #: when the version in use was last seen in Production
        self.checked_at: datetime | None = None
        self._registry = registry
        self._cache = cache
        self._refresh_s = refresh_s
        self._on_error = on_error
        self._current: LoadedModel | None = None
        self._version: Production | None = None
        self._confirmed = False
        #: a version that could not be used, how often, and when to try again
        self._failed: tuple[Production, int, float] | None = None
        self._turn = threading.Lock()
        self._tried = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"ai-hub-model-{name}", daemon=True)

    def open(self) -> None:
        """Load the version in Production, or while the registry is out of reach the last verified one.

        Raises:
            ConflictError: files are not what was registered, and no other version is at hand.
            NotFoundError: nothing is in Production.
            ServiceDownError: the registry does not answer, and the cache has no version.
        """
        damage = self._take_from_cache()
        if self._current is None:
            self._tried.set()
            try:
                self._refresh()
            except ServiceDownError as error:
                raise (damage or error) from error
        self._thread.start()
        self._tried.wait(_PATIENCE_S)
        if isinstance(self.last_error, AiHubError) and not _leaves_the_old_in_use(self.last_error):
            self.close()
            raise self.last_error

    def close(self) -> None:
        """Stop following the registry; predictions under way end as they began."""
        self._closed.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)  # a download may take longer; the thread ends by itself

    @property
    def current(self) -> LoadedModel:
        """The version in use, as a value."""
        if self._current is None:
            raise ConflictError(f"Model {self.name} is not open.")
        return self._current

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
        """Whether the last look did not find this version in Production: see `checked_at`, `last_error`."""
        return not self._confirmed

    def predict(self, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Any:
        """What the version in use answers to `rows`.

        Raises:
            BadInputError: a column is missing.
        """
        return self.current.predict(rows)

    def refresh(self) -> bool:
        """Look at the registry now; whether it went well. The error is in `last_error`."""
        self._failed = None
        return self._attempt()

    def __repr__(self) -> str:
        label = "closed" if self._current is None else self.semantic_version or self.version
        return f"<LiveModel {self.tenant}/{self.name} {label}{' stale' if self.stale else ''}>"

    def _follow(self) -> None:
        if not self._tried.is_set():
            self._attempt()
            self._tried.set()
        while not self._closed.wait(self._refresh_s * random.uniform(1 - _JITTER, 1 + _JITTER)):  # noqa: S311
            self._attempt()

    def _attempt(self) -> bool:
        try:
            self._refresh()
        except Exception as error:  # noqa: BLE001  # whatever it is, the version in use goes on
            self._report(error)
            return False
        return True

    def _report(self, error: Exception) -> None:
        if type(error) is not type(self.last_error) or str(error) != str(self.last_error):
            text = "model %s of tenant %s stays at %s: %s"
            _log.warning(text, self.name, self.tenant, self._label(), error)
        self.last_error, self._confirmed = error, False
        if self._on_error is not None:
            try:
                self._on_error(self, error)
            except Exception:  # noqa: BLE001  # somebody else's code
                _log.exception("on_model_error failed")

    def _refresh(self) -> None:
        """Look at the registry, and swap if Production is another version than the one in use."""
        with self._turn:
            found = self._registry.production(self.name)
            if not found.is_same(self._version):
                self._confirmed = False
                if self._is_put_off(found):
                    return
                self._swap(found)
            self._cache.remember(found)
            self.checked_at = datetime.now(UTC)
            self.last_error, self._confirmed = None, True

    def _is_put_off(self, found: Production) -> bool:
        """Whether this version has failed, and it is too early to try again."""
        if self._failed is None or not found.is_same(self._failed[0]):
            return False
        return time.monotonic() < self._failed[2]

    def _swap(self, found: Production) -> None:
        try:
            loaded = self._load(found)
        except Exception:
            times = self._failed[1] + 1 if self._failed and found.is_same(self._failed[0]) else 1
            pause = min(self._refresh_s * 2**times, _LONGEST_PAUSE_S)
            self._failed = found, times, time.monotonic() + pause
            raise
        before = self._label()
        # one assignment: whoever predicts has the old version or the new one
        self._current, self._version, self._failed = loaded, found, None
        _log.info("model %s of tenant %s: %s after %s", self.name, self.tenant, found.label, before)
        self._cache.remember(found)
        self._cache.prune(found)

    def _load(self, version: Production) -> LoadedModel:
        """Load a version from the cache; what is missing or damaged there is fetched anew."""
        try:
            return self._verified(version)
        except TamperedError as error:
            if self._cache.place(version).exists():
                _log.warning("%s It is fetched anew.", error)
        self._cache.install(version, lambda folder: _download(self.tenant, self.name, version, folder))
        return self._verified(version)

    def _verified(self, version: Production) -> LoadedModel:
        with self._cache.reading():
            place = self._cache.place(version)
            verify(place, version.manifest_sha256)
            return load(place, self.tenant, self.name, version)

    def _take_from_cache(self) -> Exception | None:
        """Use the last verified version until the registry says which it is; returns why that failed."""
        last = self._cache.last()
        if last is None:
            return None
        try:
            self._current = self._verified(last)
        except Exception as error:  # noqa: BLE001  # the registry may still have a good copy
            _log.warning("model %s of tenant %s is not in the cache: %s", self.name, self.tenant, error)
            return error
        self._version = last
        self.checked_at = self._cache.checked_at()
        return None

    def _label(self) -> str:
        return self._version.label if self._version else "nothing"


def _leaves_the_old_in_use(error: AiHubError) -> bool:
    """Whether a start may go on with the cached version: the registry is away, or the newer one is bad."""
    return isinstance(error, ServiceDownError | ConflictError)


def _download(tenant: str, model: str, version: Production, folder: Path) -> None:
    from ai_hub.registry import ModelVersion, download_version  # noqa: PLC0415  # MLflow takes seconds

    wanted = ModelVersion(
        tenant=tenant,
        model=model,
        version=version.version,
        semantic_version=version.semantic_version,
        stage="Production",
        aliases=("production",),
        run_id=None,
        registered_at=datetime.now(UTC),
        tags=dict(version.tags),
        metrics={},
    )
    download_version(wanted, folder)
