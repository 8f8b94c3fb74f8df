"""Results written as Parquet or as tables: complete or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    SavedDatasetPostgreSQLStorage,
)
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SavedDatasetSparkStorage
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from feast_plugins.errors import ExportLocationMissingError, QueryTimeoutError, SavedDatasetStorageError
from feast_plugins.offline import jobs
from feast_plugins.offline.jobs import QueryJob
from feast_plugins.offline_store import TimescaleOfflineStoreConfig

if TYPE_CHECKING:
    from pathlib import Path

ROWS = (
    "SELECT n AS id, n / 4.0::float8 AS value, 'a' || n AS name, array[n, NULL] AS numbers"
    " FROM generate_series(1, {}) AS n"
)


def broken(rows: int) -> str:
    """Fails on the server when most rows have been sent."""
    return f"{ROWS.format(rows)} WHERE 1 / (n - {rows - 1}) < 2"


@pytest.fixture
def config(native_postgres: str) -> TimescaleOfflineStoreConfig:
    url = urlsplit(native_postgres)
    return TimescaleOfflineStoreConfig(
        host=url.hostname, port=url.port, database=url.path[1:], user=url.username, password=url.password,
        sslmode="disable",
    )  # fmt: skip


def job(config: TimescaleOfflineStoreConfig, query: str) -> QueryJob:
    return QueryJob(config, query)


def test_persist__parquet__appears_complete_and_is_not_overwritten_unasked(
    config: TimescaleOfflineStoreConfig, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "set.parquet"
    storage = SavedDatasetFileStorage(str(path))
    job(config, ROWS.format(200_000)).persist(storage)
    written = pq.ParquetFile(path)
    assert written.metadata.num_rows == 200_000
    assert written.read().slice(1, 1).to_pylist() == [
        {"id": 2, "value": 0.5, "name": "a2", "numbers": [2, None]}
    ]
    before = path.read_bytes()
    with pytest.raises(SavedDatasetLocationAlreadyExists, match="already exists"):
        job(config, ROWS.format(1)).persist(storage)
    with pytest.raises(OSError, match="division by zero"):
        job(config, broken(300_000)).persist(storage, allow_overwrite=True)
    assert path.read_bytes() == before
    job(config, ROWS.format(1)).persist(storage, allow_overwrite=True)
    assert pq.read_table(path).num_rows == 1
    assert list(path.parent.iterdir()) == [path]


def test_persist__table__appears_complete_and_is_not_overwritten_unasked(
    config: TimescaleOfflineStoreConfig, native_postgres: str
) -> None:
    storage = SavedDatasetPostgreSQLStorage("saved_rows")
    job(config, ROWS.format(12_000)).persist(storage)
    job(config, "SELECT 1::int2 AS n, NULL::text AS t, now() AS at").persist(
        SavedDatasetPostgreSQLStorage("saved_plain")
    )
    with pytest.raises(SavedDatasetLocationAlreadyExists, match="saved_rows already exists"):
        job(config, ROWS.format(1)).persist(storage)
    with pytest.raises(OSError, match="division by zero"):
        job(config, broken(40_000)).persist(storage, allow_overwrite=True)
    with psycopg.connect(native_postgres) as connection:
        assert connection.execute("SELECT count(*), max(numbers) FROM saved_rows").fetchone() == (
            12_000,
            [12_000, None],
        )
        assert connection.execute("SELECT n, t, pg_typeof(at)::text FROM saved_plain").fetchone() == (
            1,
            None,
            "timestamp with time zone",
        )
    job(config, ROWS.format(1)).persist(storage, allow_overwrite=True)
    with psycopg.connect(native_postgres) as connection:
        assert connection.execute("SELECT count(*) FROM saved_rows").fetchone() == (1,)


def test_persist__another_storage__says_which_there_are(config: TimescaleOfflineStoreConfig) -> None:
    with pytest.raises(SavedDatasetStorageError, match="instead of SavedDatasetSparkStorage"):
        job(config, ROWS.format(1)).persist(SavedDatasetSparkStorage(path="x", file_format="parquet"))


def test_to_remote_storage__s3__gives_the_addresses_of_files_with_all_rows(
    config: TimescaleOfflineStoreConfig, stack: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, bucket = stack["MINIO_ENDPOINT_URL"], stack["MODEL_STORAGE_BUCKET"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stack["MINIO_ACCESS_KEY"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stack["MINIO_SECRET_KEY"])
    monkeypatch.setattr(jobs, "_FILE", 60_000)
    there = config.model_copy(
        update={"export_location": f"s3://{bucket}/exports/", "export_s3_endpoint": endpoint}
    )
    export = job(there, ROWS.format(100_000))
    assert export.supports_remote_storage_export()
    addresses = export.to_remote_storage()
    with pytest.raises(OSError, match="division by zero"):
        job(there, broken(300_000)).to_remote_storage()
    actual = boto3.client("s3", endpoint_url=endpoint).list_objects_v2(Bucket=bucket, Prefix="exports/")
    keys = {f"s3://{bucket}/{entry['Key']}" for entry in actual["Contents"] if not entry["Key"].endswith("/")}
    assert set(addresses) == keys  # the broken one left nothing
    assert len(addresses) == 2
    tables = [_read(address, endpoint) for address in addresses]
    assert pa.concat_tables(tables)["id"].to_pylist() == list(range(1, 100_001))


def test_to_remote_storage__no_location__says_what_to_set(config: TimescaleOfflineStoreConfig) -> None:
    assert not job(config, ROWS.format(1)).supports_remote_storage_export()
    with pytest.raises(ExportLocationMissingError, match="export_location"):
        job(config, ROWS.format(1)).to_remote_storage()


@pytest.mark.parametrize(
    "wait", ["SELECT pg_sleep(20)", "SELECT pg_sleep(n / 1000) FROM generate_series(1, 20000) AS n"]
)
def test_to_arrow__longer_than_allowed__is_cancelled_on_the_server(
    config: TimescaleOfflineStoreConfig, native_postgres: str, wait: str
) -> None:
    by_config = config.model_copy(update={"statement_timeout_s": 0.2})
    with pytest.raises(QueryTimeoutError, match=r"did not finish within 0\.2 s"):
        job(by_config, wait).to_arrow()
    with pytest.raises(QueryTimeoutError, match="did not finish within 1 s"):
        job(config, wait).to_df(timeout=1)
    with psycopg.connect(native_postgres) as connection:
        left: Any = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
        ).fetchone()
    assert left == (0,)


def _read(address: str, endpoint: str) -> pa.Table:
    source = SavedDatasetFileStorage(address, s3_endpoint_override=endpoint).to_data_source()
    filesystem, path = source.create_filesystem_and_path(address, endpoint)
    return pq.read_table(path, filesystem=filesystem)
