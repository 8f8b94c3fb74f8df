"""A drill on embedded servers: everything into a backup, from it into new servers, and compared."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest
from conftest import _spawn, isolated, migrated_data
from support import forked
from support.backup_drill import Silent, a_database_file, ask, content, dump, fill, s3, stored
from support.energy import ROOT

from ai_hub.access import api_keys
from ai_hub.access.principal import Scope
from ai_hub.backup.create import backup
from ai_hub.backup.restore import RestoredDifferentlyError, restore
from ai_hub.db.migrate import migrate
from ai_hub.db.refresh import refresh
from ai_hub.dev import processes
from ai_hub.dev.backup import RecordedServers
from ai_hub.dev.control import down, up
from ai_hub.dev.services import select
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.features.materialize import materialize
from ai_hub.features.store import open_store
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# what is the newest hour, and whether it is fresh, is compared
pytestmark = pytest.mark.usefixtures("hour")
SECRETS = ("timescale_password", "MINIO_SECRET_KEY", "redis_password")


class Servers:
    """An embedded stack in a folder, and files of SQLite for MLflow and Feast."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, database: Path | None) -> None:
        self.folder = folder
        patch.setattr(processes, "spawn", partial(_spawn, folder, database))
        patch.setenv("EXPORT_STORAGE_PATH", str(folder / "exports"))
        patch.setenv("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{folder / 'mlflow.db'}")
        up(select(["timescaledb", "redis", "s3"]), lambda *_, **__: None)
        migrate()  # as the command `up` does

    @property
    def environment(self) -> dict[str, str]:
        return Settings().environment()

    @property
    def dsn(self) -> str:
        return self.environment["TIMESCALE_DSN"]

    def state(self) -> dict[str, Any]:
        """All there is."""
        return {
            "tables": content(self.dsn),
            "mlflow": dump(self.folder / "mlflow.db"),
            "feast": dump(self.folder / "state" / "feast-registry.db"),
            "models": stored(s3(self.environment), "ml-models"),
            "exports": {
                str(path.relative_to(self.folder)): path.read_bytes()
                for path in (self.folder / "exports").rglob("*")
                if path.is_file()
            },
        }


class Kept(NamedTuple):
    """A backup, what was there, and what the service answered to a key."""

    place: Path
    state: dict[str, Any]
    key: str
    features: list[dict[str, Any]]


def features(key: str) -> list[dict[str, Any]]:
    """What the service answers of each feature set, and where from."""
    requests = [
        ("POST", "/ai/features/get", {"tenant_id": "acme", "asset_id": "meter", "feature_set": name})
        for name in ("forecast_basic", "forecast_advanced", "anomaly_detection")
    ]
    answers = [answer.json() for answer in asyncio.run(ask(key, *requests))]
    return [{name: answer[name] for name in ("features", "hour", "source")} for answer in answers]


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Data with all migrations applied, to begin with."""
    return migrated_data(tmp_path_factory.getbasetemp())


@pytest.fixture
def kept(tmp_path: Path, database: Path | None) -> Iterator[Kept]:
    """See `Kept`."""
    with isolated(tmp_path / "a" / "state") as patch:
        servers = Servers(tmp_path / "a", patch, database)
        try:
            fill(servers.dsn)
            refresh()
            a_database_file(servers.folder / "mlflow.db")
            done = forked.run(["feast", "apply"], os.environ | servers.environment, ROOT)
            assert done.returncode == 0, done.stderr
            materialize(open_store())
            _, key = api_keys.create("drill", ["acme"], list(Scope), created_by="test")
            client = s3(servers.environment)
            for path, body in {
                "acme/demand/v1.0.0/model": b"x" * 70_000,
                "acme/ü ?/a": b"",
                "b": b"x",
            }.items():
                client.put_object(Bucket="ml-models", Key=path, Body=body, Metadata={"fence": "7"})
            (servers.folder / "exports" / "acme").mkdir(parents=True)
            (servers.folder / "exports" / "acme" / "a.parquet").write_bytes(b"rows")
            answers = features(str(key))
            assert {answer["source"] for answer in answers} == {"redis"}
            backup(str(tmp_path / "kept"), Silent(), RecordedServers(), Settings())
            credentials = json.loads((tmp_path / "a" / "state" / "stack.json").read_text())["credentials"]
            for file in (tmp_path / "kept").glob("*.*"):
                text = b"" if file.suffix == ".tar" else file.read_bytes()
                assert not [name for name in SECRETS if credentials.get(name, "none").encode() in text], file
            yield Kept(tmp_path / "kept", servers.state(), str(key), answers)
        finally:
            down(select([]), purge=True, on_wait=lambda: None)


def test_drill__everything_comes_back_and_a_second_restore_into_used_servers_is_refused(
    kept: Kept, tmp_path: Path, database: Path | None
) -> None:
    place = kept.place
    with isolated(tmp_path / "b" / "state") as patch:
        servers = Servers(tmp_path / "b", patch, database)
        try:
            with pytest.raises(ConflictError, match="has a backup already"):
                backup(str(place), Silent(), RecordedServers(), Settings())
            damaged = tmp_path / "damaged"
            shutil.copytree(place, damaged)
            (damaged / "mlflow.sqlite").write_bytes(b"other")
            with pytest.raises(BadInputError, match=r"mlflow\.sqlite is damaged"):
                restore(str(damaged), Silent(), RecordedServers(), Settings())
            (damaged / "manifest.json").unlink()
            with pytest.raises(NotFoundError, match="no finished backup"):
                restore(str(damaged), Silent(), RecordedServers(), Settings())
            assert content(servers.dsn)["timeseries_data"][0] == 0
            assert not stored(s3(servers.environment), "ml-models")

            restore(str(place), Silent(), RecordedServers(), Settings())
            assert servers.state() == kept.state
            # as after a kill: what is there already stays
            s3(servers.environment).delete_object(Bucket="ml-models", Key="b")
            restore(str(place), Silent(), RecordedServers(), Settings())
            assert servers.state() == kept.state

            # one command fills Redis, which is in no backup
            assert sum(materialize(open_store()).rows.values()) == 10
            answers = features(kept.key)
            assert {answer["source"] for answer in answers} == {"redis"}
            # unless another hour has begun meanwhile
            assert answers == kept.features or answers[0]["hour"] > kept.features[0]["hour"]

            with psycopg.connect(servers.dsn) as connection:
                connection.execute("DELETE FROM timeseries_data WHERE tenant_id = 'beta'")
            with pytest.raises(ConflictError, match=r"is not empty: it has rows in .*ai_feature") as refusal:
                restore(str(place), Silent(), RecordedServers(), Settings())
            assert "--purge" in str(refusal.value.hint)
            assert content(servers.dsn)["timeseries_data"][0] == 200
        finally:
            down(select([]), purge=True, on_wait=lambda: None)


def test_differences__are_shown_with_what_to_do() -> None:
    error = RestoredDifferentlyError([f"table t{number}" for number in range(20)])
    assert "20 things are not as they were" in error.message
    assert error.message.endswith("and 8 more")
