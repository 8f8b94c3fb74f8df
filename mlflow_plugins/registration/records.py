"""The table `lifecycle_versions`: what it says about a version, and who works on a row of it right now.

A semantic version is claimed before its files are copied, and registered once these are complete. A claim is
what makes a registration safe to kill: no MLflow version exists until its files do. A claim whose holder is
gone is acquired with all that was copied by the next registration under the same number.

Orphans are folders that have to go: of deleted versions, and of registrations that ended early. Each is
deleted by one holder; where that one fails or dies, by the next who passes:

- a repetition of the same deletion,
- the next registration or deletion in the same model,
- the next registration in the same tenant; what a registration copied waits a day for its repetition first.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import psutil
import sqlalchemy as sa
from mlflow.utils.time import get_current_time_millis

from mlflow_plugins.artifacts.manifest import ManifestDigest
from mlflow_plugins.database import versions as table
from mlflow_plugins.errors import conflict, unavailable
from mlflow_plugins.lifecycle.semver import Interface, SemanticVersion, suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.audit import ModelKey


COPYING: Final = "copying"
REGISTERED: Final = "registered"
DELETING: Final = "deleting"
GONE: Final = "deleted"
#: A claim of another process that was not renewed for this long is abandoned.
LEASE_MS: Final = 600_000
#: What stands in a row whose holder released it.
NO_HOLDER: Final = ""

#: Columns of the first schema: a registry that is only looked at, before its adoption, may have no others.
FIRST_COLUMNS: Final = tuple(column for column in table.c if column.name != "listing_sha256")
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
        """Read a row with every column of the table."""
        return cls(**{name: getattr(row, name) for name in cls.__dataclass_fields__})


def exist(session: Session, model: ModelKey) -> bool:
    """Whether the model has or had versions, or is getting its first."""
    return session.execute(sa.select(table.c.id).where(model.matches(table)).limit(1)).first() is not None


def find(session: Session, model: ModelKey, version: int) -> Record | None:
    """The record of an MLflow version; None when it was registered before this plugin."""
    return find_all(session, model, [version]).get(version)


def find_all(session: Session, model: ModelKey, versions: Collection[int]) -> dict[int, Record]:
    """The records of several versions, by version."""
    query = sa.select(table).where(model.matches(table), table.c.version.in_(versions))
    return {row.version: Record.of(row) for row in session.execute(query)}


def registered(session: Session, model: ModelKey) -> list[Record]:
    """The records of all of a model's versions that have their files, without `listing_sha256`."""
    columns = (*FIRST_COLUMNS, sa.null().label("listing_sha256"))
    query = sa.select(*columns).where(model.matches(table), table.c.state == REGISTERED)
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


#: For how long what a failed registration copied waits for its repetition.
KEPT_MS: Final = 24 * 3_600_000


def acquire_claim(
    session: Session,
    model: ModelKey,
    holder: str,
    number: SemanticVersion | None,
    interface: Interface,
    *,
    insist: bool,
    locate: Callable[[str], str | None],
) -> Record:
    """Claim `number` (or, when it is None or taken and `insist` is off, the suggested next one).

    The caller holds the model's lock.

    Args:
        session: in a transaction.
        model: which model.
        holder: for whom (see `lease_holder`).
        number: the semantic version.
        interface: what callers of the model depend on.
        insist: whether only `number` will do.
        locate: where a version's files go, by its number.

    Raises:
        MlflowException: 409, the number is taken.
    """
    rows = {
        SemanticVersion.parse(row.semantic_version): row
        for row in session.execute(sa.select(table).where(model.matches(table)))
    }
    left = {number: row for number, row in rows.items() if row.version is None and is_abandoned(row)}
    taken = {number: row for number, row in rows.items() if number not in left}
    if number in taken and insist:
        raise _taken(number, taken[number], suggest(max(taken), _previous(taken), interface))
    if number is None or number in taken:
        number = suggest(max(taken, default=None), _previous(taken), interface)
    values = {
        **asdict(interface),
        "state": COPYING,
        "location": locate(str(number)),
        "claimed_by": holder,
        "claimed_at": get_current_time_millis(),
    }
    if number in left:
        return _acquire_abandoned(session, Record.of(left[number]), values)
    key = {
        "workspace": model.workspace,
        "name": model.name,
        "model_created": model.created,
        "semantic_version": str(number),
    }
    return Record.of(session.execute(sa.insert(table).values(**key, **values).returning(table)).one())


def complete_claim(session: Session, claimed: Record, version: int, digest: ManifestDigest | None) -> None:
    """Turn a claim into a registered version.

    Raises:
        MlflowException: 409, somebody acquired the claim meanwhile.
    """
    values: dict[str, Any] = {"version": version, "state": REGISTERED}
    if digest is not None:
        values |= asdict(digest)
    if not change(session, claimed, values):
        raise conflict(
            f"The registration of {claimed.semantic_version} took so long that another one replaced it. "
            "Look at the model's versions, then register again if yours is missing."
        )


