"""How MLflow's login is configured, wherever its server runs."""

from __future__ import annotations

from typing import Final

#: Checking a password takes a twentieth of a second, and MLflow does it several times a request. One that was
#: right is not checked again for this long; after a change other workers take the old one as long.
_CACHE_S: Final = 30


def configuration(database: str) -> str:
    """What `MLFLOW_AUTH_CONFIG_PATH` names; `database` (an SQLAlchemy URL) holds users, roles and grants."""
    escaped = database.replace("%", "%%")  # the file's format replaces %(name)s
    return (
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = {escaped}\n"
        f"auth_cache_ttl_seconds = {_CACHE_S}\n"
        # it remembers for whose workspace something is also when nothing is there yet, so that one probe of
        # the next experiment's number would lock its tenant out
        "workspace_cache_ttl_seconds = 0\n"
    )
