"""Each plugin package in an empty environment, under the commands of stock MLflow and stock Feast."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import requests
from psycopg import sql
from support.distributions import build_wheel
from support.service_process import free_port
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from ai_hub.settings import feast_redis_connection, postgres_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@dataclass
class Environment:
    """A virtual environment that has one of our wheels and what it depends on."""

    folder: Path

    def variables(self, **more: str) -> dict[str, str]:
        """Of a process in it: nothing of this one's settings."""
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        return {**kept, "PATH": path, "HOME": str(self.folder), **more}

    def run(self, *command: str, folder: Path, **variables: str) -> str:
        """Output of a command that succeeds."""
        done = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
            env=self.variables(**variables),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def environment(package: str, folder: Path) -> Environment:
    """An environment with the package's wheel and nothing else of ours, in the versions of the lock file."""
    wheel = build_wheel(package, folder)
    place = folder / "venv"
    uv = [str(Path(sys.executable).with_name("uv"))]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(place)], check=True)
    versions = subprocess.run(
        [*uv, "pip", "freeze", "--quiet", "--exclude-editable", "--python", sys.executable],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (folder / "versions.txt").write_text(versions)
    install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(place / "bin/python")]
    subprocess.run([*install, "--constraint", str(folder / "versions.txt"), str(wheel)], check=True)
    return Environment(place)


# ---- MLflow


@contextmanager
def mlflow_server(alone: Environment, folder: Path, **variables: str) -> Iterator[str]:
    """Address of stock `mlflow server` with our store, while it runs."""
    port = free_port()
    command = [
        *(str(alone.folder / "bin" / "mlflow"), "server", f"--port={port}", "--workers=1"),
        f"--backend-store-uri=sqlite:///{folder}/mlflow.db",
        f"--registry-store-uri=lifecycle+sqlite:///{folder}/mlflow.db",
        f"--artifacts-destination={folder}/artifacts",
    ]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=alone.variables(**quiet, **variables),
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address)
        yield address
    finally:
        process.terminate()
        process.wait(30)


@retry(
    retry=retry_if_exception_type(requests.RequestException),
    stop=stop_after_delay(180),
    wait=wait_fixed(0.5),
    reraise=True,
)
def _wait_until_ready(address: str) -> None:
    requests.get(f"{address}/health", timeout=5).raise_for_status()


#: What an engineer does with stock MLflow: a run with a model, and its registration.
REGISTER = """
from pathlib import Path
import mlflow
client = mlflow.MlflowClient()
run = client.create_run(client.create_experiment("demand"))
Path("MLmodel").write_text("flavors: {}")
client.log_artifact(run.info.run_id, "MLmodel", "model")
client.create_registered_model("demand")
version = client.create_model_version("demand", f"runs:/{run.info.run_id}/model", run.info.run_id)
print(version.version, version.current_stage)
"""


def test_mlflow_plugins__stock_server_keeps_the_lifecycles_rules(tmp_path: Path) -> None:
    alone = environment("mlflow_plugins", tmp_path)
    policy = tmp_path / "policy.yaml"
    policy.write_text("defaults:\n  reason: true\n")
    with mlflow_server(alone, tmp_path, PROMOTION_POLICY_PATH=str(policy)) as address:
        registered = alone.run("python", "-c", REGISTER, folder=tmp_path, MLFLOW_TRACKING_URI=address)
        assert registered.split()[-2:] == ["1", "Staging"]

        def move(stage: str, **tags: str) -> requests.Response:
            version = {"name": "demand", "version": "1"}
            for key, value in tags.items():
                tag = {**version, "key": key.replace("_", "."), "value": value}
                _post(address, "model-versions/set-tag", tag).raise_for_status()
            return _post(address, "model-versions/transition-stage", {**version, "stage": stage})

        refused = move("Production")
        assert refused.status_code == 409
        assert "reason: " in refused.json()["message"]
        done = move("Production", promotion_reason="better in March")
        assert done.json()["model_version"]["current_stage"] == "Production"
        wrong = move("Staging")
        assert wrong.status_code == 409
    manifests = list((tmp_path / "artifacts").rglob("manifest.json"))
    assert len(manifests) == 1, "the registered version has a folder of its own, with every file's digest"


def _post(address: str, call: str, body: Mapping[str, Any]) -> requests.Response:
    return requests.post(f"{address}/api/2.0/mlflow/{call}", json=body, timeout=60)


# ---- Feast

STORE = """
project: alone
provider: feast_plugins.projects.ProjectProvider
entity_key_serialization_version: 3
registry: {folder}/registry.db
offline_store:
  type: feast_plugins.offline_store.TimescaleOfflineStore
  host: {PGHOST}
  port: {PGPORT}
  database: {PGDATABASE}
  user: {PGUSER}
  password: '{PGPASSWORD}'
  sslmode: {PGSSLMODE}
online_store:
  type: feast_plugins.online_store.CorrectableRedisOnlineStore
  connection_string: '{redis}'
batch_engine:
  type: feast_plugins.batch_engine.ArrowComputeEngine
"""
FEATURES = """
from feast import Entity, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64

meter = Entity(name="meter", join_keys=["meter_id"], value_type=ValueType.STRING)
load = FeatureView(
    name="load",
    entities=[meter],
    schema=[Field(name="mean_kw", dtype=Float64)],
    source=PostgreSQLSource(name="load", table="{schema}.load", timestamp_field="event_timestamp"),
)
"""
READ = """
from feast import FeatureStore
read = FeatureStore(".").get_online_features(["load:mean_kw"], [{"meter_id": "m-1"}, {"meter_id": "m-2"}])
print(read.to_dict()["mean_kw"])
"""


def test_feast_plugins__stock_feast_materializes(
    tmp_path: Path, dsn: str, redis_url: str, tenant: str
) -> None:
    alone = environment("feast_plugins", tmp_path)
    schema = sql.Identifier(tenant)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        connection.execute(
            sql.SQL(
                "CREATE TABLE {}.load AS SELECT * FROM (VALUES"
                " ('m-1', TIMESTAMPTZ '2026-03-01 10:00Z', 1.5::float8), ('m-1', '2026-03-01 11:00Z', 2.5),"
                " ('m-2', '2026-03-01 11:00Z', 7.25)) AS rows(meter_id, event_timestamp, mean_kw)"
            ).format(schema)
        )
    try:
        repository = tmp_path / "repository"
        repository.mkdir()
        addresses = {"redis": feast_redis_connection(redis_url), **postgres_environment(dsn)}
        (repository / "feature_store.yaml").write_text(STORE.format(folder=tmp_path, **addresses))
        (repository / "features.py").write_text(FEATURES.replace("{schema}", f'\\"{tenant}\\"'))
        alone.run("feast", "apply", folder=repository)
        alone.run("feast", "materialize", "2026-03-01T00:00:00", "2026-03-02T00:00:00", folder=repository)
        assert alone.run("python", "-c", READ, folder=repository).splitlines()[-1] == "[2.5, 7.25]"
        alone.run("feast", "teardown", folder=repository)
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))
