"""Bringing a backup into empty servers."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.version import Version

from ai_hub.backup import embedded, objects, postgres
from ai_hub.backup.create import databases_of, megabytes, objects_of
from ai_hub.backup.manifest import MANIFEST, Manifest, parse
from ai_hub.backup.storage import copy, fetch, open_storage
from ai_hub.db.provision import provision_databases
from ai_hub.errors import AiHubError, BadInputError, ConflictError, NotFoundError

if TYPE_CHECKING:
    from ai_hub.backup.create import Report
    from ai_hub.backup.embedded import EmbeddedServers
    from ai_hub.backup.manifest import Database, Entry
    from ai_hub.backup.storage import FolderStorage, S3Storage
    from ai_hub.settings import Settings

#: Rows of MLflow's and Feast's tables before anybody has used them.
_OF_ANY_START: Final = {
    "alembic_version": 1,
    "alembic_version_auth": 1,
    "lifecycle_schema": 2,
    "experiments": 1,
    "workspaces": 1,
    "users": 1,
    # whoever opens the registry writes these
    "feast_metadata": 10,
    "projects": 1,
}
_SHOWN: Final = 12


class RestoredDifferentlyError(AiHubError):
    """What was restored is not what was backed up."""

    def __init__(self, differences: list[str]) -> None:
        self.differences = tuple(differences)
        more = f"\nand {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        super().__init__(
            f"{len(differences)} things are not as they were in the backup:\n"
            + "\n".join(differences[:_SHOWN])
            + more,
            hint="If something writes to these servers already, stop it, empty them and restore again.",
        )


def restore(place: str, report: Report, servers: EmbeddedServers, settings: Settings) -> Manifest:
    """Restore the backup at `place` into the servers of the settings, which must be empty, and compare.

    Everything is checked before anything is written. After a kill, the same call resumes.

    Raises:
        NotFoundError: there is no finished backup.
        BadInputError: it is damaged, or does not fit these servers.
        ConflictError: a server is not empty; says what is in the way.
        RestoredDifferentlyError: something did not come back as it was.
    """
    storage = open_storage(place, settings)
    with tempfile.TemporaryDirectory(prefix="ai-hub-restore-") as folder:
        scratch = Path(folder)
        if not storage.has(MANIFEST):
            raise NotFoundError(
                f"{place} has no finished backup.",
                hint=f"{MANIFEST} is its last file; is this the right folder?",
            )
        manifest = parse(storage.get(MANIFEST, scratch).read_bytes(), place)
        if Version(manifest.versions["mlflow"]) > Version(version("mlflow")):
            raise BadInputError(
                f"The backup is of MLflow {manifest.versions['mlflow']}; {version('mlflow')} is installed.",
                hint="Restore with the version of ai-hub that made it.",
            )
        _Restore(manifest, storage, scratch, settings=settings, report=report, servers=servers).run()
        return manifest


class _Restore:
    """One call."""

    def __init__(
        self,
        manifest: Manifest,
        storage: FolderStorage | S3Storage,
        scratch: Path,
        *,
        settings: Settings,
        report: Report,
        servers: EmbeddedServers,
    ) -> None:
        self._manifest = manifest
        self._storage = storage
        self._scratch = scratch
        self._settings = settings
        self._report = report
        self._servers = servers
        self._parts = databases_of(settings, servers) if manifest.databases else {}
        self._places = objects_of(settings) if manifest.objects else {}
        self._entries: dict[str, list[Entry]] = {}
        #: databases that an interrupted call has restored
        self._present: set[str] = set()

    def run(self) -> None:
        """Check, write, compare."""
        outside = "timescaledb" in self._manifest.databases and not self._parts["timescaledb"].embedded
        if outside:
            self._note_filled("timescaledb")  # before anything is made on a server that is in use
            provision_databases(self._settings)
        files = self._check()
        # both keep files of SQLite open, which are replaced
        replaced = any(self._parts[name].path and name not in self._present for name in files)
        readers = [name for name in ("mlflow", "api") if replaced and self._servers.is_running(name)]
        with self._servers.stopped(*readers):
            for name, kept in self._manifest.databases.items():
                self._report.start(name)
                if name not in self._present:
                    self._database(name, kept, files[name])
                self._report.done(name, f"{len(kept.facts.tables)} tables, {megabytes(kept.file.size)}")
        for name, place in self._places.items():
            if name in self._entries:
                self._report.start(name)
                place.prepare()
                objects.restore(
                    place, self._entries[name], self._storage, self._scratch, self._report.progress
                )
                self._report.done(name, f"{len(self._entries[name]):,} objects")
        if outside:
            provision_databases(self._settings)  # rights on tables that are there now
        self._report.start("comparison")
        differences = [
            line for name, kept in self._manifest.databases.items() for line in self._compare(name, kept)
        ]
        if differences:
            raise RestoredDifferentlyError(differences)
        for part in self._parts.values():
            if part.dsn and not part.embedded and part.name in self._manifest.databases:
                postgres.finish(part.dsn, self._manifest.databases[part.name])
        self._report.done("comparison", "every table, right and object is as it was")

    def _check(self) -> dict[str, Path]:
        """Nothing is written before all of this holds; returns the databases' files."""
        files = {}
        for name, kept in self._manifest.databases.items():
            if name not in self._parts:
                raise BadInputError(
                    f"The backup has {name}, and these settings have none.",
                    hint="Use the settings it was made with.",
                )
            self._note_filled(name)
            files[name] = fetch(self._storage, kept.file, self._scratch)
        for name, kept_objects in self._manifest.objects.items():
            if name not in self._places:
                raise BadInputError(f"The backup has {name}, and these settings have none.")
            self._entries[name] = objects.read_index(kept_objects, self._storage, self._scratch)
            objects.refuse_if_filled(name, self._places[name], self._entries[name])
        return files

    def _note_filled(self, name: str) -> None:
        if self._is_filled_already(name, self._manifest.databases[name]):
            self._present.add(name)

    def _is_filled_already(self, name: str, kept: Database) -> bool:
        part = self._parts[name]
        kind = "folder" if part.embedded else "sqlite" if part.path else "postgresql"
        if kind != kept.kind:
            raise BadInputError(
                f"{name} of the backup is a {kept.kind} database, and that of these settings a {kind} one.",
                hint="Restore embedded servers into embedded ones (`ai-hub up`), others into their like.",
            )
        if part.embedded:
            if not embedded.compare(name, part.dsn or "", kept):
                return True
            embedded.check(name, part.dsn or "", kept)
        elif part.path is not None:
            if part.path.exists() and embedded.gather_sqlite(part.path) == kept.facts:
                return True
            if filled := embedded.filled_sqlite_tables(part.path, _OF_ANY_START):
                raise ConflictError(
                    f"{part.path} ({name}) is not empty: it has rows in {', '.join(filled[:_SHOWN])}.",
                    hint="A restore goes into empty servers only (`ai-hub down --purge`).",
                )
        else:
            return postgres.check(name, part.dsn or "", kept, self._manifest.id)
        return False

    def _database(self, name: str, kept: Database, file: Path) -> None:
        part = self._parts[name]
        if part.embedded:
            embedded.restore(file, self._servers)
        elif part.path is not None:
            for beside in ("-wal", "-shm", "-journal"):
                part.path.with_name(part.path.name + beside).unlink(missing_ok=True)
            copy(file, part.path)
            part.path.chmod(0o600)
        else:
            postgres.restore(part.dsn or "", kept, file, self._scratch, self._manifest.id)

    def _compare(self, name: str, kept: Database) -> list[str]:
        part = self._parts[name]
        if part.embedded:
            return embedded.compare(name, part.dsn or "", kept)
        if part.path is not None:
            return embedded.compare_sqlite(name, part.path, kept)
        return postgres.compare(name, part.dsn or "", kept)
