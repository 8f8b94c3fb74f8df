"""Backups in a bucket: taken, restored, and refused with what to do."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest
from conftest import isolated
from support.backup_drill import Silent, a_database_file, dump, s3, stored
from typer.testing import CliRunner

from ai_hub.backup.create import backup
from ai_hub.backup.restore import restore
from ai_hub.cli.errors import explain
from ai_hub.cli.main import app
from ai_hub.dev.backup import RecordedServers
from ai_hub.errors import BadInputError, ConflictError, NotFoundError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Stack

WITHOUT = ("timescaledb", "mlflow-login")


class Installation:
    """Databases of SQLite in a folder, and buckets in the embedded S3."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, client: Any) -> None:
        self.folder, self.client = folder, client
        self.buckets = [f"backup-{name}-{secrets.token_hex(4)}" for name in ("models", "exports")]
        patch.setenv("TIMESCALE_DSN", "postgresql://nobody@127.0.0.1:1/none")
        patch.setenv("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("FEAST_REGISTRY_URI", f"sqlite:///{folder / 'feast.db'}")
        patch.setenv("MODEL_STORAGE_BUCKET", self.buckets[0])
        patch.setenv("EXPORT_STORAGE_PATH", f"s3://{self.buckets[1]}/some/where")

    def state(self) -> list[Any]:
        return [
            *(stored(self.client, bucket) for bucket in self.buckets),
            *(dump(self.folder / name) for name in ("mlflow.db", "feast.db")),
        ]


@pytest.fixture
def s3_settings(servers: Stack, tmp_path: Path) -> Iterator[tuple[pytest.MonkeyPatch, Any]]:
    environment = servers.start("s3")
    with isolated(tmp_path / "state") as patch:
        for name, value in environment.items():
            if name.startswith("MINIO_"):
                patch.setenv(name, value)
        yield patch, s3(environment)


def test_bucket__everything_comes_back(s3_settings: tuple[pytest.MonkeyPatch, Any], tmp_path: Path) -> None:
    patch, client = s3_settings
    kept = f"backups-{secrets.token_hex(4)}"
    place = f"s3://{kept}/weekly/2026-11-29"
    source = Installation(tmp_path, patch, client)
    for name in source.buckets:
        client.create_bucket(Bucket=name)
    a_database_file(tmp_path / "mlflow.db")
    a_database_file(tmp_path / "feast.db")
    for number in range(5):
        client.put_object(Bucket=source.buckets[0], Key=f"acme/m/{number}", Body=b"x" * number * 1000)
    client.put_object(Bucket=source.buckets[1], Key="some/where/acme/ü.parquet", Body=b"rows")

    with pytest.raises(BadInputError, match="is in the bucket of models itself"):
        backup(f"s3://{source.buckets[0]}/backups", Silent(), RecordedServers(), Settings(), without=WITHOUT)
    client.create_bucket(Bucket=kept)
    manifest = backup(place, Silent(), RecordedServers(), Settings(), without=WITHOUT)
    assert manifest.objects["models"].count == 5
    assert all(key.startswith("weekly/2026-11-29/") for key in stored(client, kept))
    with pytest.raises(ConflictError, match="has a backup already"):
        backup(place, Silent(), RecordedServers(), Settings(), without=WITHOUT)
    before = source.state()

    (tmp_path / "b").mkdir()
    target = Installation(tmp_path / "b", patch, client)
    with pytest.raises(NotFoundError, match="no finished backup"):
        restore(f"s3://{kept}/weekly", Silent(), RecordedServers(), Settings())
    restore(place, Silent(), RecordedServers(), Settings())
    assert target.state() == before
    client.put_object(Bucket=target.buckets[0], Key="other", Body=b"")
    with pytest.raises(ConflictError, match="is not empty"):
        restore(place, Silent(), RecordedServers(), Settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [("MINIO_SECRET_KEY", "wrong-secret-key"), ("MINIO_ENDPOINT_URL", "http://127.0.0.1:1")],
)
def test_bucket__wrong_key_or_no_store__one_line(
    s3_settings: tuple[pytest.MonkeyPatch, Any], tmp_path: Path, name: str, value: str
) -> None:
    patch, client = s3_settings
    Installation(tmp_path, patch, client)
    patch.setenv(name, value)
    for command in ("backup", "restore"):
        result = CliRunner().invoke(app, [command, "s3://backups/here"])
        assert result.exception is not None
        failure = explain(result.exception)
        assert failure.exit_code == 3, failure
        assert "S3" in failure.message
        assert value not in failure.message or name == "MINIO_ENDPOINT_URL"
