"""The server is killed at random moments of registrations and deletions; nothing half-done is ever seen."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import requests
from support import properties, registry_servers
from support.registry_tenant import MODEL, Tenant, new_tenant

from ai_hub import registry
from mlflow_plugins.artifacts import folders, manifest
from mlflow_plugins.artifacts.s3 import S3Folder, s3_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Stack

BUCKET = "ml-models"
FILES = {"MLmodel": b"flavors: {}"} | {f"data/{number}.bin": os.urandom(5000) for number in range(40)}
API = "/api/2.0/mlflow"
#: How many registrations and deletions are killed on each.
DATABASES = {"sqlite": (3, 1), "postgresql": (1, 1)}


def timed(action: Callable[[], requests.Response]) -> float:
    """Seconds of a successful `action`."""
    begun = time.monotonic()
    assert action().status_code == 200
    return time.monotonic() - begun


@dataclass
class Life:
    """A tenant of a server that dies and comes back."""

    server: registry_servers.Server
    acme: Tenant
    source: dict[str, str]
    dice: random.Random
    #: of registrations and of deletions
    kills: tuple[int, int]

    def register(self, number: str | None = None) -> requests.Response:
        """The call of MLflow's client."""
        tags = [{"key": "semantic_version", "value": number}] if number else []
        body = {"name": MODEL, **self.source, "tags": tags}
        return self.acme.call("POST", f"{API}/model-versions/create", json=body)

    def delete(self, version: int) -> requests.Response:
        """Deletion by force."""
        path = f"/ai-hub/api/models/{MODEL}/versions/{version}"
        return self.acme.call("DELETE", path, params={"force": "true"})

    def killed(self, seconds: float, number: str, action: Callable[[], requests.Response]) -> None:
        """Begin `action`, kill the server at some time within `seconds`, and start it again."""

        def run() -> None:
            with suppress(requests.ConnectionError):  # what its client sees
                action()

        client = threading.Thread(target=run)
        moment = self.dice.uniform(0, seconds)
        client.start()
        time.sleep(moment)
        self.server.kill()
        client.join()
        left = len(self.folder(number).files())
        told = f"{number}: killed after {moment * 1000:.0f} of {seconds * 1000:.0f} ms, {left} files there"
        print(told)  # noqa: T201  # shown where the test fails
        self.server.start()

    def versions(self) -> dict[str, tuple[int, str]]:
        """MLflow's number and manifest digest by semantic version; all versions are READY and listed."""
        query = {"filter": f"name='{MODEL}'", "max_results": 100}
        found = self.acme.call("GET", f"{API}/model-versions/search", params=query).json()
        versions = {}
        for version in found.get("model_versions", []):
            tags = {tag["key"]: tag["value"] for tag in version["tags"]}
            assert version["status"] == "READY"
            assert tags["semantic_version"] not in versions
            versions[tags["semantic_version"]] = (int(version["version"]), tags["manifest_sha256"])
        listing = {"path": f".models/{MODEL}"}
        folders = self.acme.call("GET", f"{API}-artifacts/artifacts", params=listing).json()
        assert {item["path"] for item in folders.get("files", [])} == versions.keys()
        return versions

    def check_files(self, number: str, digest: str) -> None:
        """A version's files themselves, past every door."""
        folder = self.folder(number)
        paths = list(folder.files())
        contents = folders.map_parallel(lambda path: b"".join(folder.read(path)), paths)
        content = dict(zip(paths, contents, strict=True))
        assert content.keys() == FILES.keys() | manifest.RESERVED
        assert {path: content[path] for path in FILES} == FILES
        assert hashlib.sha256(content["manifest.json"]).hexdigest() == digest
        listed = json.loads(content.pop("manifest.json"))["files"]
        hashes = {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
        assert {path: entry["sha256"] for path, entry in listed.items()} == hashes

    def folder(self, number: str) -> S3Folder:
        return S3Folder(s3_client(), BUCKET, f"{self.acme.name}/{MODEL}/{number}")

    def folders(self) -> set[str]:
        """Folders of versions in the bucket."""
        files = S3Folder(s3_client(), BUCKET, f"{self.acme.name}/{MODEL}").files()
        return {path.split("/")[0] for path in files}


@pytest.fixture(scope="module")
def server(
    empty_database: str, servers: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[registry_servers.Server]:
    folder = tmp_path_factory.mktemp("killed")
    with registry_servers.running(empty_database, servers.start("s3"), folder) as server:
        yield server


@pytest.fixture
def life(empty_database: str, server: registry_servers.Server, monkeypatch: pytest.MonkeyPatch) -> Life:
    dice = random.Random(properties.seed())  # noqa: S311  # no secret
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    acme = new_tenant(server.url)
    with registry.tenant_scope(acme.name):
        run = acme.client.create_run(acme.experiment).info
    runs = f"{acme.name}/.runs/{acme.experiment}/{run.run_id}/artifacts"
    logged = S3Folder(s3_client(), BUCKET, f"{runs}/model")
    folders.map_parallel(lambda path: logged.write(path, FILES[path]), FILES)
    source = {"source": f"{run.artifact_uri}/model", "run_id": run.run_id}
    registrations, deletions = DATABASES[urlsplit(empty_database).scheme]
    kills = properties.examples(registrations), properties.examples(deletions)
    return Life(server, acme, source, dice, kills)


def test_registration__killed_anywhere__leaves_no_version_without_its_files__and_can_be_repeated(
    life: Life,
) -> None:
    assert life.register().status_code == 200
    seconds = timed(life.register)
    for kill in range(life.kills[0]):
        before = life.versions()
        number = f"v1.0.{len(before)}"
        wanted = number if kill % 2 else None
        life.killed(seconds, number, lambda: life.register(wanted))  # noqa: B023  # called before the next
        versions = life.versions()
        if number in versions:  # all was done but the answer
            life.check_files(number, versions[number][1])
            assert not wanted or life.register(wanted).status_code == 409
        else:
            answer = life.register(wanted)
            assert answer.status_code == 200, answer.text
            versions = life.versions()
        assert versions.keys() == {*before, number}
        assert life.folders() == versions.keys()
    for number, (_, digest) in versions.items():
        life.check_files(number, digest)


def test_deletion__killed_anywhere__leaves_a_whole_version_or_none__and_can_be_repeated(life: Life) -> None:
    for _ in range(life.kills[1] + 3):
        assert life.register().status_code == 200
    assert life.delete(1).status_code == 200
    seconds = timed(lambda: life.delete(2))
    for version in range(3, life.kills[1] + 3):
        number = f"v1.0.{version - 1}"
        life.killed(seconds, number, lambda: life.delete(version))  # noqa: B023  # called before the next
        versions = life.versions()
        if number in versions:
            life.check_files(number, versions[number][1])
        # nothing is left to repeat when all was done but the answer
        nothing_left = number not in versions and number not in life.folders()
        answer = life.delete(version)
        assert answer.status_code == 200 or (nothing_left and answer.status_code == 404), answer.text
        versions = life.versions()
        assert number not in versions
        assert life.folders() == versions.keys()
    for number, (_, digest) in versions.items():
        life.check_files(number, digest)
