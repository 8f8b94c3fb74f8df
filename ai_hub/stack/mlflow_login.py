"""How MLflow's login is configured, wherever its server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from pathlib import Path

#: Signs the forms of MLflow's pages; the same for every worker.
SECRET_KEY: Final = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105 - the name of a variable
#: Checking a password takes a twentieth of a second, and MLflow does it several times a request. One that was
#: right is not checked again for this long; after a change other workers take the old one as long.
_CACHE_S: Final = 30


class LoginSettings(BaseSettings):
    """What turns the login of the embedded server on; for the server only, so not among `Settings`."""

    model_config = SettingsConfigDict(
        env_prefix="MLFLOW_AUTH_", env_file=".env", env_ignore_empty=True, extra="ignore"
    )

    admin_password: SecretStr | None = None


def configuration(database: str) -> str:
    """What `MLFLOW_AUTH_CONFIG_PATH` names; `database` (an SQLAlchemy URL) holds users, roles and grants."""
    escaped = database.replace("%", "%%")  # the file's format replaces %(name)s
    return (
        "[mlflow]\n"
        f"database_uri = {escaped}\n"
        "admin_username = admin\n"
        "default_permission = NO_PERMISSIONS\n"
        f"auth_cache_ttl_seconds = {_CACHE_S}\n"
        # it remembers for whose workspace something is also when nothing is there yet, so that one probe of
        # the next experiment's number would lock its tenant out
        "workspace_cache_ttl_seconds = 0\n"
    )


def variables(folder: Path, secret_key: str, password: SecretStr) -> dict[str, str]:
    """Variables of a server with login whose users are in `folder`."""
    config = folder / "login.ini"
    config.write_text(configuration(f"sqlite:///{folder / 'login.db'}"))
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password.get_secret_value(),
        SECRET_KEY: secret_key,
    }
