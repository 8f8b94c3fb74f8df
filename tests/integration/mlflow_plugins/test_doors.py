"""Random calls by several people through every door, on each database; the invariants hold after each."""

from __future__ import annotations

import hashlib
import json
import random
import secrets
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import yaml
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from mlflow import MlflowClient
from oracles.doors import DELETE_DOORS, ROLLBACK_DOORS, STAGE_DOORS, Person
from oracles.lifecycle import STAGES, Model
from support import people_server
from support.people_server import PeopleServer
from support.properties import examples

from ai_hub import registry
from mlflow_plugins.artifacts.s3 import s3_client
from mlflow_plugins.store.lifecycle_store import LifecycleStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


TENANT = "acme"
#: Whether each may change versions, and whether those in Production.
PEOPLE = {"vic": (False, False), "eve": (True, False), "ann": (True, True), "bob": (False, False)}
#: What was done and what was refused, by person and kind of call.
Outcome = tuple[str, str, bool]
ROLES = {
    "vic": {TENANT: "viewer"},
    "eve": {TENANT: "engineer"},
    "ann": {TENANT: "approver"},
    "bob": {"beta": "approver"},
}
_MANY = 5
_MORE = 20
_CALLS = 8
#: So many calls drawn from this number go through each door both ways: the shortest such walk of 40,000.
_WALK = (32306, 32)
_GROWTH = 0.2
_FORCED = 0.3


@dataclass
class Site:
    """A server with its people, a run to register from, and the same registry opened beside the server."""

    server: PeopleServer
    store: LifecycleStore
    source: str
    run_id: str
    bucket: str


