"""The models a client follows, by name."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ai_hub.client.models.cache import Cache, default_folder
from ai_hub.client.models.live import LiveModel
from ai_hub.client.models.production import Registry
from ai_hub.errors import ConflictError

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
        self._tenant = tenant
        self._folder = cache_dir or default_folder()
        self._refresh_s = refresh_s
        self._on_error = on_error
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}
        self._models: dict[str, LiveModel] = {}
        self._registry: Registry | None = None
        self._closed = False

    def get(self, name: str) -> LiveModel:
        """The model, opened by the first who asks; see `LiveModel.open` for the errors."""
        if (known := self._models.get(name)) is not None:
            return known
        with self._lock:
            if self._closed:
                raise ConflictError("The client is closed.")
            if self._registry is None:
                self._registry = Registry(self._tenant)
            opening = self._opening.setdefault(name, threading.Lock())
        with opening:
            return self._models.get(name) or self._open(name, self._registry)

    def close(self) -> None:
        """Stop following the registry."""
        with self._lock:
            self._closed = True
            for model in self._models.values():
                model.close()
            if self._registry is not None:
                self._registry.close()

    def _open(self, name: str, registry: Registry) -> LiveModel:
        cache = Cache(self._folder, registry.url, self._tenant, name)
        model = LiveModel(
            registry, cache, self._tenant, name, refresh_s=self._refresh_s, on_error=self._on_error
        )
        model.open()
        with self._lock:
            self._models[name] = model
            if self._closed:  # meanwhile
                model.close()
        return model
