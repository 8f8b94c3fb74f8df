"""Our tables beside MLflow's, and the versioned migration that creates them.

Kept apart from MLflow's alembic history (its own version table, no foreign keys into MLflow's tables), so
`mlflow db upgrade` keeps working. The audit trail is append-only by triggers, whoever connects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from mlflow_plugins.errors import bad_input

if TYPE_CHECKING:
    from collections.abc import Sequence

metadata = sa.MetaData()
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

#: One row a version: who is copying its files, where they are, what they hashed to.
versions = sa.Table(
    "lifecycle_versions",
    metadata,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("model_created", sa.BigInteger, nullable=False),
    sa.Column("semantic_version", sa.Text, nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("location", sa.Text),
    sa.Column("signature_sha256", sa.Text),
    sa.Column("feature_service", sa.Text),
    sa.Column("manifest_sha256", sa.Text),
    sa.Column("file_count", sa.Integer),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("listing_sha256", sa.Text),
    sa.Column("claimed_by", sa.Text, nullable=False),
    sa.Column("claimed_at", sa.BigInteger, nullable=False),
)

#: The audit trail: one row a change of stage, never changed.
transitions = sa.Table(
    "lifecycle_transitions",
    metadata,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("model_created", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("semantic_version", sa.Text),
    sa.Column("from_stage", sa.Text),
    sa.Column("to_stage", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("actor_source", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)

#: Tenants that were removed: one row a step, never changed.
removals = sa.Table(
    "lifecycle_removals",
    metadata,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("actor_source", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("counts", sa.Text, nullable=False),
    sa.Column("last_transition", sa.BigInteger, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)

#: What people say about a version: comments, and requests for promotion; never changed.
comments = sa.Table(
    "lifecycle_comments",
    metadata,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("model_created", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("semantic_version", sa.Text),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("actor_source", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("last_transition", sa.BigInteger, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)

#: Messages about events that have not arrived yet; see `notifications.outbox`.
notifications = sa.Table(
    "lifecycle_notifications",
    metadata,
    sa.Column("id", _BIG, primary_key=True),
    sa.Column("workspace", sa.Text, nullable=False),
    sa.Column("receiver", sa.Text, nullable=False),
    sa.Column("delivery_id", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at_ms", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("error", sa.Text),
)

_KEYS: Final = {"sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT", "postgresql": "BIGSERIAL PRIMARY KEY"}

_TABLES: Final = (
    """
    CREATE TABLE lifecycle_versions (
        id {key},
        workspace VARCHAR(63) NOT NULL,
        name VARCHAR(256) NOT NULL,
        model_created BIGINT NOT NULL,
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
    """
    CREATE TABLE lifecycle_transitions (
        id {key},
        workspace VARCHAR(63) NOT NULL,
        name VARCHAR(256) NOT NULL,
        model_created BIGINT NOT NULL,
        version INTEGER NOT NULL,
        semantic_version VARCHAR(40),
        from_stage VARCHAR(20),
        to_stage VARCHAR(20) NOT NULL,
        actor VARCHAR(256) NOT NULL,
        actor_source VARCHAR(20) NOT NULL
            CHECK (actor_source IN ('authenticated', 'claimed', 'unknown')),
        reason VARCHAR(5000),
        evidence TEXT NOT NULL,
        at_ms BIGINT NOT NULL
    )
    """,
    "CREATE INDEX lifecycle_transitions_by_model ON lifecycle_transitions (workspace, name, id)",
)

_REMOVALS: Final = (
    """
    CREATE TABLE lifecycle_removals (
        id {key},
        workspace VARCHAR(63) NOT NULL,
        step VARCHAR(12) NOT NULL CHECK (step IN ('started', 'removed', 'kept', 'released')),
        actor VARCHAR(256) NOT NULL,
        actor_source VARCHAR(20) NOT NULL
            CHECK (actor_source IN ('authenticated', 'delegated', 'claimed', 'unknown')),
        reason VARCHAR(5000),
        counts TEXT NOT NULL,
        last_transition BIGINT NOT NULL,
        at_ms BIGINT NOT NULL
    )
    """,
    "CREATE INDEX lifecycle_removals_by_workspace ON lifecycle_removals (workspace, id)",
)

_COMMENTS: Final = (
    """
    CREATE TABLE lifecycle_comments (
        id {key},
        workspace VARCHAR(63) NOT NULL,
        name VARCHAR(256) NOT NULL,
        model_created BIGINT NOT NULL,
        version INTEGER NOT NULL,
        semantic_version VARCHAR(40),
        kind VARCHAR(12) NOT NULL CHECK (kind IN ('comment', 'request', 'withdrawal')),
        actor VARCHAR(256) NOT NULL,
        actor_source VARCHAR(20) NOT NULL
            CHECK (actor_source IN ('authenticated', 'delegated', 'claimed', 'unknown')),
        text VARCHAR(5000) NOT NULL,
        last_transition BIGINT NOT NULL,
        at_ms BIGINT NOT NULL
    )
    """,
    "CREATE INDEX lifecycle_comments_by_model ON lifecycle_comments (workspace, name, version, id)",
)

_NOTIFICATIONS: Final = (
    """
    CREATE TABLE lifecycle_notifications (
        id {key},
        workspace VARCHAR(63) NOT NULL,
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


def _first(dialect: str) -> Sequence[str]:
    tables = (text.replace("{key}", _KEYS[dialect]) for text in _TABLES)
    return (*tables, *_append_only("lifecycle_transitions", dialect))


def _delegated(dialect: str) -> Sequence[str]:
    """Let `actor_source` be `delegated` as well."""
    allowed = "CHECK (actor_source IN ('authenticated', 'delegated', 'claimed', 'unknown'))"
    if dialect == "postgresql":
        table = "ALTER TABLE lifecycle_transitions"
        name = "lifecycle_transitions_actor_source_check"
        return (f"{table} DROP CONSTRAINT {name}", f"{table} ADD CONSTRAINT {name} {allowed}")
    # SQLite changes no constraint of a table, so it is made anew; triggers and indexes go with the old one
    released = "CHECK (actor_source IN ('authenticated', 'claimed', 'unknown'))"
    made, index = (text.replace("{key}", _KEYS[dialect]) for text in _TABLES[2:])
    return (
        "ALTER TABLE lifecycle_transitions RENAME TO lifecycle_transitions_before",
        made.replace(released, allowed),
        "INSERT INTO lifecycle_transitions SELECT * FROM lifecycle_transitions_before ORDER BY id",
        "DROP TABLE lifecycle_transitions_before",
        index,
        *_append_only("lifecycle_transitions", dialect),
    )


def _removed_tenants(dialect: str) -> Sequence[str]:
    tables = (text.replace("{key}", _KEYS[dialect]) for text in _REMOVALS)
    return (*tables, *_append_only("lifecycle_removals", dialect))


def _discussed(dialect: str) -> Sequence[str]:
    tables = (text.replace("{key}", _KEYS[dialect]) for text in _COMMENTS)
    return (*tables, *_append_only("lifecycle_comments", dialect))


def _notified(dialect: str) -> Sequence[str]:
    return tuple(text.replace("{key}", _KEYS[dialect]) for text in _NOTIFICATIONS)


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
