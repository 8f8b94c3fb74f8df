"""MLflow servers of a test's own (see `benchmarks.mlflow_servers`), and what their applications answer."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from benchmarks.mlflow_servers import FORKS, PRELOADED, Server, running

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection

__all__ = ["FORKS", "Server", "routes", "running"]


def routes(app: str, settings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Method and path of every route of an application, its mounted parts' and Flask's included.

    Args:
        app: entry point of the application.
        settings: the variables it needs to be built.
    """
    FORKS.set_forkserver_preload(PRELOADED)
    receiving, sending = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_send_routes, args=(app, dict(settings), sending))
    process.start()
    sending.close()
    found: list[tuple[str, str]] = receiving.recv()
    process.join()
    return found


def _send_routes(app: str, variables: dict[str, str], sending: Connection) -> None:
    from fastapi.openapi.utils import get_openapi  # noqa: PLC0415  # in the process of its own only
    from mlflow.server import app as flask_app  # noqa: PLC0415

    os.environ.update(variables)
    (point,) = entry_points(group="mlflow.app", name=app)
    parts = point.load()().parts
    found = {(method, rule.rule) for rule in flask_app.url_map.iter_rules() for method in rule.methods or ()}
    for start, part in parts:
        paths = get_openapi(title="", version="", routes=part.routes)["paths"]
        found |= {(method.upper(), start + path) for path, methods in paths.items() for method in methods}
    sending.send(sorted(found))
