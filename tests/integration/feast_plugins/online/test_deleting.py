"""Deleting touches one project, whatever others are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from support.online_repo import METER, RECENT, Pair, view

from feast_plugins.online import encoding

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Ends of each other, patterns, and bytes that can be a part of a key.
PROJECTS = [
    "energy",
    "prod_energy",
    "gy",
    "e",
    "en*gy",
    "en[e]rgy",
    "energ?",
    "\\energy",
    "1energy",
    "énergy",
]
KEYS = {
    "a": {"tenant_id": Value(string_val="t"), "asset_id": Value(string_val="energy")},
    "b": {"tenant_id": Value(string_val="t"), "asset_id": Value(string_val="energy")},
    "m": {"meter_id": Value(int64_val=int.from_bytes(b"[*]energ", "little"))},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, connection: str) -> Iterator[Pair]:
    """The project `energy`, and rows of all other projects beside it; `a` and `b` share a hash."""
    pair = Pair.open(tmp_path_factory.mktemp("deleting"), connection, "energy")
    pair.apply(view("a"), view("b"), view("m", of=[METER]))
    yield pair
    client = redis_of(pair)
    for key in list(client.scan_iter()):
        if owner(key) in PROJECTS:
            client.unlink(key)


def redis_of(pair: Pair) -> redis.Redis:
    client = pair.ours.provider.online_store._get_client(pair.ours.config.online_store)
    assert isinstance(client, redis.Redis)
    return client


def fill(pair: Pair) -> None:
    for project in PROJECTS:
        config = pair.ours.config.model_copy(update={"project": project})
        for name, key in KEYS.items():
            entity = EntityKey(join_keys=list(key), entity_values=list(key.values()))
            data: Any = [(entity, {name: Value(double_val=1.0)}, RECENT, None)]
            table = pair.ours.get_feature_view(name)
            pair.ours.provider.online_store.online_write_batch(config, table, data, None)


def owner(key: bytes) -> str | None:
    try:
        return encoding.parse(key)[1]
    except encoding.NotOurKeyError:
        return None


def fields(pair: Pair) -> dict[str, int]:
    """Number of fields of each project."""
    client, counts = redis_of(pair), dict.fromkeys(PROJECTS, 0)
    for key in set(client.scan_iter()):
        if (project := owner(key)) in counts:
            counts[project] += client.hlen(key)
    return counts


WHOLE = dict.fromkeys(PROJECTS, 6)


def test_delete_view__leaves_the_other_view_of_the_hash_and_other_projects(pair: Pair) -> None:
    fill(pair)
    assert fields(pair) == WHOLE
    pair.ours.provider.online_store.delete_table(pair.ours.config, pair.ours.get_feature_view("a"))
    assert fields(pair) == WHOLE | {"energy": 4}
    actual = pair.ours.get_online_features(["b:b"], [{"tenant_id": "t", "asset_id": "energy"}])
    assert actual.to_dict()["b"] == [1.0]


def test_delete_view__the_last_one__takes_what_was_left_behind(pair: Pair) -> None:
    fill(pair)
    client = redis_of(pair)
    (key,) = [item for item in client.scan_iter() if owner(item) == "energy" and b"meter_id" in item]
    client.hset(key, "gone", "a feature that the view had once")
    pair.ours.provider.online_store.delete_table(pair.ours.config, pair.ours.get_feature_view("m"))
    assert not client.exists(key)


def test_delete_entity_values__of_one_set_of_join_keys(pair: Pair) -> None:
    fill(pair)
    pair.ours.provider.online_store.delete_entity_values(pair.ours.config, ["tenant_id", "asset_id"])
    assert fields(pair) == WHOLE | {"energy": 2}


def test_apply__without_a_view__deletes_its_rows(pair: Pair) -> None:
    fill(pair)
    pair.ours.apply([], objects_to_delete=[pair.ours.get_feature_view("b")], partial=False)
    try:
        assert fields(pair) == WHOLE | {"energy": 4}
    finally:
        pair.apply(view("b"))


@pytest.mark.parametrize("project", PROJECTS)
def test_teardown__of_any_project__leaves_all_others(pair: Pair, project: str) -> None:
    fill(pair)
    tables = [pair.ours.get_feature_view(name) for name in KEYS]
    config = pair.ours.config.model_copy(update={"project": project})
    pair.ours.provider.online_store.teardown(config, tables, [])
    assert fields(pair) == WHOLE | {project: 0}


def test_teardown__by_feasts_own_store__deletes_others_too(pair: Pair) -> None:
    """What ours is for."""
    fill(pair)
    tables = [pair.stock.get_feature_view(name) for name in KEYS]
    pair.stock.provider.online_store.teardown(pair.stock.config, tables, [])
    assert fields(pair)["prod_energy"] == 0
