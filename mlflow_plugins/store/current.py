"""The registry of this server process."""

from __future__ import annotations

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
