"""Brings a version into memory: from the cache, or from the registry through the cache; always verified."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ai_hub.client.models.loaded import LoadedModel, load
from ai_hub.client.models.seal import TamperedError
from ai_hub.errors import AiHubError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ai_hub.client.models.cache import Cache
    from ai_hub.client.models.production import Production

_log = logging.getLogger("ai_hub.client")
#: MLflow's own client would wait for minutes, again and again, and its caller with it
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class Supply:
    """Versions of one model."""

    def __init__(self, cache: Cache, tenant: str, name: str) -> None:
        self._cache = cache
        self._tenant = tenant
        self._name = name

    def get(self, version: Production) -> LoadedModel:
        """Load a version; what is missing or damaged in the cache is fetched anew.

        Raises:
            ConflictError: a file is not what was registered.
            ServiceDownError: the registry does not hand it out.
        """
        try:
            return self.cached(version)
        except TamperedError as error:
            if self._cache.place(version).exists():
                _log.warning("%s", error)
        self._cache.install(version, lambda folder: self._download(version, folder))
        return self.cached(version)

    def cached(self, version: Production) -> LoadedModel:
        """Load a version from the cache.

        Raises:
            TamperedError: it is not there, or a file is not what was registered.
        """
        with self._cache.reading():
            return load(self._cache.verified(version), self._tenant, self._name, version)

    def _download(self, version: Production, folder: Path) -> None:
        from ai_hub.registry import ModelVersion, download_version  # noqa: PLC0415  # MLflow takes seconds

        wanted = ModelVersion(
            tenant=self._tenant,
            model=self._name,
            version=version.version,
            semantic_version=version.semantic_version,
            stage="Production",
            aliases=("production",),
            run_id=None,
            registered_at=datetime.now(UTC),
            tags=dict(version.tags),
            metrics={},
        )
        try:
            with _soon():
                download_version(wanted, folder)
        except AiHubError as error:
            # MLflow's own errors, which tracebacks would show, may quote the address with its login
            raise error from None


class _Soon:
    """MLflow's client gives up soon during the block, where nobody has set it otherwise.

    It has no other place for that than the environment, which is the whole process's: so it is as before when
    the last of several downloads has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._downloads = 0
        self._set: list[str] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._downloads:
                self._set = [name for name in _PATIENCE if name not in os.environ]
                os.environ.update({name: _PATIENCE[name] for name in self._set})
            self._downloads += 1
        try:
            yield
        finally:
            with self._lock:
                self._downloads -= 1
                if not self._downloads:
                    for name in self._set:
                        os.environ.pop(name, None)


_soon = _Soon()