def release_claim(session: Session, claimed: Record) -> None:
    """Let anybody acquire the claim after a failure, together with what was copied."""
    change(session, claimed, {"claimed_by": NO_HOLDER})


def renew_claim(session: Session, claimed: Record) -> None:
    """Start the claim's lease anew."""
    change(session, claimed, {"claimed_at": get_current_time_millis()})


def change(session: Session, record: Record, values: dict[str, Any]) -> bool:
    """Change a row that still has the state and holder of `record`; returns whether it had."""
    same = sa.and_(
        table.c.id == record.id, table.c.state == record.state, table.c.claimed_by == record.claimed_by
    )
    result = session.execute(sa.update(table).where(same).values(**values))
    return cast("sa.CursorResult[Any]", result).rowcount == 1


def _acquire_abandoned(session: Session, left: Record, values: dict[str, Any]) -> Record:
    if not change(session, left, values):
        raise unavailable(f"What is left of {left.semantic_version} is being deleted. Register again.")
    return Record.of(session.execute(sa.select(table).where(table.c.id == left.id)).one())


def _previous(rows: dict[SemanticVersion, sa.Row[Any]]) -> Interface | None:
    registered = [number for number, row in rows.items() if row.version is not None]
    if not registered:
        return None
    newest = rows[max(registered)]
    return Interface(newest.signature_sha256, newest.feature_service)


def _taken(number: SemanticVersion, row: sa.Row[Any], following: SemanticVersion) -> Exception:
    if row.state == COPYING:
        return conflict(f"{number} is being registered right now. Wait for it, or register as {following}.")
    if row.version is None and row.state == DELETING:
        return conflict(f"What is left of {number} is being deleted. Wait, or register as {following}.")
    gone = "" if row.state == REGISTERED else ", which was deleted; numbers are not used twice"
    return conflict(
        f"{number} is version {row.version} of this model{gone}. "
        f"Register as {following}, or leave the tag out to get the next number."
    )


def mark_deleting(session: Session, model: ModelKey, holder: str, version: int | None = None) -> list[Record]:
    """Note that the files of a version (default: of all of the model) are about to go; returns these."""
    mine = sa.and_(model.matches(table), table.c.state == REGISTERED)
    if version is not None:
        mine &= table.c.version == version
    values = {"state": DELETING, "claimed_by": holder, "claimed_at": get_current_time_millis()}
    marked = session.execute(sa.update(table).where(mine).values(**values).returning(table))
    return [Record.of(row) for row in marked]


def resume_deletion(
    session: Session, workspace: str, name: str, holder: str, version: int | None = None
) -> list[Record]:
    """Acquire what an interrupted deletion of a version (default: of the model) has left."""
    mine = sa.and_(table.c.name == name, table.c.state == DELETING)
    if version is not None:
        mine &= table.c.version == version
    return _acquire_all(session, workspace, holder, mine)


def has_orphans(session: Session, workspace: str, name: str) -> bool:
    """Whether `collect_orphans` would find something."""
    return bool(_abandoned(session, workspace, _passing(name)))


def collect_orphans(session: Session, workspace: str, name: str, holder: str) -> list[Record]:
    """Acquire everything that is left behind in model `name`, and what is old in the tenant."""
    return _acquire_all(session, workspace, holder, _passing(name))


def finish_deletion(session: Session, record: Record) -> None:
    """Note that the files are gone. The number of a version that never was becomes free again."""
    if record.version is None:
        session.execute(sa.delete(table).where(table.c.id == record.id))
    else:
        change(session, record, {"state": GONE})


def _passing(name: str) -> sa.ColumnElement[bool]:
    """What whoever works on model `name` takes along."""
    old = table.c.claimed_at + KEPT_MS < get_current_time_millis()
    return sa.or_(table.c.name == name, table.c.state == DELETING, old)


def _abandoned(session: Session, workspace: str, which: sa.ColumnElement[bool]) -> list[Record]:
    going = table.c.state.in_([COPYING, DELETING])
    rows = session.execute(sa.select(table).where(table.c.workspace == workspace, going, which)).all()
    return [Record.of(row) for row in rows if is_abandoned(row)]


def _acquire_all(
    session: Session, workspace: str, holder: str, which: sa.ColumnElement[bool]
) -> list[Record]:
    values = {"state": DELETING, "claimed_by": holder, "claimed_at": get_current_time_millis()}
    return [
        replace(record, state=DELETING, claimed_by=holder)
        for record in _abandoned(session, workspace, which)
        if change(session, record, values)
    ]
