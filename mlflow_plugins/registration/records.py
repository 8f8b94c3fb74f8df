"""The table `lifecycle_versions`: what it says about a version, and who works on a row of it right now."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psutil
import sqlalchemy as sa
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.artifacts.manifest import ManifestDigest
from mlflow_plugins.database.schema import versions as table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.lifecycle.semver import SemanticVersion


COPYING: Final = "copying"
REGISTERED: Final = "registered"
DELETING: Final = "deleting"
GONE: Final = "deleted"
#: A claim of another process that was not renewed for this long is abandoned.
LEASE_MS: Final = 600_000
#: What stands in a row whose holder released it.
NO_HOLDER: Final = ""

_RENEWALS_IN_A_LEASE: Final = 4
_holders: Final[set[str]] = set()


@dataclass(frozen=True)
class Record:
    """A row of `lifecycle_versions`."""

    id: int
    name: str
    semantic_version: str
    version: int | None
    state: str
    location: str | None
    manifest_sha256: str | None
    #: who works on it (see `lease_holder`)
    claimed_by: str
    file_count: int | None = None
    size_bytes: int | None = None
    listing_sha256: str | None = None

    @property
    def digest(self) -> ManifestDigest | None:
        """What its folder holds; None without a manifest."""
        if self.manifest_sha256 is None:
            return None
        return ManifestDigest(
            self.manifest_sha256, self.file_count or 0, self.size_bytes or 0, self.listing_sha256
        )

    @classmethod
    def of(cls, row: sa.Row[Any]) -> Record:
        """Read a row of the whole table."""
        return cls(**{name: getattr(row, name) for name in cls.__dataclass_fields__})


def exist(session: Session, model: ModelKey) -> bool:
    """Whether the model has or had versions, or is getting its first."""
    return session.execute(sa.select(table.c.id).where(model.matches(table)).limit(1)).first() is not None


def find(session: Session, model: ModelKey, version: int) -> Record | None:
    """The record of an MLflow version; None when it was registered before this plugin."""
    query = sa.select(table).where(model.matches(table), table.c.version == version)
    row = session.execute(query).first()
    return Record.of(row) if row else None


def registered(session: Session, model: ModelKey) -> list[Record]:
    """The records of all of a model's versions that have their files."""
    query = sa.select(table).where(model.matches(table), table.c.state == REGISTERED)
    return [Record.of(row) for row in session.execute(query)]


def numbered(session: Session, model: ModelKey, number: SemanticVersion) -> Record | None:
    """The record of a semantic version, whatever became of it."""
    query = sa.select(table).where(model.matches(table), table.c.semantic_version == str(number))
    row = session.execute(query).first()
    return Record.of(row) if row else None


def manifest_digest_of(session: Session, workspace: str, name: str, semantic_version: str) -> str | None:
    """SHA-256 of the manifest of a registered version; None when there is none by that number."""
    query = sa.select(table.c.manifest_sha256).where(
        table.c.workspace == workspace,
        table.c.name == name,
        table.c.semantic_version == semantic_version,
        table.c.state == REGISTERED,
    )
    return session.scalar(query)


def registered_folders(session: Session, workspace: str, name: str | None = None) -> list[str]:
    """Models of a tenant that have registered versions, or the numbers of those of model `name`."""
    column = table.c.name if name is None else table.c.semantic_version
    mine = sa.and_(table.c.workspace == workspace, table.c.state == REGISTERED)
    if name is not None:
        mine &= table.c.name == name
    return list(session.scalars(sa.select(column).distinct().where(mine).order_by(column)))


@contextmanager
def lease_holder() -> Iterator[str]:
    """A name nobody else has, for work that ends with the block."""
    name = f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time()}:{secrets.token_hex(4)}"
    _holders.add(name)
    try:
        yield name
    finally:
        _holders.discard(name)


@contextmanager
def renewing(renew: Callable[[], None]) -> Iterator[None]:
    """Call `renew` from time to time while the block runs, so that the lease of what it does never ends."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(LEASE_MS / _RENEWALS_IN_A_LEASE / 1000):
            renew()

    thread = threading.Thread(target=run, name="renew-claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def is_abandoned(row: sa.Row[Any]) -> bool:
    """Whether nobody works on a row of `lifecycle_versions` any more."""
    if row.claimed_by == NO_HOLDER:
        return True
    host, pid, started, *_ = row.claimed_by.split(":")
    if host == socket.gethostname():
        if int(pid) == os.getpid() and started == str(psutil.Process().create_time()):
            return row.claimed_by not in _holders
        if not _is_running(int(pid), started):
            return True
    return bool(row.claimed_at + LEASE_MS < get_current_time_millis())


def _is_running(pid: int, started: str) -> bool:
    try:
        return str(psutil.Process(pid).create_time()) == started
    except psutil.NoSuchProcess:
        return False
