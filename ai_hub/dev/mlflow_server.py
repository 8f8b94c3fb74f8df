"""The MLflow server with our plugins, and the configuration of its login."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from ai_hub import paths
from ai_hub.dev.service import LOOPBACK, Service, Site
from ai_hub.servers import check_http

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def login_configuration(database: str) -> str:
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


def login_variables(folder: Path, secret_key: str, password: SecretStr) -> dict[str, str]:
    """Variables of a server with login whose users are in `folder`."""
    config = folder / "login.ini"
    config.write_text(login_configuration(f"sqlite:///{folder / 'login.db'}"))
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password.get_secret_value(),
        SECRET_KEY: secret_key,
    }


#: The registry plugin's schemes are MLflow's own with this in front.
_REGISTRY_SCHEME = "lifecycle+"
_SETTINGS = (
    *("MINIO_ENDPOINT_URL", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MODEL_STORAGE_BUCKET"),
    *("FEAST_REGISTRY_URI", "PROMOTION_POLICY_PATH", "AUDIT_LOG_PATH", "AI_HUB_DELEGATES"),
    *("NOTIFY_RECEIVERS", "NOTIFY_SECRET", "NOTIFY_ALLOWED_HOSTS"),
    *("NOTIFY_SMTP_URL", "NOTIFY_SENDER", "NOTIFY_PAGES_URL"),
    "AI_HUB_MLFLOW_ASSISTANT",
)
#: Client settings of the caller that would mislead a server. With S3 keys under their usual names MLflow
#: would read whatever `s3://` location some client makes up, other tenants' folders included.
CLIENT_VARIABLES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_WORKSPACE"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"),
    # Feast sets them in whatever imports it, and removes the folder when that ends
    *("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR"),
)


def arguments(*, host: str, port: int, workers: int, bucket: str, login: bool) -> list[str]:
    """Arguments of `mlflow` wherever the server runs; addresses with secrets come from the environment."""
    return [
        "server",
        f"--app-name={'ai-hub-auth' if login else 'ai-hub'}",
        f"--host={host}",
        f"--port={port}",
        f"--workers={workers}",
        "--enable-workspaces",
        "--serve-artifacts",
        f"--artifacts-destination=minio://{bucket}",
    ]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Variables the server needs: its databases, the S3 store, and what promotion gates ask."""
    database = settings["MLFLOW_BACKEND_STORE_URI"]
    no_reports = os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true")
    return {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_REGISTRY_STORE_URI": f"{_REGISTRY_SCHEME}{database}",
        **{name: settings[name] for name in _SETTINGS if name in settings},
        "MLFLOW_DISABLE_TELEMETRY": no_reports,
        "DO_NOT_TRACK": no_reports,
        # Background jobs are for judging language models; each would cost a process and half a gigabyte.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


class MlflowService(Service):
    """Tracking server, model registry, artifact proxy and UI."""

    name = "mlflow"
    title = "MLflow"
    setting = "MLFLOW_TRACKING_URI"
    port_field = "mlflow_port"
    secrets = (SECRET_KEY,)
    start_timeout_s = 120

    def endpoint(self, port: int) -> str:
        """URL."""
        return f"http://{LOOPBACK}:{port}"

    def exports(self, site: Site) -> dict[str, str]:
        """Where clients find it, the database only the server itself reads, and the promotion policy."""
        return {
            self.setting: self.endpoint(site.port),
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{site.folder / 'mlflow.db'}",
            "PROMOTION_POLICY_PATH": str(paths.resource("policy") / "promotion_policy.yaml"),
        }

    def command(self, site: Site, settings: Mapping[str, str]) -> list[str]:
        """`mlflow server` with one worker; with login if its administrator was given a password."""
        bucket = settings["MODEL_STORAGE_BUCKET"]
        login = LoginSettings().admin_password is not None
        return [
            sys.executable,
            "-m",
            "mlflow",
            *arguments(host=LOOPBACK, port=site.port, workers=1, bucket=bucket, login=login),
        ]

    def environment(self, site: Site, settings: Mapping[str, str]) -> dict[str, str]:
        """See `environment`."""
        variables = environment(settings)
        if password := LoginSettings().admin_password:
            variables |= login_variables(site.folder, site.credentials[SECRET_KEY], password)
        for name in ("PROMOTION_POLICY_PATH", "AUDIT_LOG_PATH"):
            if path := variables.get(name):
                variables[name] = str(Path(path).resolve())  # it runs in another folder
        return variables

    def check(self, settings: Mapping[str, str], timeout_s: float) -> None:
        """`/health`."""
        check_http(f"{settings[self.setting].rstrip('/')}/health", timeout_s)
