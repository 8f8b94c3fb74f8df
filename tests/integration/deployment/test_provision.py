from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
import psycopg
import pytest

if TYPE_CHECKING:
    from conftest import Containers


def connect(containers: Containers, user: str, password: str, database: str) -> None:
    server = containers.addresses["timescaledb:5432"]
    psycopg.connect(f"postgresql://{user}:{password}@{server}/{database}").close()


def test_provision__creates_what_is_missing_once(provisioned: Containers) -> None:
    again = provisioned.run("init")
    assert again.returncode == 0
    assert again.stdout.splitlines() == [
        "database mlflow (MLFLOW_BACKEND_STORE_URI): present",
        "database feast (FEAST_REGISTRY_URI): present",
        "database ai_hub (SERVICE_TIMESCALE_DSN): present",
        f"bucket {provisioned.passwords['MODEL_STORAGE_BUCKET']}: present",
    ]
    store = boto3.client(
        "s3",
        endpoint_url=provisioned.addresses["http://minio:9000"],
        aws_access_key_id=provisioned.passwords["MINIO_ACCESS_KEY"],
        aws_secret_access_key=provisioned.passwords["MINIO_SECRET_KEY"],
        region_name="us-east-1",
    )
    store.head_bucket(Bucket=provisioned.passwords["MODEL_STORAGE_BUCKET"])


def test_provision__gives_mlflow_its_own_database_and_nobody_else(provisioned: Containers) -> None:
    password = provisioned.passwords["MLFLOW_DB_PASSWORD"]
    connect(provisioned, "mlflow", password, "mlflow")
    server = provisioned.addresses["timescaledb:5432"]
    owner = f"ai_hub:{provisioned.passwords['POSTGRES_PASSWORD']}"
    with psycopg.connect(f"postgresql://{owner}@{server}/ai_hub", autocommit=True) as connection:
        connection.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    for database in ("mlflow", "feast"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            connect(provisioned, "stranger", "stranger", database)


def test_provision__takes_over_a_changed_password(provisioned: Containers) -> None:
    old = provisioned.environment("init")["MLFLOW_BACKEND_STORE_URI"]
    new = old.replace(provisioned.passwords["MLFLOW_DB_PASSWORD"], "anotherpassword")
    assert provisioned.run("init", MLFLOW_BACKEND_STORE_URI=new).returncode == 0
    connect(provisioned, "mlflow", "anotherpassword", "mlflow")
    assert provisioned.run("init").returncode == 0
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(provisioned, "mlflow", "anotherpassword", "mlflow")


def test_provision__leaves_databases_of_other_servers_alone(provisioned: Containers) -> None:
    done = provisioned.run("init", FEAST_REGISTRY_URI="postgresql+psycopg://somebody:secret@db.example/feast")
    assert done.returncode == 0
    assert "database feast (FEAST_REGISTRY_URI): is on another server and left alone" in done.stdout


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://mlflow:geheim@host:not-a-port/mlflow", "is not a database address"),
        ("postgresql://mlflow:geheim@host", "names no database"),
    ],
)
def test_provision__refuses_an_unusable_address_without_repeating_it(
    provisioned: Containers, address: str, message: str
) -> None:
    done = provisioned.run("init", MLFLOW_BACKEND_STORE_URI=address)
    assert done.returncode == 2
    assert f"MLFLOW_BACKEND_STORE_URI {message}" in done.stderr
    assert "geheim" not in done.stdout + done.stderr


def test_provision__says_which_keys_the_store_refuses(provisioned: Containers) -> None:
    done = provisioned.run("init", MINIO_SECRET_KEY="wrong")
    assert done.returncode == 3
    assert "MINIO_SECRET_KEY" in done.stderr
