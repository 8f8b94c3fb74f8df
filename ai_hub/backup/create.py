"""Taking a backup of an installation: its databases and objects, as the settings name them."""

from __future__ import annotations

import configparser
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy.engine import make_url

from ai_hub import paths
from ai_hub.backup import embedded, objects, postgres
from ai_hub.backup.embedded import path_of
from ai_hub.backup.manifest import MANIFEST, Manifest, describe
from ai_hub.backup.objects import BucketPlace, FolderPlace
from ai_hub.backup.postgres import address
from ai_hub.backup.storage import open_storage
from ai_hub.errors import BadInputError, ConflictError
from ai_hub.servers import s3_client

if TYPE_CHECKING:
    from collections.abc import Collection

    from ai_hub.backup.embedded import EmbeddedServers
    from ai_hub.backup.manifest import Database, File
    from ai_hub.backup.storage import FolderStorage, S3Storage
    from ai_hub.settings import Settings


#: In the order of a backup: what refers to files goes before them, so that each file it names is kept.
PART_NAMES: Final = ("timescaledb", "mlflow", "mlflow-login", "feast", "models", "exports")


@dataclass(frozen=True)
class DatabasePart:
    """A database: `dsn` of a PostgreSQL server, or the file of an SQLite database."""

    name: str
    dsn: str | None = None
    path: Path | None = None
    #: the embedded TimescaleDB, which is a folder
    embedded: bool = False


Part = DatabasePart | BucketPlace | FolderPlace


def databases_of(settings: Settings, servers: EmbeddedServers) -> dict[str, DatabasePart]:
    """The databases by name.

    Raises:
        SettingMissingError: a setting that leads to one is missing.
    """
    databases = {
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
        if (part.dsn, part.path) != (databases["mlflow"].dsn, databases["mlflow"].path):
            databases["mlflow-login"] = part
    return databases


def objects_of(settings: Settings) -> dict[str, BucketPlace | FolderPlace]:
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


_PACKAGES: Final = ("ai-hub", "mlflow", "feast")


class Report(Protocol):
    """Receives the progress of a backup or restore."""

    def start(self, part: str) -> None:
        """A part is started."""

    def progress(self, done: int, total: int) -> None:
        """`done` of its `total` objects are finished."""

    def done(self, part: str, text: str) -> None:
        """A part is finished; `text` summarizes it."""


def backup(
    place: str,
    report: Report,
    servers: EmbeddedServers,
    settings: Settings,
    *,
    without: Collection[str] = (),
    with_secrets: bool = False,
) -> Manifest:
    """Back up everything to the folder or `s3://` address `place`.

    Databases go first, so every file that a version in them names is stored, too. The manifest goes last:
    after a kill before that, the same call starts over and reuses the objects that are there.

    Raises:
        ConflictError: there is a backup already.
        BadInputError: `place` or `without` is unusable.
        SettingMissingError: a setting that leads to a server is missing.
        ServiceDownError: a server does not answer.
    """
    if unknown := sorted(set(without) - set(PART_NAMES)):
        raise BadInputError(
            f"There is no part {', '.join(unknown)}.", hint=f"Parts are {', '.join(PART_NAMES)}."
        )
    storage = open_storage(place, settings)
    if storage.has(MANIFEST):
        raise ConflictError(f"{place} has a backup already.", hint="Name a new folder or prefix.")
    started = datetime.now(UTC)
    databases = {} if set(PART_NAMES[:4]) <= set(without) else databases_of(settings, servers)
    places = {} if set(PART_NAMES[4:]) <= set(without) else objects_of(settings)
    for name, source in places.items():
        if (
            isinstance(source, objects.BucketPlace)
            and source.bucket == storage.bucket
            and name not in without
        ):
            raise BadInputError(
                f"{place} is in the bucket of {name} itself.", hint="Use another bucket or a folder."
            )
    with storage.scratch() as scratch:
        dumps = {
            name: _database(part, storage, scratch, report)
            for name, part in databases.items()
            if name not in without
        }
        stored = {}
        for name, source in places.items():
            if name not in without:
                report.start(name)
                stored[name] = objects.backup(name, source, storage, scratch, report.progress)
                report.done(name, f"{stored[name].count:,} objects, {megabytes(stored[name].bytes)}")
        manifest = Manifest(
            id=secrets.token_hex(8),
            started_at=started,
            finished_at=datetime.now(UTC),
            versions={name: version(name) for name in _PACKAGES},
            databases=dumps,
            objects=stored,
            settings=_settings(settings, storage, scratch, with_secrets=with_secrets),
        )
        last = scratch / MANIFEST
        last.write_text(manifest.model_dump_json(indent=1))
        storage.put(MANIFEST, last)
    return manifest


def megabytes(count: int) -> str:
    """Bytes as text in MB."""
    return f"{count / 1e6:,.1f} MB"


def _database(
    part: DatabasePart, storage: FolderStorage | S3Storage, scratch: Path, report: Report
) -> Database:
    report.start(part.name)
    if part.embedded:
        kept = embedded.dump(part.name, part.dsn or "", scratch)
    elif part.dsn is not None:
        kept = postgres.dump(part.name, part.dsn, scratch, with_roles=part.name == "timescaledb")
    elif part.path is not None and part.path.exists():
        kept = embedded.dump_sqlite(part.name, part.path, scratch)
    else:
        raise BadInputError(
            f"{part.path}, the database of {part.name}, is not there.",
            hint=f"Leave it out: --without {part.name}",
        )
    storage.put(kept.file.path, scratch / kept.file.path)
    rows = sum(count for count, _ in kept.facts.tables.values())
    report.done(part.name, f"{len(kept.facts.tables)} tables, {rows:,} rows, {megabytes(kept.file.size)}")
    return kept


def _settings(
    settings: Settings, storage: FolderStorage | S3Storage, scratch: Path, *, with_secrets: bool
) -> list[File]:
    """The settings as a file that `.env` can be made of, and the promotion policy."""
    lines = []
    for name in sorted(type(settings).model_fields):
        value = getattr(settings, name)
        if value in {None, ""}:
            continue
        secret = isinstance(value, SecretStr)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        if secret and not with_secrets:
            text = _without_password(text)
        lines.append(f"{name.upper()}={text}" if text else f"# {name.upper()} is a secret and not kept")
    own = scratch / "settings.env"
    own.write_text("\n".join(lines) + "\n")
    files = [own]
    if settings.promotion_policy_path and (policy := Path(settings.promotion_policy_path)).is_file():
        files.append(scratch / "promotion_policy.yaml")
        files[-1].write_bytes(policy.read_bytes())
    files_kept = [describe(file, file.name) for file in files]
    for file in files:
        storage.put(file.name, file)
    return files_kept


def _without_password(text: str) -> str:
    """An address without its password; nothing of any other secret."""
    if "://" not in text:
        return ""
    parts = urlsplit(text)
    login, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login.partition(':')[0]}{at}{host}", query="").geturl()
