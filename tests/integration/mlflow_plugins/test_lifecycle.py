"""Stages, aliases and the audit trail in the store itself, on SQLite and PostgreSQL."""

from __future__ import annotations

import time
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from oracles.lifecycle import Model, refused
from support.comparisons import record
from support.registry_servers import each_database

from mlflow_plugins.gates import comparison

if TYPE_CHECKING:
    from mlflow_plugins.store.lifecycle_store import LifecycleStore

#: How to bring a fresh version into each state.
ROUTES: dict[str, tuple[str, ...]] = {
    "Staging": (),
    "Production": ("Production",),
    "Archived": ("Archived",),
    "Archived after Production": ("Production", "Archived"),
}
ALLOWED = {
    ("Staging", "Production"),
    ("Staging", "Archived"),
    ("Production", "Archived"),
    ("Archived", "Staging"),
    ("Archived after Production", "Staging"),
    ("Archived after Production", "Production"),
}
TARGETS = ("None", "Staging", "Production", "Archived")


def test_register__enters_staging(model: Model) -> None:
    version = model.store.get_model_version(model.name, model.register())
    assert version.current_stage == "Staging"
    assert version.status == "READY"
    assert version.tags == {"semantic_version": "v1.0.0"}
    assert version.aliases == ["staging"]
    assert model.store.get_model_version(model.name, model.register()).tags["semantic_version"] == "v1.0.1"
    assert model.aliases() == {"staging": 2}
    model.check()


@pytest.mark.parametrize(
    ("door", "state", "target"),
    # no alias stands for the stage None
    [*product(["stage"], ROUTES, TARGETS), *product(["alias"], ROUTES, TARGETS[1:])],
)
def test_move__follows_the_table_through_every_door(
    sqlite_store: LifecycleStore, door: str, state: str, target: str
) -> None:
    model = Model(sqlite_store)
    version = model.register()
    for stage in ROUTES[state]:
        model.move(version, stage)
    before = model.stage(version)
    trail = len(sqlite_store.history(model.name))
    if door == "stage":
        refusal = refused(lambda: model.move(version, target))
        allowed = (state, target) in ALLOWED
    else:
        refusal = refused(lambda: model.alias(target.lower(), version))
        # setting the alias a version has already changes nothing
        allowed = (state, target) in ALLOWED or before == target
    assert (refusal is None) == allowed, refusal
    assert model.stage(version) == (target if allowed else before)
    moved = allowed and before != target
    assert len(sqlite_store.history(model.name)) == trail + moved
    model.check()


@pytest.mark.parametrize("archive", [False, True])
def test_promote__archives_the_previous_one_whatever_the_flag(model: Model, archive: bool) -> None:
    first, second, bystander = model.register(), model.register(), model.register()
    model.move(first, "Production")
    model.move(second, "Production", archive=archive)
    assert model.stages() == {first: "Archived", second: "Production", bystander: "Staging"}
    assert model.aliases() == {"production": second, "archived": first, "staging": bystander}
    own, displaced = model.store.history(model.name)[:2]
    assert (own.version, own.from_stage, own.to_stage) == (second, "Staging", "Production")
    assert (displaced.version, displaced.to_stage) == (first, "Archived")
    assert displaced.evidence == {"displaced_by": second}
    model.check()


def test_archive_existing_versions__to_staging__archives_the_others(model: Model) -> None:
    first, second, third = (model.register() for _ in range(3))
    model.move(third, "Archived")
    model.move(third, "Staging", archive=True)
    assert model.stages() == {first: "Archived", second: "Archived", third: "Staging"}
    model.check()


def test_archive_existing_versions__to_archived__is_a_bad_request(model: Model) -> None:
    version = model.register()
    with pytest.raises(MlflowException, match="cannot archive existing") as refusal:
        model.move(version, "Archived", archive=True)
    assert refusal.value.get_http_status_code() == 400


def test_alias__is_the_transition__in_any_case(model: Model) -> None:
    first, second = model.register(), model.register()
    model.store.set_registered_model_alias(model.name, "production", first)
    model.store.set_registered_model_alias(model.name, "Production", second)
    assert model.stages() == {first: "Archived", second: "Production"}
    assert model.aliases() == {"production": second, "archived": first}
    model.store.set_registered_model_alias(model.name, "champion", first)
    assert model.aliases()["champion"] == first
    assert model.store.get_model_version_by_alias(model.name, "production").version == second
    model.check()


