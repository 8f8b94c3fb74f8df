"""What is in a stage is found by MLflow's own search, on SQLite and on PostgreSQL."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException
from oracles.lifecycle import STAGES, Model
from support.registry_servers import each_database

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow_plugins.store.lifecycle_store import LifecycleStore

#: The last stage of each of a model's versions.
LIVES = [["Archived", "Production", "Staging"], ["Staging"], ["Archived", "Archived"], ["Production"], []]


@pytest.fixture
def models(store: LifecycleStore) -> list[Model]:
    """Models whose names begin alike, and nobody else's do."""
    prefix = f"found-{secrets.token_hex(5)}"
    models = [Model(store, f"{prefix}-{number}") for number in range(len(LIVES))]
    for model, life in zip(models, LIVES, strict=True):
        store.create_registered_model(model.name)
        for stage in life:
            version = model.register()
            if stage != "Staging":
                model.move(version, stage)
        assert model.stages() == dict(enumerate(life, 1))
    return models


@each_database
def test_search__by_stage__finds_versions_and_models(store: LifecycleStore, models: list[Model]) -> None:
    begin = f"name LIKE '{models[0].name[:-1]}%'"
    lives = {model.name: model.stages() for model in models}
    for stage in STAGES:
        for comparison, holds in _COMPARISONS.items():
            for words in (
                f"tags.lifecycle_stage {comparison} '{stage}' AND {begin}",
                f"{begin} AND tags.`lifecycle_stage` {comparison} '{stage.lower()}'",
            ):
                found = store.search_model_versions(words)
                assert {(item.name, int(item.version)) for item in found} == {
                    (name, version)
                    for name, life in lives.items()
                    for version, present in life.items()
                    if holds(present == stage)
                }
                assert {item.name for item in store.search_registered_models(words)} == {
                    name for name, life in lives.items() if holds(stage in life.values())
                }


_COMPARISONS: dict[str, Callable[[bool], bool]] = {"=": bool, "!=": lambda is_so: not is_so}


@each_database
def test_search__beside_other_filters_and_page_by_page(store: LifecycleStore, models: list[Model]) -> None:
    first = models[0]
    first.tag(2, "colour", "green")
    words = f"tags.lifecycle_stage = 'Production' AND tags.colour = 'green' AND name = '{first.name}'"
    assert [int(item.version) for item in store.search_model_versions(words)] == [2]
    assert not store.search_model_versions(words.replace("Production", "Staging"))
    page = store.search_registered_models(
        f"tags.lifecycle_stage = 'Production' AND name LIKE '{first.name[:-1]}%'", max_results=1
    )
    assert [item.name for item in page] == [first.name]
    following = store.search_registered_models(
        f"tags.lifecycle_stage = 'Production' AND name LIKE '{first.name[:-1]}%'",
        max_results=1,
        page_token=page.token,
    )
    assert [item.name for item in following] == [models[3].name]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("tags.lifecycle_stage = 'Prodution'", "Invalid Model Version stage: Prodution"),
        ("tags.lifecycle_stage LIKE 'Prod%'", "Compare tags.lifecycle_stage by = or !="),
    ],
)
def test_search__by_what_is_no_stage__is_refused_with_words(
    sqlite_store: LifecycleStore, words: str, why: str
) -> None:
    for search in (sqlite_store.search_model_versions, sqlite_store.search_registered_models):
        with pytest.raises(MlflowException, match=why) as refusal:
            search(words)
        assert refusal.value.get_http_status_code() == 400


def test_tag_that_stands_for_the_stage__is_never_stored(store: LifecycleStore, models: list[Model]) -> None:
    model = models[0]
    mine = ModelVersionTag("lifecycle_stage", "Production")
    for refused in (
        lambda: store.set_model_version_tag(model.name, 1, mine),
        lambda: store.set_registered_model_tag(model.name, RegisteredModelTag(mine.key, mine.value)),
        lambda: store.create_registered_model(f"{model.name}-tagged", [RegisteredModelTag(mine.key, "x")]),
        lambda: store.create_model_version(model.name, "models:/m-1", tags=[mine]),
    ):
        with pytest.raises(MlflowException, match="Tag lifecycle_stage is reserved") as refusal:
            refused()
        assert refusal.value.get_http_status_code() == 400
    store.delete_model_version_tag(model.name, 1, mine.key)  # one that was stored before
