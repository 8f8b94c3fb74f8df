"""What MLflow's alias dialog means by its requests.

The dialog sends a request for each chip that was added and each that was removed, all at once. So the removal
of a stage's alias may arrive before the move that takes it from the version, and two stages may be asked for
at the same time.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import flask

from mlflow_plugins.errors import conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A removal waits so long for a move to begin, and then until it has ended.
GRACE_S: Final = 1.0
_LOOK_S: Final = 0.1


class Version(NamedTuple):
    """A version that is moved by an alias."""

    workspace: str
    model: str
    version: int


_moves: list[tuple[Version, str]] = []
_ended = threading.Condition()


def version_of_request() -> int | None:
    """The version that a request to remove an alias names: the dialog's do, the API has no such field."""
    if not flask.has_request_context():
        return None
    body = flask.request.get_json(silent=True)
    with suppress(TypeError, ValueError):
        return int(body.get("version", "")) if isinstance(body, dict) else None
    return None


@contextmanager
def moving(version: Version, stage: str) -> Iterator[None]:
    """Let nobody else move the version by an alias to another stage meanwhile (in this process).

    Raises:
        MlflowException: 409, somebody is moving it.
    """
    with _ended:
        for moved, other in _moves:
            if moved == version and other != stage:
                raise conflict(
                    f"Version {version.version} of model {version.model} was asked into {other} and into "
                    f"{stage} at once. A version is in one stage: {other} was asked for first. Load the "
                    f"page again to see where it is now."
                )
        _moves.append((version, stage))
    try:
        yield
    finally:
        with _ended:
            _moves.remove((version, stage))
            _ended.notify_all()


def comes_true(version: Version, is_removed: Callable[[], bool]) -> bool:
    """Whether an alias is gone from the version, now or by the move that the dialog asked for beside it."""
    deadline = time.monotonic() + GRACE_S
    while not is_removed():
        with _ended:
            if time.monotonic() > deadline and all(moved != version for moved, _ in _moves):
                return False
            _ended.wait(_LOOK_S)
    return True