def test_alias__staging__follows_who_entered_last(model: Model) -> None:
    first, second = model.register(), model.register()
    model.move(first, "Archived")
    model.move(first, "Staging")
    assert model.aliases()["staging"] == first
    assert "already" in (
        refused(lambda: model.store.set_registered_model_alias(model.name, "staging", second)) or ""
    )
    model.move(first, "Archived")
    assert model.aliases()["staging"] == second
    model.check()


@pytest.mark.parametrize("alias", ["production", "staging", "archived", "Production"])
def test_delete_alias__that_mirrors_a_stage__is_refused_with_a_hint(model: Model, alias: str) -> None:
    for stage in ("Production", "Archived"):
        model.move(model.register(), stage)
    model.register()
    hint = refused(lambda: model.store.delete_registered_model_alias(model.name, alias))
    assert hint
    assert "cannot be removed" in hint
    model.check()


def test_delete_alias__others_and_absent_ones__work_as_in_mlflow(model: Model) -> None:
    version = model.register()
    model.store.set_registered_model_alias(model.name, "champion", version)
    model.store.delete_registered_model_alias(model.name, "champion")
    model.store.delete_registered_model_alias(model.name, "production")
    assert model.aliases() == {"staging": version}


@pytest.mark.parametrize("name", [None, ""])
def test_create_model__without_a_name__is_mlflows_bad_request(
    sqlite_store: LifecycleStore, name: Any
) -> None:
    with pytest.raises(MlflowException, match="Missing value for required parameter 'name'") as refusal:
        sqlite_store.create_registered_model(name)
    assert refusal.value.get_http_status_code() == 400


def test_rename__only_without_versions(model: Model) -> None:
    new_name = f"{model.name}-renamed"
    model.store.rename_registered_model(model.name, new_name)
    renamed = Model(model.store, new_name)
    renamed.register()
    assert "Copy" in (refused(lambda: model.store.rename_registered_model(new_name, model.name)) or "")


def test_copy__to_another_model__enters_staging_with_its_origin(model: Model) -> None:
    model.register(semantic_version="2.3.0")
    model.move(1, "Production")
    model.tag(1, f"{comparison.PREFIX}.1", record().model_dump_json())
    source = model.store.get_model_version(model.name, 1)
    other = Model(model.store)
    other.register()
    copy = model.store.copy_model_version(source, other.name)
    assert copy.current_stage == "Staging"
    assert copy.tags["copied_from"] == f"models:/{model.name}/1"
    assert copy.tags["semantic_version"] == "v2.3.0"
    # evidence of another model
    assert not any(key.startswith(comparison.PREFIX) for key in copy.tags)
    # the number is taken now: a copy's number is a wish
    assert model.store.copy_model_version(source, other.name).tags["semantic_version"] == "v2.3.1"
    other.check()
    model.check()


def test_reason_and_user__given_as_tags__are_used_up(model: Model) -> None:
    first, second = model.register(), model.register()
    model.tag(first, "promotion.reason", "Better on the June week")
    model.tag(first, "promotion.user", "ada")
    model.move(first, "Production")
    newest = model.store.history(model.name)[0]
    assert newest.reason == "Better on the June week"
    assert (newest.actor, newest.actor_source) == ("ada", "claimed")
    assert model.store.get_model_version(model.name, first).tags == {"semantic_version": "v1.0.0"}
    model.move(second, "Production")
    newest, displaced = model.store.history(model.name)[:2]
    assert (newest.reason, newest.actor, newest.actor_source) == (None, "unknown", "unknown")
    assert displaced.reason == f"Displaced from Production by version {second}."


def test_reason__of_a_refused_move__stays_for_the_next(model: Model) -> None:
    version = model.register()
    model.tag(version, "promotion.reason", "why not")
    assert refused(lambda: model.move(version, "Staging"))
    model.move(version, "Archived")
    assert model.store.history(model.name)[0].reason == "why not"


