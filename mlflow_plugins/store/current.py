"""The registry of this server process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mlflow_plugins.errors import unavailable

if TYPE_CHECKING:
    from mlflow_plugins.store.lifecycle_store import LifecycleStore


def registry_store() -> LifecycleStore:
    """The registry of this server.

    Raises:
        MlflowException: 503, the server runs MLflow's own.
    """
    # MLflow's handlers import its whole application, which is there when a request is
    from mlflow.server.handlers import _get_model_registry_store  # noqa: PLC0415

    from mlflow_plugins.store.lifecycle_store import LifecycleStore  # noqa: PLC0415 - imports this package

    store = _get_model_registry_store()
    if not isinstance(store, LifecycleStore):
        raise unavailable(
            "This server runs MLflow's own registry. "
            "Start it with --registry-store-uri lifecycle+sqlite:///… or lifecycle+postgresql://…"
        )
    return store


def opened_store() -> LifecycleStore | None:
    """The registry of this server; None until a request has opened it, or where it is MLflow's own.

    Opening it makes the tables of a new database, and two threads that do so at once leave half of them.
    """
    from mlflow_plugins.store.lifecycle_store import LifecycleStore  # noqa: PLC0415 - imports this package

    store = getattr(sys.modules.get("mlflow.server.handlers"), "_model_registry_store", None)
    return store if isinstance(store, LifecycleStore) else None
