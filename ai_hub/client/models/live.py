"""The production model of the moment: a thread follows the registry, and swaps when production changes."""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ai_hub.client.models.loaded import LoadedModel
from ai_hub.client.models.private import UnusableCacheError
from ai_hub.client.models.production import Production
from ai_hub.client.models.supply import Supply
from ai_hub.errors import AiHubError, ConflictError, ServiceDownError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from ai_hub.client.models.cache import Cache
    from ai_hub.client.models.production import Registry

_log = logging.getLogger("ai_hub.client")
_JITTER = 0.2
_LONGEST_PAUSE_S = 600.0
#: What a start waits for a newer version while an older one is at hand.
_PATIENCE_S = 30.0
_JOIN_S = 1.0


@dataclass(frozen=True)
class _State:
    """What is known at one moment; replaced as a whole, so whoever reads it sees what belongs together."""

    loaded: LoadedModel | None = None
    version: Production | None = None
    #: whether the last look found `version` in Production
    confirmed: bool = False
    checked_at: datetime | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Failed:
    """A version that could not be used."""

    version: Production
    times: int
    #: on the monotonic clock
    again_at: float


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
        self._registry = registry
        self._cache = cache
        self._supply = Supply(cache, tenant, name)
        self._refresh_s = refresh_s
        self._on_error = on_error
        self._state = _State()
        self._writing = threading.Lock()
        self._failed: _Failed | None = None
        self._complaint = ""
        self._turn = threading.Lock()
        self._tried = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"ai-hub-model-{name}", daemon=True)

    def open(self) -> None:
        """Load the version in Production, or while that cannot be had the one last seen there.

        The registry is asked first: what is in the cache is code, and is run only if that is the version in
        Production, or nobody can tell.

        Raises:
            ConflictError: files are not what was registered, and no other version is at hand.
            NotFoundError: nothing is in Production.
            ServiceDownError: the registry does not answer, and the cache has no version.
            UnusableCacheError: the cache cannot be used, or others can write it.
        """
        last = self._cache.last()
        if last is None:
            with self._turn:
                self._refresh()
            self._tried.set()
            self._thread.start()
            return
        self._thread.start()
        try:
            self._tried.wait(_PATIENCE_S)
            if self._state.loaded is None:
                self._fall_back(last)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop following the registry; predictions under way end as they began."""
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
        """Whether the last look did not find this version in Production: see `checked_at`, `last_error`."""
        return not self._state.confirmed

    @property
    def checked_at(self) -> datetime | None:
        """When the version in use was last seen in Production."""
        return self._state.checked_at

    @property
    def last_error(self) -> Exception | None:
        """Why the last look at the registry, or the last swap, failed; None: it did not."""
        return self._state.error

    def predict(self, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Any:
        """What the version in use answers to `rows`.

        Raises:
            BadInputError: a column is missing.
        """
        return self.current.predict(rows)

    def refresh(self) -> bool:
        """Look at the registry now; whether it went well. The error is in `last_error`."""
        return self._attempt(at_once=True)

    def __repr__(self) -> str:
        return f"<LiveModel {self.tenant}/{self.name} {self._label()}{' stale' if self.stale else ''}>"

    def _follow(self) -> None:
        if not self._tried.is_set():
            self._attempt()
            self._tried.set()
        while not self._closed.wait(self._refresh_s * random.uniform(1 - _JITTER, 1 + _JITTER)):  # noqa: S311
            self._attempt()

    def _attempt(self, *, at_once: bool = False) -> bool:
        with self._turn:
            if at_once:
                # within the turn: a look under way may fail and put the version off
                self._failed = None
            try:
                self._refresh()
            except Exception as error:  # noqa: BLE001  # whatever it is, the version in use goes on
                if self._closed.is_set():
                    return False
                # within the turn: a later success stands
                self._note(error)
                failure = error
            else:
                return True
        # whoever is told may ask for this model, which may be just being opened
        self._tried.set()
        self._tell(failure)
        return False

    def _note(self, error: Exception) -> None:
        if type(error) is not type(self.last_error) or str(error) != str(self.last_error):
            text = "model %s of tenant %s stays at %s: %s"
            _log.warning(text, self.name, self.tenant, self._label(), error)
        self._set(confirmed=False, error=error)

    def _tell(self, error: Exception) -> None:
        if self._on_error is not None:
            try:
                self._on_error(self, error)
            except Exception:  # noqa: BLE001  # somebody else's code
                _log.exception("on_model_error failed")

    def _refresh(self) -> None:
        """Look at the registry, and swap if Production is another version than the one in use."""
        found = self._registry.production(self.name)
        if found.is_same(self._state.version):
            self._confirm(self._state.loaded, found)
            return
        self._set(confirmed=False)
        if self._is_put_off(found):
            return
        before, loaded = self._label(), self._try(found)
        self._confirm(loaded, found)
        _log.info("model %s of tenant %s: %s after %s", self.name, self.tenant, found.label, before)

    def _try(self, found: Production) -> LoadedModel:
        try:
            return self._supply.get(found)
        except Exception:
            before = self._failed
            times = before.times + 1 if before and found.is_same(before.version) else 1
            pause = min(self._refresh_s * 2**times, _LONGEST_PAUSE_S)
            self._failed = _Failed(found, times, time.monotonic() + pause)
            raise

    def _is_put_off(self, found: Production) -> bool:
        """Whether this version has failed, and it is too early to try again."""
        failed = self._failed
        return failed is not None and found.is_same(failed.version) and time.monotonic() < failed.again_at

    def _confirm(self, loaded: LoadedModel | None, found: Production) -> None:
        is_new = loaded is not self._state.loaded
        now = datetime.now(UTC)
        # one change: whoever predicts has the old version or the new one
        self._set(loaded=loaded, version=found, confirmed=True, checked_at=now, error=None)
        self._failed = None
        try:
            self._cache.remember(found)
            if is_new:
                self._cache.prune(found)
        except UnusableCacheError as error:
            # a full disk, say: the version is in memory and right
            if str(error) != self._complaint:
                _log.warning("model %s of tenant %s is not kept: %s", self.name, self.tenant, error)
            self._complaint = str(error)

    def _fall_back(self, last: Production) -> None:
        """Use the version last seen in Production until that of now can be had."""
        error = self.last_error
        if isinstance(error, AiHubError) and not _leaves_the_old_in_use(error):
            raise error
        try:
            loaded = self._supply.cached(last)
        except Exception as damage:
            self._tried.wait()  # nothing else can be had
            error = self.last_error
            if self._state.loaded is not None:
                return
            if error is None or isinstance(error, ServiceDownError):
                raise damage from error
            raise error from damage
        checked_at = self._cache.checked_at()
        with self._writing:
            if self._state.loaded is None:  # still
                self._state = replace(self._state, loaded=loaded, version=last, checked_at=checked_at)
        _log.info("model %s of tenant %s: %s, from the cache", self.name, self.tenant, self._label())

    def _set(self, **changes: Any) -> None:
        with self._writing:  # or two changes at once would undo one
            self._state = replace(self._state, **changes)

    def _label(self) -> str:
        return self._state.version.label if self._state.version else "nothing"


def _leaves_the_old_in_use(error: AiHubError) -> bool:
    """Whether a start may go on with the cached version: the newer one cannot be had, kept, or trusted."""
    return isinstance(error, ServiceDownError | ConflictError | UnusableCacheError)
