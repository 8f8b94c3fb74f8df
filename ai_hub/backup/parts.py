"""What belongs to an installation: its databases and objects, as the settings name them."""

from __future__ import annotations

import configparser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url

from ai_hub import paths
from ai_hub.backup.objects import BucketPlace, FolderPlace
from ai_hub.backup.postgres import address
from ai_hub.backup.sqlite import path_of
from ai_hub.errors import BadInputError
from ai_hub.servers import s3_client

if TYPE_CHECKING:
    from ai_hub.backup.embedded import EmbeddedServers
    from ai_hub.settings import Settings

#: In the order of a backup: what refers to files goes before them, so that each file it names is kept.
NAMES: Final = ("timescaledb", "mlflow", "mlflow-login", "feast", "models", "exports")


@dataclass(frozen=True)
class DatabasePart:
    """A database: `dsn` of a PostgreSQL server, or the file of an SQLite database."""

    name: str
    dsn: str | None = None
    path: Path | None = None
    #: the embedded TimescaleDB, which is a folder
    embedded: bool = False


Part = DatabasePart | BucketPlace | FolderPlace


def databases(settings: Settings, servers: EmbeddedServers) -> dict[str, DatabasePart]:
    """The databases by name.

    Raises:
        SettingMissingError: a setting that leads to one is missing.
    """
    found = {
        "timescaledb": DatabasePart(
            "timescaledb",
            dsn=settings.direct(settings.require("timescale_dsn")),
            embedded=servers.includes("timescaledb"),
        ),
        "mlflow": _of_url("mlflow", settings.direct(settings.require("mlflow_backend_store_uri"))),
        "feast": _of_url("feast", settings.direct(settings.require("feast_registry_uri"))),
    }
    if (login := _login_database(servers)) is not None:
        part = _of_url("mlflow-login", login)
        if (part.dsn, part.path) != (found["mlflow"].dsn, found["mlflow"].path):
            found["mlflow-login"] = part
    return found


def objects(settings: Settings) -> dict[str, BucketPlace | FolderPlace]:
    """Buckets and folders by name.

    Raises:
        SettingMissingError: the S3 store is not configured.
        BadInputError: EXPORT_STORAGE_PATH is unusable.
    """
    client = s3_client(settings)
    models = BucketPlace(client, settings.model_storage_bucket)
    root = settings.export_storage_path
    if "://" not in root:
        return {"models": models, "exports": FolderPlace(Path(root).absolute())}
    parts = urlsplit(root)
    if parts.scheme != "s3" or not parts.netloc:
        raise BadInputError(
            f"EXPORT_STORAGE_PATH {root!r} is no place for exports.",
            hint="Use a folder, or s3://bucket/prefix.",
        )
    prefix = parts.path.strip("/")
    if parts.netloc == models.bucket:  # the bucket of models is kept whole
        return {"models": models}
    return {"models": models, "exports": BucketPlace(client, parts.netloc, f"{prefix}/" if prefix else "")}


def _of_url(name: str, url: str) -> DatabasePart:
    if (path := path_of(url)) is not None:
        return DatabasePart(name, path=path)
    if make_url(url).get_backend_name() != "postgresql":
        raise BadInputError(
            f"The database of {name} is neither PostgreSQL nor SQLite.",
            hint="Back it up with its own tools, and use --without.",
        )
    return DatabasePart(name, dsn=address(url))


def _login_database(servers: EmbeddedServers) -> str | None:
    """Address of the users of the embedded MLflow; containers keep them in MLflow's own database."""
    config = paths.state_dir() / "mlflow" / "login.ini"
    if not servers.includes("mlflow") or not config.exists():
        return None
    parser = configparser.ConfigParser()
    parser.read(config)
    return parser.get("mlflow", "database_uri", fallback=None)
