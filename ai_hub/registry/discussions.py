"""What people say and hear of versions: requests for promotion, comments, receivers of notifications."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ai_hub.registry.server import call, check_name, connect, model_path, require_server
from ai_hub.registry.versions import LATEST, find_version


@dataclass(frozen=True)
class Comment:
    """Something said about a version; `kind` is comment, request or withdrawal."""

    model: str
    version: int
    semantic_version: str | None
    kind: str
    actor: str
    actor_source: str
    text: str
    at: datetime

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Comment:
        """Read what the server sends."""
        same = ("version", "semantic_version", "kind", "actor", "actor_source", "text")
        at = datetime.fromtimestamp(row["at_ms"] / 1000, UTC)
        return cls(model=row["name"], at=at, **{name: row[name] for name in same})


def request_promotion(tenant: str, model: str, text: str, version: str | int = LATEST) -> Comment:
    """Ask the tenant's approvers to promote a version in Staging; `text` says why.

    Raises:
        ConflictError: it is not in Staging, or somebody asks for it already.
        NotFoundError: no such tenant, model or version.
    """
    return _say("POST", tenant, model, version, "request", json={"text": text})


def propose_retraining(tenant: str, model: str, text: str, version: int) -> Comment:
    """Say in a version's thread why its model should be trained anew, and tell the receivers, once.

    Raises:
        NotFoundError: no such tenant, model or version.
    """
    return _say("POST", tenant, model, version, "retraining", json={"text": text})


def withdraw_request(tenant: str, model: str, text: str, version: str | int = LATEST) -> Comment:
    """Take back one's own request for promotion, or decline somebody's as an approver.

    Raises:
        ConflictError: there is none.
        NotFoundError: no such tenant, model or version.
    """
    return _say("DELETE", tenant, model, version, "request", params={"text": text})


def comment(tenant: str, model: str, text: str, version: str | int = LATEST) -> Comment:
    """Add to a version's thread.

    Raises:
        NotFoundError: no such tenant, model or version.
    """
    return _say("POST", tenant, model, version, "comments", json={"text": text})


def comments(tenant: str, model: str, version: str | int = LATEST) -> list[Comment]:
    """Everything said about a version, oldest first.

    Raises:
        NotFoundError: no such tenant, model or version.
    """
    chosen = find_version(tenant, model, version)
    answer = call("GET", f"{model_path(model)}/versions/{chosen.version}/comments", tenant=tenant)
    return [Comment.from_row(row) for row in answer["comments"]]


def requests(tenant: str) -> list[Comment]:
    """The requests that wait for the tenant's approvers, oldest first."""
    check_name(tenant)
    require_server()
    return [Comment.from_row(row) for row in call("GET", "/ai-hub/api/requests", tenant=tenant)["requests"]]


def _say(method: str, tenant: str, model: str, version: str | int, what: str, **arguments: Any) -> Comment:
    chosen = find_version(tenant, model, version)
    path = f"{model_path(model)}/versions/{chosen.version}/{what}"
    return Comment.from_row(call(method, path, tenant=tenant, **arguments))


_PATH: Final = "/ai-hub/api/notifications"


@dataclass(frozen=True)
class Receiver:
    """A receiver by its label, with how many messages wait or were given up, and the last error."""

    receiver: str
    tenant: str | None
    kinds: list[str]
    #: off for one that is in no setting any more
    is_set: bool
    waiting: int
    failed: int
    error: str | None


def receivers(*, test: bool = False) -> list[Receiver]:
    """The receivers of the server; `test` sends each a message first.

    Raises:
        ForbiddenError: only the administrator may.
    """
    connect()
    answer = call("POST", f"{_PATH}/test") if test else call("GET", _PATH)
    return [Receiver(**row) for row in answer["receivers"]]
