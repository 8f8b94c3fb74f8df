"""Taking a backup."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from ai_hub.backup import embedded, objects, parts, postgres, sqlite
from ai_hub.backup.manifest import MANIFEST, Manifest, describe
from ai_hub.backup.storage import open_storage
from ai_hub.errors import BadInputError, ConflictError

if TYPE_CHECKING:
    from collections.abc import Collection

    from ai_hub.backup.embedded import EmbeddedServers
    from ai_hub.backup.manifest import Database, File
    from ai_hub.backup.storage import FolderStorage, S3Storage
    from ai_hub.settings import Settings

_PACKAGES: Final = ("ai-hub", "mlflow", "feast")


class Report(Protocol):
    """Where a backup or restore says how far it is."""

    def start(self, part: str) -> None:
        """Work on a part begins."""

    def progress(self, done: int, total: int) -> None:
        """So many of its objects are done."""

    def done(self, part: str, text: str) -> None:
        """It is done: what it is, in a few words."""


def backup(
    place: str,
    report: Report,
    servers: EmbeddedServers,
    settings: Settings,
    *,
    without: Collection[str] = (),
    with_secrets: bool = False,
) -> Manifest:
    """Keep everything in the folder or at the `s3://` address `place`.

    Databases go first, so every file that a version in them names is kept, too. The manifest goes last:
    killed before, the same call begins anew and uses the objects that are there.

    Raises:
        ConflictError: there is a backup already.
        BadInputError: `place` or `without` is unusable.
        SettingMissingError: a setting that leads to a server is missing.
        ServiceDownError: a server does not answer.
    """
    if unknown := sorted(set(without) - set(parts.NAMES)):
        raise BadInputError(
            f"There is no part {', '.join(unknown)}.", hint=f"Parts are {', '.join(parts.NAMES)}."
        )
    storage = open_storage(place, settings)
    if storage.has(MANIFEST):
        raise ConflictError(f"{place} has a backup already.", hint="Name a new folder or prefix.")
    started = datetime.now(UTC)
    databases = {} if set(parts.NAMES[:4]) <= set(without) else parts.databases(settings, servers)
    places = {} if set(parts.NAMES[4:]) <= set(without) else parts.objects(settings)
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
        kept = {
            name: _database(part, storage, scratch, report)
            for name, part in databases.items()
            if name not in without
        }
        counted = {}
        for name, source in places.items():
            if name not in without:
                report.start(name)
                counted[name] = objects.backup(name, source, storage, scratch, report.progress)
                report.done(name, f"{counted[name].count:,} objects, {megabytes(counted[name].bytes)}")
        manifest = Manifest(
            id=secrets.token_hex(8),
            started_at=started,
            finished_at=datetime.now(UTC),
            versions={name: version(name) for name in _PACKAGES},
            databases=kept,
            objects=counted,
            settings=_settings(settings, storage, scratch, with_secrets=with_secrets),
        )
        last = scratch / MANIFEST
        last.write_text(manifest.model_dump_json(indent=1))
        storage.put(MANIFEST, last)
    return manifest


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"


def _database(
    part: parts.DatabasePart, storage: FolderStorage | S3Storage, scratch: Path, report: Report
) -> Database:
    report.start(part.name)
    if part.embedded:
        kept = embedded.dump(part.name, part.dsn or "", scratch)
    elif part.dsn is not None:
        kept = postgres.dump(part.name, part.dsn, scratch, with_roles=part.name == "timescaledb")
    elif part.path is not None and part.path.exists():
        kept = sqlite.dump(part.name, part.path, scratch)
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
    kept = [describe(file, file.name) for file in files]
    for file in files:
        storage.put(file.name, file)
    return kept


def _without_password(text: str) -> str:
    """An address without its password; nothing of any other secret."""
    if "://" not in text:
        return ""
    parts = urlsplit(text)
    login, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login.partition(':')[0]}{at}{host}", query="").geturl()
