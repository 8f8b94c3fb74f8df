"""Our tables beside MLflow's, the migration that makes them, and transactions over both.

The tables are apart from MLflow's alembic history (an own table of versions, no foreign keys into MLflow's
tables), so `mlflow db upgrade` keeps working. The audit trail is append-only by triggers, whoever connects.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import sqlalchemy as sa

from mlflow_plugins.errors import bad_input

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session


metadata = sa.MetaData()
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Columns = list[sa.Column[Any]]


def _required(kind: Any, *names: str) -> _Columns:
    return [sa.Column(name, kind, nullable=False) for name in names]


def _optional(kind: Any, *names: str) -> _Columns:
    return [sa.Column(name, kind) for name in names]


def _table(name: str, *columns: _Columns) -> sa.Table:
    """A table of rows of tenants."""
    own = [sa.Column("id", _BIG, primary_key=True), *_required(sa.Text, "workspace")]
    return sa.Table(name, metadata, *own, *(column for group in columns for column in group))


def _of_a_model() -> _Columns:
    """Which model a row is about; `model_created` (ms) tells it from an earlier one of the same name."""
    return [*_required(sa.Text, "name"), *_required(sa.BigInteger, "model_created")]


def _by_somebody() -> _Columns:
    """Who did what a row says, and when (UTC ms)."""
    return [*_required(sa.Text, "actor", "actor_source"), *_required(sa.BigInteger, "at_ms")]


#: One row a version: who is copying its files, where they are, what they hashed to.
versions = _table(
    "lifecycle_versions",
    _of_a_model(),
    _required(sa.Text, "semantic_version", "state", "claimed_by"),
    _required(sa.BigInteger, "claimed_at"),
    _optional(sa.Integer, "version", "file_count"),
    _optional(sa.Text, "location", "signature_sha256", "feature_service"),
    _optional(sa.Text, "manifest_sha256", "listing_sha256"),
    _optional(sa.BigInteger, "size_bytes"),
)

#: The audit trail: one row a change of stage, never changed.
transitions = _table(
    "lifecycle_transitions",
    _of_a_model(),
    _required(sa.Integer, "version"),
    _optional(sa.Text, "semantic_version", "from_stage", "reason"),
    _required(sa.Text, "to_stage", "evidence"),
    _by_somebody(),
)

#: Tenants that were removed: one row a step, never changed.
removals = _table(
    "lifecycle_removals",
    _required(sa.Text, "step", "counts"),
    _optional(sa.Text, "reason"),
    _required(sa.BigInteger, "last_transition"),
    _by_somebody(),
)

#: Comments on a version, and requests for its promotion; never changed.
comments = _table(
    "lifecycle_comments",
    _of_a_model(),
    _required(sa.Integer, "version"),
    _optional(sa.Text, "semantic_version"),
    _required(sa.Text, "kind", "text"),
    _required(sa.BigInteger, "last_transition"),
    _by_somebody(),
)

#: Messages about events that have not arrived yet; see `notifications.outbox`.
notifications = _table(
    "lifecycle_notifications",
    _required(sa.Text, "receiver", "delivery_id", "event", "state"),
    _required(sa.BigInteger, "at_ms", "next_at_ms"),
    _required(sa.Integer, "attempts"),
    _optional(sa.Text, "error"),
)

_KEYS: Final = {"sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT", "postgresql": "BIGSERIAL PRIMARY KEY"}

# What several tables have, as the migrations make it; released, so it never changes.
_ROW: Final = "id {key}, workspace VARCHAR(63) NOT NULL"
_MODEL: Final = "name VARCHAR(256) NOT NULL, model_created BIGINT NOT NULL"
_ACTOR: Final = "actor VARCHAR(256) NOT NULL, actor_source VARCHAR(20) NOT NULL"
_FIRST_SOURCES: Final = "CHECK (actor_source IN ('authenticated', 'claimed', 'unknown'))"
_SOURCES: Final = "CHECK (actor_source IN ('authenticated', 'delegated', 'claimed', 'unknown'))"

_VERSIONS: Final = (
    f"""
    CREATE TABLE lifecycle_versions (
        {_ROW}, {_MODEL},
        semantic_version VARCHAR(40) NOT NULL,
        version INTEGER,
        state VARCHAR(12) NOT NULL CHECK (state IN ('copying', 'registered', 'deleting', 'deleted')),
        location VARCHAR(500),
        signature_sha256 VARCHAR(64),
        feature_service VARCHAR(256),
        manifest_sha256 VARCHAR(64),
        file_count INTEGER,
        size_bytes BIGINT,
        claimed_by VARCHAR(300) NOT NULL,
        claimed_at BIGINT NOT NULL,
        UNIQUE (workspace, name, model_created, semantic_version)
    )
    """,
    """
    CREATE UNIQUE INDEX lifecycle_versions_by_version
    ON lifecycle_versions (workspace, name, model_created, version)
    """,
)


def _transitions(sources: str) -> tuple[str, str]:
    return (
        f"""
        CREATE TABLE lifecycle_transitions (
            {_ROW}, {_MODEL},
            version INTEGER NOT NULL,
            semantic_version VARCHAR(40),
            from_stage VARCHAR(20),
            to_stage VARCHAR(20) NOT NULL,
            {_ACTOR} {sources},
            reason VARCHAR(5000),
            evidence TEXT NOT NULL,
            at_ms BIGINT NOT NULL
        )
        """,
        "CREATE INDEX lifecycle_transitions_by_model ON lifecycle_transitions (workspace, name, id)",
    )


_REMOVALS: Final = (
    f"""
    CREATE TABLE lifecycle_removals (
        {_ROW},
        step VARCHAR(12) NOT NULL CHECK (step IN ('started', 'removed', 'kept', 'released')),
        {_ACTOR} {_SOURCES},
        reason VARCHAR(5000),
        counts TEXT NOT NULL,
        last_transition BIGINT NOT NULL,
        at_ms BIGINT NOT NULL
    )
    """,
    "CREATE INDEX lifecycle_removals_by_workspace ON lifecycle_removals (workspace, id)",
)

_COMMENTS: Final = (
    f"""
    CREATE TABLE lifecycle_comments (
        {_ROW}, {_MODEL},
        version INTEGER NOT NULL,
        semantic_version VARCHAR(40),
        kind VARCHAR(12) NOT NULL CHECK (kind IN ('comment', 'request', 'withdrawal')),
        {_ACTOR} {_SOURCES},
        text VARCHAR(5000) NOT NULL,
        last_transition BIGINT NOT NULL,
        at_ms BIGINT NOT NULL
    )
    """,
    "CREATE INDEX lifecycle_comments_by_model ON lifecycle_comments (workspace, name, version, id)",
)

_NOTIFICATIONS: Final = (
    f"""
    CREATE TABLE lifecycle_notifications (
        {_ROW},
        receiver VARCHAR(80) NOT NULL,
        delivery_id VARCHAR(36) NOT NULL,
        event TEXT NOT NULL,
        at_ms BIGINT NOT NULL,
        attempts INTEGER NOT NULL,
        next_at_ms BIGINT NOT NULL,
        state VARCHAR(10) NOT NULL CHECK (state IN ('waiting', 'failed')),
        error VARCHAR(200)
    )
    """,
    "CREATE INDEX lifecycle_notifications_due ON lifecycle_notifications (receiver, state, next_at_ms)",
)


def _append_only(table: str, dialect: str) -> Sequence[str]:
    if dialect == "sqlite":
        return tuple(
            f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for action in ("UPDATE", "DELETE")
        )
    return (
        f"""
        CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$
        """,
        f"""
        CREATE TRIGGER {table}_append_only
        BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()
        """,
    )


def _keyed(statements: Sequence[str], dialect: str) -> tuple[str, ...]:
    return tuple(text.replace("{key}", _KEYS[dialect]) for text in statements)


def _first(dialect: str) -> Sequence[str]:
    tables = _keyed((*_VERSIONS, *_transitions(_FIRST_SOURCES)), dialect)
    return (*tables, *_append_only("lifecycle_transitions", dialect))


def _delegated(dialect: str) -> Sequence[str]:
    """Let `actor_source` be `delegated` as well."""
    if dialect == "postgresql":
        table = "ALTER TABLE lifecycle_transitions"
        name = "lifecycle_transitions_actor_source_check"
        return (f"{table} DROP CONSTRAINT {name}", f"{table} ADD CONSTRAINT {name} {_SOURCES}")
    # SQLite changes no constraint of a table, so it is made anew; triggers and indexes go with the old one
    made, index = _keyed(_transitions(_SOURCES), dialect)
    return (
        "ALTER TABLE lifecycle_transitions RENAME TO lifecycle_transitions_before",
        made,
        "INSERT INTO lifecycle_transitions SELECT * FROM lifecycle_transitions_before ORDER BY id",
        "DROP TABLE lifecycle_transitions_before",
        index,
        *_append_only("lifecycle_transitions", dialect),
    )


def _removed_tenants(dialect: str) -> Sequence[str]:
    return (*_keyed(_REMOVALS, dialect), *_append_only("lifecycle_removals", dialect))


def _discussed(dialect: str) -> Sequence[str]:
    return (*_keyed(_COMMENTS, dialect), *_append_only("lifecycle_comments", dialect))


def _notified(dialect: str) -> Sequence[str]:
    return _keyed(_NOTIFICATIONS, dialect)


def _listed(_: str) -> Sequence[str]:
    return ("ALTER TABLE lifecycle_versions ADD COLUMN listing_sha256 VARCHAR(64)",)


#: Statements of each migration in order; the position is the version. Released ones never change.
MIGRATIONS: Final = (_first, _delegated, _removed_tenants, _discussed, _notified, _listed)

_ADVISORY_LOCK: Final = 7_303_014_201  # any number nobody else locks on


def migrate(engine: sa.Engine) -> int:
    """Bring our tables to the newest version; safe to run from many processes at once.

    Returns:
        The version.

    Raises:
        MlflowException: 400 on a database we have no migrations for.
    """
    dialect = engine.dialect.name
    if dialect not in _KEYS:
        raise bad_input(f"The lifecycle registry runs on SQLite and PostgreSQL, not on {dialect}.")
    with engine.connect() as connection:
        if dialect == "sqlite":
            connection.exec_driver_sql("PRAGMA busy_timeout = 20000")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        connection.exec_driver_sql(
            "CREATE TABLE IF NOT EXISTS lifecycle_schema (version INTEGER PRIMARY KEY)"
        )
        done = connection.exec_driver_sql("SELECT max(version) FROM lifecycle_schema").scalar() or 0
        for version, statements in enumerate(MIGRATIONS[done:], start=done + 1):
            for statement in statements(dialect):
                connection.exec_driver_sql(statement)
            connection.exec_driver_sql(f"INSERT INTO lifecycle_schema VALUES ({version:d})")  # noqa: S608 - a number
        connection.commit()
    return max(done, len(MIGRATIONS))


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
