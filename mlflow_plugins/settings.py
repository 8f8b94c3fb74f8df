"""Settings of the MLflow server; importing this needs no MLflow, because clients share the class."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from mlflow_plugins.errors import conflict


class RegistrySettings(BaseSettings):
    """What the plugins read from the environment or `.env`: variables with the fields' names in capitals."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore")

    minio_endpoint_url: str | None = Field(None, description="S3 endpoint that holds model artifacts")
    minio_access_key: SecretStr | None = None
    minio_secret_key: SecretStr | None = None
    promotion_policy_path: str | None = Field(
        None, description="YAML file that says which gates guard Production; only the MLflow server reads it"
    )
    audit_log_path: Path | None = Field(
        None, description="file the MLflow server appends its audit log to; default: its standard output"
    )
    notify_receivers: SecretStr | None = Field(
        None,
        description="who hears of promotions (docs/notifications.md); MLflow's server alone reads this and "
        "the other NOTIFY_ settings",
    )
    notify_secret: SecretStr | None = Field(None, description="key that webhooks are signed with")
    notify_allowed_hosts: str = Field(
        "", description="hosts and networks, with commas between, that webhooks reach by http or in private"
    )
    notify_smtp_url: SecretStr | None = Field(
        None, description="smtp(s)://[user:password@]host[:port] that e-mail is sent by"
    )
    notify_sender: str | None = Field(None, description="address that e-mail is sent from")
    notify_pages_url: str | None = Field(
        None, description="address of MLflow's pages, for links in what is sent"
    )
    ai_hub_delegates: str = Field(
        "",
        description="accounts of MLflow's login, with commas between, that may name whom they act for (the "
        "REST service does); only the MLflow server reads it",
    )
    ai_hub_mlflow_assistant: bool = Field(
        False, description="whether MLflow's pages have its assistant; only the MLflow server reads it"
    )

    def require(self, name: str) -> str:
        """Value of setting `name` (lower case), in clear text.

        Raises:
            MlflowException: 409, it is not set.
        """
        value = getattr(self, name)
        if value is None:
            raise conflict(f"{name.upper()} is not set. Set it for the MLflow server and start that again.")
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def current_settings() -> RegistrySettings:
    """The settings as they are now, read anew only where the environment or `.env` has changed.

    Reading them takes milliseconds, and a promotion asks several times.
    """
    file: tuple[int, ...] = ()
    with suppress(OSError):
        found = Path(".env").stat()
        file = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return _read(frozenset(os.environ.items()), file)


@lru_cache(maxsize=1)
def _read(environment: frozenset[tuple[str, str]], file: tuple[int, ...]) -> RegistrySettings:
    del environment, file  # what it depends on
    return RegistrySettings()
