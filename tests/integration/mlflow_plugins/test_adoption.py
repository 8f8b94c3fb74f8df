"""Registries that plain MLflow made: adopted by `ai-hub registry adopt`, and used afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
import mlflow
import psycopg
import pytest
import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from oracles.lifecycle import Model, refused
from support import old_registries, registry_servers
from support.old_registries import ALIASED, GONE, KINDS, LOGGED, NUMBERED, ODD, PROMPT, STAGED, Old
from support.registry_servers import FORKS

from ai_hub.registry import adoption
from benchmarks.mlflow_servers import PRELOADED, STOCK
from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.folders import RepositoryFolder
from mlflow_plugins.artifacts.s3 import S3Folder, s3_client
from mlflow_plugins.database import metadata
from mlflow_plugins.registration import records
from mlflow_plugins.store.lifecycle_store import LifecycleStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from conftest import Stack

    from ai_hub.registry.adoption import ModelPlan

#: Addresses that can be loaded before, and what must come back until a server of ours starts.
CONSTANT = {
    f"models:/{STAGED}/1": f"{STAGED}-1",
    f"models:/{ALIASED}@champion": f"{ALIASED}-2",
    f"models:/{ALIASED}@production": f"{ALIASED}-1",
    f"models:/{ALIASED}@archived": f"{ALIASED}-2",
    f"models:/{STAGED}/Production": f"{STAGED}-2",
    f"models:/{ODD[0]}/1": "odd-0-1",
    f"models:/{LOGGED}/1": LOGGED,
}
VERSIONS, MODELS, UNVERIFIED = 27, 9, 6


@pytest.fixture(scope="session")
def stock_template(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables alone."""
    path = tmp_path_factory.mktemp("stock") / "mlflow.db"
    shutil.copy(sqlite_template, path)
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for table in (*metadata.tables, "lifecycle_schema"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    engine.dispose()
    return path


@pytest.fixture(scope="session")
def sqlite_old(stock_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with every kind of old model, whose files lie beside it."""
    folder = tmp_path_factory.mktemp("old")
    shutil.copy(stock_template, folder / "old.db")
    make(f"sqlite:///{folder / 'old.db'}", folder)
    return folder / "old.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a registry with every kind of old model, on each database."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_old"), tmp_path / "old.db")
        return f"sqlite:///{tmp_path / 'old.db'}"
    server = request.getfixturevalue("native_postgres")
    name = f"registry_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    database = urlsplit(server)._replace(path=f"/{name}").geturl()
    make(database, tmp_path)
    return database


def make(database: str, folder: Path) -> None:
    """Every kind of old model."""
    with closing(Old(database, folder)) as old:
        for kind in KINDS:
            kind(old)


@contextmanager
def opened(database: str) -> Iterator[LifecycleStore]:
    """Our store on a registry, as a server opens it."""
    store = LifecycleStore(f"lifecycle+{database}")
    yield store
    store._dispose_engine()
    SqlAlchemyStore._engine_map.pop(database, None)


def adopt(database: str, folder: Path, **options: Any) -> list[ModelPlan]:
    """The command, for a server without workspaces that keeps artifacts in `folder`."""
    options = {"workspaces": False, "artifacts_destination": str(folder / "mlartifacts"), **options}
    return list(adoption.adopt(database, None, **options))


@pytest.mark.parametrize("old", [pytest.param("sqlite", marks=pytest.mark.long), "postgresql"], indirect=True)
def test_every_kind_of_old_registry__becomes_one_consistent_state(old: str, tmp_path: Path) -> None:
    before = old_registries.contents(old)
    assert old_registries.broken(old).keys() == old_registries.INVARIANTS.keys()
    with pytest.raises(MlflowException, match=f"{VERSIONS} versions of {MODELS} models.* adopt") as refusal:
        LifecycleStore(f"lifecycle+{old}")
    assert refusal.value.get_http_status_code() == 409
    assert "\n" not in refusal.value.message
    planned = adopt(old, tmp_path, dry_run=True)
    assert old_registries.contents(old) == before
    assert not (tmp_path / "mlartifacts").exists()

    assert adopt(old, tmp_path) == planned
    assert old_registries.broken(old) == {}
    check_prompts(before, old_registries.contents(old))
    check_digests(old, tmp_path / "mlartifacts", planned)
    adopted = old_registries.contents(old)
    left = adopt(old, tmp_path)
    assert [version.problem is not None for model in left for version in model.versions] == [
        True
    ] * UNVERIFIED
    assert old_registries.contents(old) == adopted

    with opened(old) as store:
        for name in {model.model for model in planned}:
            Model(store, name).check()
        check_stages(store)
        check_use(store)
    assert old_registries.broken(old) == {}
    with opened(old):  # the second start changes nothing
        pass
    check_prompts(before, old_registries.contents(old))


def check_stages(store: LifecycleStore) -> None:
    """What the documented rules make of each kind."""
    staged, aliased = Model(store, STAGED), Model(store, ALIASED)
    assert staged.stages() == {
        1: "Archived",
        2: "Production",
        3: "Archived",
        4: "Staging",
        5: "None",
        6: "Archived",
    }
    assert aliased.stages() == {1: "Production", 2: "Archived", 3: "Staging", 4: "Archived", 5: "Archived"}
    assert aliased.aliases() == {"production": 1, "archived": 2, "staging": 3, "champion": 2}
    assert store.get_model_version_by_alias(ALIASED, "Production").version == 1
    tags = [store.get_model_version(NUMBERED, version).tags for version in range(1, 7)]
    numbers = [tag["semantic_version"] for tag in tags]
    assert numbers == ["v1.0.0", "v1.0.1", "v1.0.2", "v1.0.3", "v1.0.4", "v2.0.0"]
    assert [tag.get("adopted.semantic_version") for tag in tags[1:4]] == ["1.0.0", "v1.0.0", "2024-05"]
    assert tags[0]["adopted.manifest_sha256"] == "mine" != tags[0]["manifest_sha256"]
    trail = store.history(STAGED, 1)
    assert [(row.from_stage, row.to_stage, row.reason) for row in reversed(trail)] == [
        (None, "Production", "adopted"),
        ("Production", "Archived", "adopted"),
    ]
    assert {row.actor_source for row in trail} == {"claimed"}
    assert store.production_at(STAGED, trail[0].at_ms).version == 2  # type: ignore[union-attr]


def check_use(store: LifecycleStore) -> None:
    """What was in production can come back, and new versions go their way."""
    staged, odd = Model(store, STAGED), Model(store, ODD[0])
    store.roll_back(STAGED)
    assert staged.stage(1) == "Production"
    staged.move(4, "Production")
    assert refused(lambda: staged.move(3, "Production"))
    staged.move(5, "Staging")
    number = staged.register()
    assert staged.store.get_model_version(STAGED, number).tags["semantic_version"] == "v1.0.6"
    staged.move(number, "Archived")  # there may be several in Staging from now on
    odd.move(1, "Production")
    for model in (staged, odd):
        model.check()


def check_prompts(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Nothing of a prompt has changed."""

    def of_prompt(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [row for row in rows if PROMPT in row]

    assert of_prompt(before["model_versions"])
    for table, rows in after.items():
        assert of_prompt(rows) == of_prompt(before.get(table, []))


def check_digests(database: str, folder: Path, plans: list[ModelPlan]) -> None:
    """Every version's own folder holds what its source does, by its manifest, whose hash the database has."""
    engine = sa.create_engine(database)
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT name, semantic_version, manifest_sha256 FROM lifecycle_versions")
        )
        digests = {(row[0], row[1]): row[2] for row in rows}
    engine.dispose()
    versions = [(plan.model, version) for plan in plans for version in plan.versions]
    for name, version in versions:
        digest = digests[name, version.number]
        assert (digest is None) == (version.problem is not None)
        if digest is None:
            continue
        registered = folder / ".models" / name / version.number
        document = (registered / "manifest.json").read_bytes()
        assert hashlib.sha256(document).hexdigest() == digest
        listed = {path: entry["sha256"] for path, entry in json.loads(document)["files"].items()}
        assert listed == {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in registered.iterdir()
            if path.name != "manifest.json"
        }
        source = Path(version.source.removeprefix("file://"))
        assert {path.name: path.read_bytes() for path in source.iterdir()} == {
            path.name: (registered / path.name).read_bytes() for path in source.iterdir()
        }
    assert sum(version.problem is not None for _, version in versions) == UNVERIFIED


def test_start_of_a_server__is_refused_with_one_line(sqlite_old: Path) -> None:
    with click.Context(click.Command("server")), pytest.raises(SystemExit) as refusal:
        LifecycleStore(f"lifecycle+sqlite:///{sqlite_old}")
    assert "ai-hub registry adopt --dry-run" in str(refusal.value.code)
    assert "\n" not in str(refusal.value.code)


def test_files_that_come_back__are_copied_by_the_next_run(sqlite_old: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_old, tmp_path / "old.db")
    database = f"sqlite:///{tmp_path / 'old.db'}"
    adopt(database, tmp_path)
    nowhere = sqlite_old.parent / "nowhere"
    shutil.copytree(sqlite_old.parent / "models" / f"{GONE}-3", nowhere)
    try:
        (found,) = (plan for plan in adopt(database, tmp_path) if plan.model == GONE)
    finally:
        shutil.rmtree(nowhere)
    assert [(version.version, version.problem is None) for version in found.versions] == [
        (1, True),
        (2, False),
    ]
    assert (tmp_path / "mlartifacts/.models" / GONE / "v1.0.0/manifest.json").exists()
    assert old_registries.broken(database) == {}
    with opened(database) as store:
        Model(store, GONE).check()
        assert len(store.history(GONE, 1)) == 3
        assert store.get_model_version_download_uri(GONE, 1).startswith("mlflow-artifacts:")


def test_versions_that_plain_mlflow_adds_later__join_what_is_there(sqlite_old: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_old, tmp_path / "old.db")
    database = f"sqlite:///{tmp_path / 'old.db'}"
    adopt(database, tmp_path)
    with closing(Old(database, tmp_path)) as old:
        for stage in ("Production", "Staging", None):
            old.version(STAGED, old.files(f"{STAGED}-later-{stage}"), stage)
    with pytest.raises(MlflowException, match="3 versions of 1 model "):
        LifecycleStore(f"lifecycle+{database}")
    adopt(database, tmp_path)
    assert old_registries.broken(database) == {}
    with opened(database) as store:
        model = Model(store, STAGED)
        model.check()
        assert {version: stage for version, stage in model.stages().items() if version > 6} == {
            7: "Archived",
            8: "Archived",
            9: "None",
        }
        assert model.stage(2) == "Production"
        newest = store.history(STAGED)[0]
        assert store.production_at(STAGED, newest.at_ms).version == 2  # type: ignore[union-attr]


def test_dry_run__reads_our_tables_as_earlier_releases_made_them(
    stock_template: Path, tmp_path: Path
) -> None:
    shutil.copy(stock_template, tmp_path / "old.db")
    database = f"sqlite:///{tmp_path / 'old.db'}"
    with closing(Old(database, tmp_path)) as old:
        old.model("demand", "Production")
        adopt(database, tmp_path)
        old.version("demand", old.files("demand-later"), "Staging")
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE lifecycle_versions DROP COLUMN listing_sha256")
        connection.exec_driver_sql("DELETE FROM lifecycle_schema WHERE version > 5")
    engine.dispose()
    before = old_registries.contents(database)
    planned = adopt(database, tmp_path, dry_run=True)
    assert old_registries.contents(database) == before
    assert [(found.version, found.number) for plan in planned for found in plan.versions] == [(2, "v1.0.1")]
    assert adopt(database, tmp_path) == planned
    assert old_registries.broken(database) == {}


def test_tenants__are_adopted_one_by_one(
    stock_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(stock_template, tmp_path / "old.db")
    database = f"sqlite:///{tmp_path / 'old.db'}"
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    with closing(Old(database, tmp_path)) as old:
        for tenant in ("acme", "beta"):
            old.client.create_workspace(tenant)
            monkeypatch.setenv("MLFLOW_WORKSPACE", tenant)
            old.client.create_registered_model("demand")
            for number in (1, 2):
                old.version("demand", old.files(f"{tenant}-{number}"), "Production")
    (only,) = adopt(database, tmp_path, workspaces=True, tenant="acme")
    assert (only.tenant, len(only.versions)) == ("acme", 2)
    with pytest.raises(MlflowException, match="2 versions of 1 model "):
        LifecycleStore(f"lifecycle+{database}")
    adopt(database, tmp_path, workspaces=True)
    assert old_registries.broken(database) == {}
    registered = tmp_path / "mlartifacts/workspaces"
    assert (registered / "beta/.models/demand/v1.0.0/data.txt").read_text() == "beta-1"
    assert (registered / "acme/.models/demand/v1.0.1/data.txt").read_text() == "acme-2"
    with opened(database) as store:
        assert store.get_model_version_download_uri("demand", 1).startswith(
            "mlflow-artifacts:/workspaces/beta/"
        )


def test_command__shows_and_does_it(
    run: Callable[..., tuple[int, str, str]],
    sqlite_old: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(sqlite_old, tmp_path / "old.db")
    database = f"sqlite:///{tmp_path / 'old.db'}"
    # the run's own servers may be in the environment
    where = ("--registry-store-uri", f"lifecycle+{database}", "--backend-store-uri", database)
    place = ("--artifacts-destination", str(tmp_path / "mlartifacts"), "--disable-workspaces")
    command = ("registry", "adopt", *where, *place)
    status, shown, _ = run(*command, "--dry-run")
    assert status == 0
    assert f"{STAGED} of default\n  version 1: Production → Archived, v1.0.0, 2 files" in shown
    assert "version 4: None, v1.0.3 (was 2024-05)" in shown
    assert "@staging: none → 4" in shown
    assert "copy_model_version('models:/größe/2', 'NEW-NAME')" in shown
    assert f"To adopt: {VERSIONS} versions of {MODELS} models." in shown
    status, shown, _ = run(*command, "--json")
    assert (status, json.loads(shown)["adopted"], len(json.loads(shown)["models"])) == (0, True, MODELS)
    status, shown, _ = run(*command)
    assert status == 0
    assert f"nothing to adopt. {UNVERIFIED} without a manifest" in shown
    status, _, error = run(*command, "--tenant", "nobody")
    assert (status, "Tenant nobody has no registered models" in error) == (2, True)
    status, _, error = run("registry", "adopt", "--registry-store-uri", f"sqlite:///{tmp_path / 'typo.db'}")
    assert (status, "There is no registry at sqlite:///" in error) == (2, True)
    assert not (tmp_path / "typo.db").exists()
    with monkeypatch.context() as elsewhere:
        elsewhere.delenv("MINIO_ENDPOINT_URL", raising=False)
        elsewhere.setenv("AI_HUB_STATE_DIR", str(tmp_path / "none"))
        elsewhere.chdir(tmp_path)
        status, _, error = run("registry", "adopt", *where, "--artifacts-destination", "minio://ml-models")
    assert (status, "MINIO_ENDPOINT_URL is not set" in error, "MLflow server" in error) == (1, True, False)
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '3500859a5d39'")  # an older one
    connection.close()
    status, _, error = run(*command)
    assert (status, "mlflow db upgrade" in error) == (1, True)
    status, _, error = run("registry", "adopt", "--registry-store-uri", "http://127.0.0.1:5000")
    assert (status, "http: is no database" in error) == (2, True)


def test_files_outside_the_bucket__are_copied_into_it(
    sqlite_old: Path, tmp_path: Path, servers: Stack
) -> None:
    bucket = servers.start("s3")["MODEL_STORAGE_BUCKET"]
    shutil.copy(sqlite_old, tmp_path / "old.db")
    database = f"sqlite:///{tmp_path / 'old.db'}"
    adopt(database, tmp_path, artifacts_destination=f"minio://{bucket}")
    assert old_registries.broken(database) == {}
    folder = S3Folder(s3_client(), bucket, f"default/{STAGED}/v1.0.1")
    with opened(database) as store:
        tag = store.get_model_version(STAGED, 2).tags["manifest_sha256"]
        with store.sessions() as session:
            record = records.find(session, store.model_key(session, STAGED), 2)
    assert record is not None
    assert record.digest is not None
    evidence = manifest.verify(folder, record.digest)
    assert (evidence["checked"], evidence["manifest_sha256"], evidence["file_count"]) == ("etag", tag, 5)
    assert b"".join(folder.read("data.txt")) == f"{STAGED}-2".encode()


# ---- servers


def server_to_server(
    database: str, tmp_path: Path, servers: Stack, monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    """From a server of plain MLflow to one of ours, both on the database, while models are loaded."""
    stack = servers.start("s3")
    bucket = stack["MODEL_STORAGE_BUCKET"]
    expected = {
        "models:/demand/1": "demand-1",
        "models:/demand@champion": "demand-1",
        "models:/demand@production": "demand-2",
        "models:/demand/Production": "demand-2",
    }
    with registry_servers.running(database, stack, tmp_path, app=STOCK) as server:
        old = Old(server.url, tmp_path)
        old.client.create_workspace(tenant)
        monkeypatch.setenv("MLFLOW_WORKSPACE", tenant)
        experiment = old.client.create_experiment("old")
        old.client.create_registered_model("demand")
        for number in (1, 2):
            run_id, source = old.logged(f"demand-{number}", experiment)
            old.version("demand", source, "Production", run_id)
        old.alias("demand", champion=1, production=2)
        # the guide's first step
        under = S3Folder(s3_client(), bucket, f".stock/workspaces/{tenant}")
        S3Folder(s3_client(), bucket, f"{tenant}/.runs").copy_from(under, under.files())
        with loading(server.url, expected) as loader:
            done = subprocess.run(
                [Path(sys.executable).parent / "ai-hub", "registry", "adopt", "--tenant", tenant],
                env={**os.environ, **stack, "MLFLOW_BACKEND_STORE_URI": database},
                capture_output=True,
                text=True,
                check=False,
            )
            loader.wait_for(loader.rounds + 1)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Adopted: 2 versions of 1 model." in done.stdout
        assert loader.wrong == []
    assert old_registries.broken(database) == {}
    with (
        registry_servers.running(database, stack, tmp_path) as server,
        loading(server.url, expected) as loader,
    ):
        loader.wait_for(1)
        assert loader.wrong == []
        client = mlflow.MlflowClient(server.url, server.url)
        location = client.get_model_version_download_uri("demand", "1")
        assert location == f"mlflow-artifacts:/workspaces/{tenant}/.models/demand/v1.0.0"
        client.set_registered_model_alias("demand", "production", "1")  # a rollback
        assert mlflow.pyfunc.load_model("models:/demand@production").predict([]) == "demand-1"
        with pytest.warns(FutureWarning, match="stages"):
            client.transition_model_version_stage("demand", "2", "Production")
        assert mlflow.pyfunc.load_model("models:/demand@production").predict([]) == "demand-2"
        client.create_model_version("demand", source, run_id)
        assert client.get_model_version("demand", "3").tags["semantic_version"] == "v1.0.2"


@pytest.mark.long
@pytest.mark.parametrize("empty_database", ["sqlite", "postgresql"], indirect=True)
def test_a_server_of_ours__takes_over_from_plain_mlflow(
    empty_database: str, tmp_path: Path, servers: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = f"tenant-{secrets.token_hex(4)}"
    server_to_server(empty_database, tmp_path, servers, monkeypatch, tenant)


# ---- killed


class Killed:
    """Adopts in a process that is killed at its n-th step: a commit, or a file that is written."""

    def __init__(self, database: str, folder: Path) -> None:
        self.database, self.folder = database, folder

    def steps(self, at: int = 0) -> int | None:
        """How many steps it took; None when it was killed before step `at`."""
        FORKS.set_forkserver_preload(PRELOADED)
        receiving, sending = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=_adopt, args=(self.database, self.folder, at, sending))
        process.start()
        sending.close()
        process.join()
        if at and process.exitcode == -signal.SIGKILL:
            return None
        assert process.exitcode == 0
        taken: int = receiving.recv()
        return taken


def _adopt(database: str, folder: Path, at: int, done: Any) -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    taken = 0

    def step(*_: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == at:
            os.kill(os.getpid(), signal.SIGKILL)

    upload = RepositoryFolder._upload

    def counted(self: RepositoryFolder, local: Path, path: str) -> None:
        step()
        upload(self, local, path)

    RepositoryFolder._upload = counted  # type: ignore[method-assign]
    sa.event.listen(sa.Engine, "commit", step)
    adopt(database, folder)
    done.send(taken)


class Loader(threading.Thread):
    """Loads models by plain MLflow's client all the time."""

    def __init__(self, expected: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.expected, self.rounds, self.wrong = expected, 0, list[str]()
        self.done = threading.Event()

    def run(self) -> None:
        """Until it is stopped."""
        while not self.done.is_set():
            found = {address: _load(address) for address in self.expected}
            if None not in found.values():
                self.rounds += 1
            self.wrong += [f"{address}: {text}" for address, text in found.items()
                           if text not in {None, self.expected[address]}]  # fmt: skip
            self.done.wait(0.2)  # it is not alone on the machine

    def wait_for(self, rounds: int) -> None:
        """Wait for so many rounds, and for the end."""
        while self.rounds < rounds:
            self.join(0.05)
        self.done.set()
        self.join()


def _load(address: str) -> str | None:
    """What a model predicts; None where a busy server has not answered within MLflow's three seconds."""
    try:
        return str(mlflow.pyfunc.load_model(address).predict([]))
    except Exception as error:  # noqa: BLE001 - whatever it is
        return None if "timed out" in str(error) else repr(error)


@contextmanager
def loading(database: str, expected: dict[str, str]) -> Iterator[Loader]:
    """Load from a registry the whole time."""
    tracking = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(database)
    mlflow.set_registry_uri(database)
    loader = Loader(expected)
    loader.start()
    try:
        yield loader
    finally:
        loader.done.set()
        loader.join()
        mlflow.set_registry_uri(None)
        mlflow.set_tracking_uri(tracking)


def check_kills(database: str, folder: Path, expected: dict[str, str], steps: Iterable[int]) -> None:
    """Kill it at each of these steps; every run goes on where the one before was killed."""
    with loading(database, expected) as loader:
        for step in steps:
            assert Killed(database, folder).steps(at=step) is None
        rounds = loader.rounds
        assert Killed(database, folder).steps()
        assert old_registries.broken(database) == {}
        loader.wait_for(rounds + 2)
        assert loader.wrong == []
    before = old_registries.contents(database)
    assert all(not plan.changes for plan in adopt(database, folder))
    assert old_registries.contents(database) == before


@pytest.mark.parametrize("steps", [(12,), pytest.param((3, 12, 15), marks=pytest.mark.long)], ids=len)
def test_adoption__killed__is_resumed__and_models_load(
    stock_template: Path, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    shutil.copy(stock_template, tmp_path / "old.db")
    database = f"sqlite:///{tmp_path / 'old.db'}"
    with closing(Old(database, tmp_path)) as old:
        old_registries.aliased(old)
    expected = {address: text for address, text in CONSTANT.items() if text.startswith(ALIASED)}
    check_kills(database, tmp_path, expected, steps)


@pytest.mark.long
def test_adoption__killed_ten_times__is_resumed__and_models_load(old: str, tmp_path: Path) -> None:
    check_kills(old, tmp_path, CONSTANT, range(1, 30, 3))