class Doors(RuleBasedStateMachine):
    """A model, and a simple account of what it must look like."""

    site: ClassVar[Site]
    outcomes: ClassVar[set[Outcome]]

    def __init__(self) -> None:
        super().__init__()
        # the bucket outlives the database
        self.name = f"model-{secrets.token_hex(4)}"
        with self.site.server.person("ann"):
            MlflowClient(self.site.server.url, self.site.server.url).create_registered_model(self.name)
        self.model = Model(self.site.store, self.name)
        self.expected: dict[int, str] = {}
        self.promoted: list[int] = []
        self.hashed: dict[str, str] = {}
        self.reason: dict[int, str] = {}

    @rule(dice=st.integers(0, 2**64 - 1))
    def calls(self, dice: int) -> None:
        """Some calls in a row: drawn one by one they would be few, and few of them more than refusals."""
        self.walk(dice, _CALLS)

    def walk(self, dice: int, calls: int) -> None:
        """So many calls, the same for the same number."""
        draw = random.Random(dice)  # noqa: S311 - to be repeated
        for _ in range(calls):
            self._call(draw)
            self.holds()

    def _call(self, draw: random.Random) -> None:
        who = draw.choices(list(PEOPLE), weights=(1, 2, 4, 1))[0]
        versions = [version for version, stage in self.expected.items() if stage != "Deleted"]
        if not versions or (len(versions) < _MANY and draw.random() < _GROWTH):
            self.register(who)
            return
        version = draw.choice(versions)
        stage, force = draw.choice(STAGES), draw.random() < _FORCED
        actions: list[Callable[[], None]] = [
            *(partial(self.move, who, door, version, stage) for door in STAGE_DOORS),
            partial(self.roll_back, who, draw.choice(ROLLBACK_DOORS)),
            partial(self.delete, who, draw.choice(DELETE_DOORS), version, force=force),
            partial(self.give_reason, who, version),
            partial(self.delete_alias, who, stage.lower()),
        ]
        draw.choice(actions)()

    def register(self, who: str) -> None:
        """A new version is the next number and in Staging."""
        done = self._person(who).register(self.site.source, self.site.run_id) is None
        self.outcomes.add((who, "register", done))
        assert done == PEOPLE[who][0]
        if done:
            self.expected[len(self.expected) + 1] = "Staging"

    def move(self, who: str, door: str, version: int, stage: str) -> None:
        """Allowed by the table and by the role, whichever the door."""
        now = self.expected[version]
        refusal = self._person(who).move(door, version, stage)
        self.outcomes |= {(who, f"to {stage}", refusal is None), ("anybody", door, refusal is None)}
        if "alias" in door and now == stage and self.model.aliases().get(stage.lower()) == version:
            # setting the alias a version has already changes nothing
            assert (refusal is None) == PEOPLE[who][0], refusal
            return
        self._check(refusal, who, now, stage, allowed=stage in self._following(version))
        if refusal is None:
            self._account(version, stage)
            self._check_reason(version)

    def roll_back(self, who: str, door: str) -> None:
        """The archived version promoted last comes back."""
        candidates = [each for each in reversed(self.promoted) if self.expected[each] == "Archived"]
        refusal = self._person(who).roll_back(door)
        self.outcomes.add((who, "rollback", refusal is None))
        self._check(refusal, who, "Archived", "Production", allowed=bool(candidates))
        if refusal is None:
            self._account(candidates[0], "Production")
            self._check_reason(candidates[0])

    def delete(self, who: str, door: str, version: int, *, force: bool) -> None:
        """Archived ones go; by force all, where a door knows force."""
        now = self.expected[version]
        forced = force and door not in {"client", "rest"}
        refusal = self._person(who).delete(door, version, force=force)
        self.outcomes.add((who, "delete", refusal is None))
        # MLflow lets only managers of a model delete its versions
        may = PEOPLE[who][1]
        assert (refusal is None) == (may and (forced or now == "Archived")), refusal
        if refusal is None:
            self.expected[version] = "Deleted"

    def give_reason(self, who: str, version: int) -> None:
        """A tag that the next transition consumes."""
        refusal = self._person(who).tag(version, "promotion.reason", f"as {who} says")
        assert (refusal is None) == PEOPLE[who][0], refusal
        if refusal is None:
            self.reason[version] = f"as {who} says"

    def delete_alias(self, who: str, alias: str) -> None:
        """Nobody takes away an alias that mirrors a stage."""
        before = self.model.aliases()
        refusal = self._person(who).delete_alias(alias)
        assert refusal is not None or alias not in before
        assert self.model.aliases() == before

    @invariant()
    def holds(self) -> None:
        """One production version, a trail that replays, aliases that mirror, files as registered."""
        present = {version: stage for version, stage in self.expected.items() if stage != "Deleted"}
        assert self.model.stages() == present
        self.model.check()
        assert Counter(present.values())["Production"] <= 1
        trail = self.site.store.history(self.name)
        assert {row.actor_source for row in trail} <= {"authenticated"}
        assert {row.actor for row in trail} <= {"eve", "ann"}
        self._check_files(present)

    def _check_files(self, present: dict[int, str]) -> None:
        """Each version's folder holds what its manifest lists, which is what the registry noted."""
        client, bucket = s3_client(), self.site.bucket
        root = f"{TENANT}/{self.name}/"
        listed = client.list_objects_v2(Bucket=bucket, Prefix=root).get("Contents", [])
        for item in listed:
            if (seen := f"{item['Key']} {item['ETag']}") not in self.hashed:
                body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
                self.hashed[seen] = hashlib.sha256(body).hexdigest()
        hashes = {
            item["Key"].removeprefix(root): self.hashed[f"{item['Key']} {item['ETag']}"] for item in listed
        }
        folders: dict[str, dict[str, str]] = {}
        for key, sha256 in hashes.items():
            number, _, path = key.partition("/")
            folders.setdefault(number, {})[path] = sha256
        versions = [self.site.store.get_model_version(self.name, version) for version in present]
        assert set(folders) == {version.tags["semantic_version"] for version in versions}
        for version in versions:
            number = version.tags["semantic_version"]
            files = folders[number]
            assert files.pop("manifest.json") == version.tags["manifest_sha256"]
            key = f"{root}{number}/manifest.json"
            manifest = json.loads(client.get_object(Bucket=bucket, Key=key)["Body"].read())
            assert files == {path: entry["sha256"] for path, entry in manifest["files"].items()}

    def _person(self, name: str) -> Person:
        return Person(self.site.server, name, TENANT, self.name)

    def _following(self, version: int) -> set[str]:
        return {
            "Staging": {"Production", "Archived"},
            "Production": {"Archived"},
            "Archived": {"Staging", *(["Production"] if version in self.promoted else [])},
        }[self.expected[version]]

    @staticmethod
    def _check(refusal: str | None, who: str, now: str, stage: str, *, allowed: bool) -> None:
        changes, approves = PEOPLE[who]
        may = approves if "Production" in {now, stage} else changes
        assert (refusal is None) == (allowed and may), refusal

    def _account(self, version: int, stage: str) -> None:
        if stage == "Production":
            for other, now in self.expected.items():
                if other != version and now == stage:
                    self.expected[other] = "Archived"
            self.promoted = [*(each for each in self.promoted if each != version), version]
        self.expected[version] = stage

    def _check_reason(self, version: int) -> None:
        """The reason is the call's own, else that of the tag, which is used up either way."""
        said = self.reason.pop(version, None)
        newest = self.site.store.history(self.name, version)[0]
        assert newest.reason in {"a door", said}
        assert "promotion.reason" not in self.site.store.get_model_version(self.name, version).tags


