"""API keys: their text, and the table that keeps their digests."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql

from ai_hub.database.connection import connect
from ai_hub.database.retired import require_in_use
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.names import check_workspace

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from ai_hub.access.principal import Scope

PREFIX: Final = "aih_"
_ID_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH: Final = 12
_SECRET_BYTES: Final = 32
_FORM: Final = re.compile(r"aih_([a-z0-9]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_NAME_LENGTH: Final = 100
_COLUMNS: Final = sql.SQL(
    "key_id, name, tenants, scopes, created_by, created_at, expires_at, revoked_at, CASE"
    " WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'active' END"
)


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key in clear text, which only its owner has."""

    key_id: str
    secret: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.key_id}_{self.secret}"

    def __repr__(self) -> str:
        return f"{PREFIX}{self.key_id}_…"


def new_key() -> KeyText:
    """A new random key."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
    return KeyText(key_id, secrets.token_urlsafe(_SECRET_BYTES))


def parse(text: str) -> KeyText | None:
    """The parts of a key; None when it is not one."""
    found = _FORM.fullmatch(text)
    return None if found is None else KeyText(found[1], found[2])


def digest(secret: str) -> bytes:
    """SHA-256 of a secret, which is what the database stores."""
    return hashlib.sha256(secret.encode("ascii")).digest()


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret; `state` is active, expired or revoked."""

    key_id: str
    name: str
    tenants: list[str]
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    state: str


def create(
    name: str,
    tenants: Iterable[str],
    scopes: Iterable[Scope],
    *,
    expires_in: timedelta | None = None,
    created_by: str,
    dsn: str | None = None,
) -> tuple[ApiKey, KeyText]:
    """Make a key for these tenants with these scopes; its secret is in the answer and nowhere else.

    Raises:
        BadInputError: no tenant, no scope, or a name that no tenant or key can have.
        ConflictError: one of the tenants has an active key of this name.
    """
    wanted, may = sorted({check_workspace(tenant) for tenant in tenants}), sorted(set(scopes))
    if not wanted or not may:
        raise BadInputError("A key needs a tenant and a scope.", hint="Add --tenant, and --role or --scope.")
    if not 0 < len(name) <= _NAME_LENGTH or not name.isprintable():
        raise BadInputError(
            f"A key's name has 1 to {_NAME_LENGTH} printable characters.", hint="Choose another."
        )
    text = new_key()
    with connect(dsn, application_name="ai-hub keys") as connection:
        for tenant in wanted:
            require_in_use(connection, tenant)
        # two keys of one name made at once would not see each other; reading goes on
        connection.execute("LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE")
        taken = connection.execute(
            "SELECT key_id FROM api_keys WHERE name = %s AND tenants && %s::text[] AND revoked_at IS NULL"
            " AND (expires_at IS NULL OR expires_at > now())",
            [name, wanted],
        ).fetchone()
        if taken is not None:
            raise ConflictError(
                f"{', '.join(wanted)} has a key {name!r} already: {taken[0]}.",
                hint=f"Choose another name, or first `ai-hub keys revoke {taken[0]}`.",
            )
        row = connection.execute(
            sql.SQL(
                "INSERT INTO api_keys (key_id, sha256, name, tenants, scopes, created_by, expires_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, now() + %s::interval) RETURNING {}"
            ).format(_COLUMNS),
            [text.key_id, digest(text.secret), name, wanted, may, created_by, expires_in],
        ).fetchone()
    return _key(row), text


def keys(tenant: str | None = None, *, limit: int = 1000, dsn: str | None = None) -> list[ApiKey]:
    """The newest keys (default: of all tenants), the newest first."""
    # two conditions, so that each has its index
    where = sql.SQL("true" if tenant is None else "tenants @> ARRAY[%(tenant)s::text]")
    with connect(dsn, application_name="ai-hub keys") as connection:
        rows = connection.execute(
            sql.SQL(
                "SELECT {} FROM api_keys WHERE {} ORDER BY created_at DESC, key_id LIMIT %(limit)s"
            ).format(_COLUMNS, where),
            {"tenant": tenant, "limit": limit},
        ).fetchall()
    return [_key(row) for row in rows]


def revoke(key_id: str, *, dsn: str | None = None) -> tuple[ApiKey, bool]:
    """End a key; tells whether it was in force until now. Takes the id, never the key itself.

    Raises:
        NotFoundError: there is no such key.
    """
    with connect(dsn, application_name="ai-hub keys") as connection:
        before = connection.execute(
            sql.SQL("SELECT {} FROM api_keys WHERE key_id = %s FOR UPDATE").format(_COLUMNS), [key_id]
        ).fetchone()
        row = connection.execute(
            sql.SQL(
                "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = %s RETURNING {}"
            ).format(_COLUMNS),
            [key_id],
        ).fetchone()
    if before is None:
        raise NotFoundError(f"There is no key {key_id[:12]!r}.", hint="See `ai-hub keys list` for the ids.")
    return _key(row), _key(before).state == "active"


def _key(row: Any) -> ApiKey:
    return ApiKey(*row)