@each_database
def test_audit_trail__cannot_be_changed__whoever_connects(model: Model) -> None:
    model.register()
    for statement in (
        "UPDATE lifecycle_transitions SET actor = 'eve'",
        "DELETE FROM lifecycle_transitions",
        *(("TRUNCATE lifecycle_transitions",) if model.store.engine.dialect.name == "postgresql" else ()),
    ):
        with (
            pytest.raises(sa.exc.DBAPIError, match="append-only"),
            model.store.engine.begin() as connection,
        ):
            connection.exec_driver_sql(statement)
    assert len(model.store.history(model.name)) == 1


def test_production_at__answers_for_any_time(model: Model) -> None:
    first, second = model.register(), model.register()
    assert model.store.production_at(model.name, 2**50) is None
    for version, stage in ((first, "Production"), (second, "Production"), (second, "Archived")):
        time.sleep(0.002)  # the trail knows milliseconds
        model.move(version, stage)
    by_stage = {(row.version, row.to_stage): row.at_ms for row in model.store.history(model.name)}
    promoted, replaced, gone = by_stage[1, "Production"], by_stage[2, "Production"], by_stage[2, "Archived"]

    def at(moment: int) -> int | None:
        found = model.store.production_at(model.name, moment)
        return found.version if found else None

    assert promoted < replaced < gone
    assert [at(promoted - 1), at(promoted), at(replaced - 1)] == [None, first, first]
    assert [at(replaced), at(gone - 1), at(gone)] == [second, second, None]


def test_roll_back__returns_to_the_one_before(model: Model) -> None:
    first, second, third = (model.register() for _ in range(3))
    assert "nothing to roll back" in (refused(lambda: model.store.roll_back(model.name)) or "")
    for version in (first, second, third):
        model.move(version, "Production")
    own, displaced = model.store.roll_back(model.name, reason="drift")
    assert (own.version, own.from_stage, own.reason) == (second, "Archived", "drift")
    assert displaced.version == third
    assert model.store.roll_back(model.name, first)[0].version == first
    assert "only archived" in (refused(lambda: model.store.roll_back(model.name, model.register())) or "")
    model.check()


def test_roll_back__to_one_that_never_was_in_production__is_refused(model: Model) -> None:
    version = model.register()
    model.move(version, "Archived")
    assert "never in Production" in (refused(lambda: model.store.roll_back(model.name, version)) or "")


def test_prompts__keep_mlflows_own_rules(store: LifecycleStore, model: Model) -> None:
    name = f"prompt {model.name}"  # a space is allowed for prompts
    prompt = [RegisteredModelTag(IS_PROMPT_TAG_KEY, "true")]
    store.create_registered_model(name, tags=prompt)
    store.create_model_version(name, "prompt-template", tags=[ModelVersionTag(IS_PROMPT_TAG_KEY, "true")])
    store.set_registered_model_alias(name, "production", 1)
    assert store.get_model_version(name, 1).current_stage == "None"
    store.delete_registered_model_alias(name, "production")
    with pytest.raises(MlflowException, match="is a prompt"):
        store.create_model_version(name, "runs-elsewhere")
    assert refused(lambda: store.delete_registered_model_tag(name, IS_PROMPT_TAG_KEY))
    assert refused(lambda: store.set_registered_model_tag(model.name, prompt[0]))
    store.delete_model_version(name, 1)
    store.rename_registered_model(name, f"{name} 2")
    store.delete_registered_model(f"{name} 2")


@pytest.mark.parametrize("name", ["a/b", "..", ".models", "a b", "mod\u00e8le"])
def test_create_model__whose_name_is_no_folder_name__is_a_bad_request(
    sqlite_store: LifecycleStore, name: str
) -> None:
    with pytest.raises(MlflowException) as refusal:
        sqlite_store.create_registered_model(name)
    assert refusal.value.get_http_status_code() == 400


def test_unknown__model_version_or_stage__is_told(model: Model) -> None:
    version = model.register()
    for action, status in (
        (lambda: model.move(9, "Production"), 404),
        (lambda: model.move(version, "Retired"), 400),
        (lambda: model.store.move_version("nobody", 1, "Production"), 404),
        (lambda: model.store.roll_back("nobody"), 404),
        (lambda: model.store.set_registered_model_alias("nobody", "production", 1), 404),
        (lambda: model.store.create_model_version("nobody", "runs-elsewhere"), 404),
    ):
        with pytest.raises(MlflowException) as refusal:
            action()
        assert refusal.value.get_http_status_code() == status
    model.check()