@pytest.fixture
def site(
    empty_database: str, stack: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"lightgbm": {}}}))
    (folder / "model.bin").write_bytes(b"weights")
    with people_server.running_with_login(empty_database, stack, tmp_path, ROLES) as server:
        with server.person("eve"), registry.tenant_scope(TENANT):
            client = MlflowClient(server.url, server.url)
            run = client.create_run(client.create_experiment("demand")).info
            client.log_artifacts(run.run_id, str(folder), "model")
        store = LifecycleStore(f"lifecycle+{empty_database}")
        with registry.tenant_scope(TENANT):
            yield Site(server, store, f"{run.artifact_uri}/model", run.run_id, stack["MODEL_STORAGE_BUCKET"])
        store._dispose_engine()


@pytest.fixture
def expected(site: Site) -> set[Outcome]:
    """What makes calls worth something: each door lets in and refuses somebody, and so is each person."""
    Doors.site = site
    Doors.outcomes = set()
    return {
        *(("anybody", door, done) for door in STAGE_DOORS for done in (True, False)),
        ("ann", "to Production", True), ("ann", "rollback", True), ("ann", "delete", True),
        ("eve", "to Production", False), ("eve", "to Archived", True), ("eve", "register", True),
        ("vic", "to Archived", False), ("bob", "to Archived", False),
    }  # fmt: skip


@pytest.mark.parametrize("empty_database", ["sqlite"], indirect=True)
def test_doors__calls_by_everybody_through_each(expected: set[Outcome]) -> None:
    Doors().walk(*_WALK)
    assert expected <= Doors.outcomes, f"it needs another walk: {expected - Doors.outcomes}"


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("empty_database", ["sqlite", "postgresql"], indirect=True)
def test_doors__any_calls_by_anybody_in_any_order(expected: set[Outcome]) -> None:
    relaxed: Any = settings(
        max_examples=examples(1),
        stateful_step_count=5,
        phases=[Phase.generate],  # shrinking a failure would take minutes
    )
    run_state_machine_as_test(Doors, settings=relaxed)
    more = Doors()
    for dice in range(_MORE):  # Hypothesis draws other calls after every change of this file
        if expected <= Doors.outcomes:
            break
        more.calls(dice)
    assert expected <= Doors.outcomes, expected - Doors.outcomes
