"""The audit log: one line of JSON an event on the logger `ai_hub.audit`, for whoever collects logs.

Every line has `event` (`transition`, or `refused`), `at` (UTC, ISO 8601), `workspace`, `name` (the model),
`version`, `to_stage`, `actor` and `actor_source`. A transition adds what its row in the database says:
`semantic_version`, `from_stage`, `reason`, `evidence`. A refusal adds `status` (HTTP) and `message`.

The end of a tenant is a `tenant_removal` for each `step` (with `reason` and `counts`), or a
`refused_tenant_removal`; both have `workspace`, `actor` and `actor_source`.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException

from mlflow_plugins.users.actor import current_actor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

NAME: Final = "ai_hub.audit"
_log: Final = logging.getLogger(NAME)


def start(path: Path | None) -> None:
    """Write the lines of this process to `path` (it may be rotated), else to standard output."""
    if not _log.handlers:
        handler = WatchedFileHandler(path) if path else logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _log.addHandler(handler)
    _log.setLevel(logging.INFO)


def line(event: str, at_ms: int, fields: dict[str, Any]) -> str:
    """The JSON text of an event; `at_ms` is UTC milliseconds."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"event": event, "at": at, **fields}, sort_keys=True)


def write(text: str) -> None:
    """Write one line."""
    _log.info("%s", text)


def refusals(
    workspace: str, name: str, version: int | str, to_stage: str, claim: str | None
) -> AbstractContextManager[None]:
    """Whatever this block refuses is an event, too."""
    about = {"workspace": workspace, "name": name, "version": version, "to_stage": to_stage}
    return _refusals("refused", about, claim)


def refused_removals(workspace: str) -> AbstractContextManager[None]:
    """Whatever this block refuses of a tenant's removal is an event, too."""
    return _refusals("refused_tenant_removal", {"workspace": workspace}, None)


@contextmanager
def _refusals(event: str, about: dict[str, Any], claim: str | None) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        actor = current_actor(claim)
        fields = {
            **about,
            "actor": actor.name,
            "actor_source": actor.source,
            "status": error.get_http_status_code(),
            "message": error.message,
        }
        write(line(event, int(datetime.now(UTC).timestamp() * 1000), fields))
        raise
