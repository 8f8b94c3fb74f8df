"""The models a client follows, by name."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ai_hub.client.errors import ClosedError
from ai_hub.client.models.cache import Cache, default_folder
from ai_hub.client.models.live import LiveModel
from ai_hub.client.models.production import Registry
from ai_hub.client.models.units import Units

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Shelf:
    """Opens each model once, however many threads ask for it."""

    def __init__(
        self,
        tenant: str,
        *,
        cache_dir: Path | None,
        refresh_s: float,
        on_error: Callable[[LiveModel, Exception], None] | None,
    ) -> None:
        #: of the tenant's assets, for all its models
        self.units = Units()
        self._tenant = tenant
        self._folder = cache_dir or default_folder()
        self._refresh_s = refresh_s
        self._on_error = on_error
        self._lock = threading.Lock()
        self._opening: dict[str, Future[LiveModel]] = {}
        self._models: dict[str, LiveModel] = {}
        self._registry: Registry | None = None
        self._closed = threading.Event()

    def get(self, name: str) -> LiveModel:
        """The model, opened by the first who asks; see `LiveModel.open` for the errors.

        Whoever asks meanwhile waits for that, and has the same answer: tries one after another would let the
        last of many wait for all the time-outs of an outage.
        """
        if self._closed.is_set():
            raise ClosedError
        if (known := self._models.get(name)) is not None:
            return known
        mine: Future[LiveModel] = Future()
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

    def _open(self, name: str) -> LiveModel:
        with self._lock:
            if self._closed.is_set():
                raise ClosedError
            if (known := self._models.get(name)) is not None:  # since a moment
                return known
            if self._registry is None:
                self._registry = Registry(self._tenant)
            registry = self._registry
        cache = Cache(self._folder, registry.url, self._tenant, name)
        model = LiveModel(
            registry, cache, self._tenant, name, refresh_s=self._refresh_s, on_error=self._on_error
        )
        try:
            model.open()
        except Exception:
            if self._closed.is_set():  # meanwhile
                raise ClosedError from None
            raise
        with self._lock:
            self._models[name] = model
            if self._closed.is_set():
                model.close()
                raise ClosedError
        return model
