"""One transaction around several methods of MLflow's store, each of which opens a session of its own."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session


class SessionMaker(Protocol):
    """MLflow's `ManagedSessionMaker`: commits on success, rolls back and translates errors otherwise."""

    def __call__(self, read_only: bool = ...) -> AbstractContextManager[Session]:
        """A session that ends with the block."""


class JoiningSessionMaker:
    """Stands in for a `ManagedSessionMaker`: inside `transaction()` every session is the same one."""

    def __init__(self, make_session: SessionMaker) -> None:
        self._make_session = make_session
        self._local = threading.local()

    @contextmanager
    def __call__(self, read_only: bool = True) -> Iterator[Session]:
        """A session, or the one of the transaction this thread is in."""
        running: Session | None = getattr(self._local, "session", None)
        if running is None:
            with self._make_session(read_only=read_only) as session:
                yield session
        else:
            yield running
            running.flush()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Everything this thread does inside commits together, or not at all."""
        with self._make_session(read_only=False) as session:
            self._local.session = session
            try:
                yield session
            finally:
                self._local.session = None
