"""`feast apply` while features are read: each answer is of one state, and soon of the new one."""

from __future__ import annotations

import asyncio
import gc
import secrets
import threading
import time
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.infra.registry.sql import SqlRegistry
from feast.types import Float64
from support.feature_reading import PATIENT, Clock, ask, run
from support.properties import examples

from ai_hub.features.online import catalog
from ai_hub.features.online.catalog import RegistryWatcher
from ai_hub.features.store import open_store
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

UNIQUE = secrets.token_hex(4)
SET = f"moving_{UNIQUE}"
STATES = ("old", "new")
_APPLIES = examples(3)


def objects(state: str) -> list[Any]:
    """Two views whose features have other names in each state, and a service of both."""
    entities = [
        Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.STRING)
        for name in ("tenant", "asset")
    ]
    views = [
        FeatureView(
            name=f"{side}_{UNIQUE}",
            entities=entities,
            schema=[Field(name=f"{side}_{state}", dtype=Float64)],
            source=PostgreSQLSource(
                name=f"{side}_{UNIQUE}",
                query=f"SELECT *, lag_1h AS {side}_{state} FROM forecast_basic_features",  # noqa: S608
                timestamp_field="event_timestamp",
                created_timestamp_column="created_timestamp",
            ),
            ttl=timedelta(hours=3),
            tags={"step": "1h"},
        )
        for side in ("left", "right")
    ]
    return [*views, FeatureService(name=SET, features=views)]


def names(state: str) -> list[str]:
    return [f"left_{state}", f"right_{state}"]


@pytest.fixture
def slow_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each object of an apply takes a while, as over a network."""
    apply = SqlRegistry._apply_object

    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.05)
        return apply(*args, **kwargs)

    monkeypatch.setattr(SqlRegistry, "_apply_object", slowly)


@pytest.mark.usefixtures("slow_writes")
def test_apply_while_features_are_read__old_or_new_and_new_within_a_second(energy: Energy) -> None:
    store = open_store()
    store.apply(objects("old"))
    late: list[float] = []

    async def answered(reader: FeatureReader) -> list[str]:
        (result,) = await ask(reader, energy.main, "1", feature_set=SET)
        found = list(result["features"])
        assert found in [names(state) for state in STATES]
        assert not result["degraded"]
        (other,) = await ask(reader, energy.main, "1", feature_set="forecast_basic")
        assert set(result["features"].values()) == {other["features"]["lag_1h"]}
        return found

    async def work(reader: FeatureReader) -> None:
        for number in range(1, _APPLIES + 1):
            state = STATES[number % 2]
            applying = asyncio.create_task(asyncio.to_thread(store.apply, objects(state)))
            while not applying.done():
                await answered(reader)
                await asyncio.sleep(0.01)
            await applying
            ended = time.monotonic()
            while await answered(reader) != names(state):
                assert time.monotonic() - ended < 10
            late.append(time.monotonic() - ended)

    try:
        run(work, Clock(energy.now + timedelta(minutes=10)), options=PATIENT)
    finally:
        store.apply([], objects_to_delete=objects("old"), partial=False)
    assert sorted(late)[len(late) // 2] < 1.0, late


def test_first_state__is_not_searched_for_garbage(energy: Energy) -> None:
    """A full collection would stop requests for 5 ms."""
    frozen: list[int] = []

    async def work(reader: FeatureReader) -> None:
        await ask(reader, energy.main, "1", feature_set="forecast_basic")
        frozen.append(gc.get_freeze_count())

    catalog._freeze.cache_clear()
    gc.unfreeze()
    try:
        run(work, Clock(energy.now + timedelta(minutes=10)), options=PATIENT)
        run(work, Clock(energy.now + timedelta(minutes=10)), options=PATIENT)
    finally:
        gc.unfreeze()
    first, second = frozen
    assert first > 0
    assert second <= first, "what later states replace is freed"


def test_nothing_changes__registry_is_not_read(energy: Energy, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read once for each state that was seen, however often it is looked at."""
    states: list[Any] = []
    reads: list[Any] = []
    looked_five_times = threading.Event()
    looked = RegistryWatcher._token
    read = SqlRegistry.proto

    def looks(reader: RegistryWatcher) -> Any:
        states.append(looked(reader))
        if len(states) > 5:
            looked_five_times.set()
        return states[-1]

    def reading(registry: SqlRegistry) -> Any:
        # others in this process have registries, too
        if threading.current_thread().name.startswith("registry"):
            reads.append(registry)
        return read(registry)

    async def work(reader: FeatureReader) -> None:
        await ask(reader, energy.main, "1")
        await asyncio.to_thread(looked_five_times.wait, 60)

    monkeypatch.setattr(RegistryWatcher, "_token", looks)
    monkeypatch.setattr(SqlRegistry, "proto", reading)
    run(work, Clock(energy.now + timedelta(minutes=10)))
    assert len(states) > 5
    # Feast reads it once when it is opened
    assert 1 <= len(reads) - 1 <= len(set(states)), states


@pytest.mark.usefixtures("energy")
def test_states_that_were_dropped__are_not_taken_for_later_ones(tmp_path: Path) -> None:
    """A new state may be at the address of a dropped one, by which Feast finds what it listed."""
    watchers, project = {}, open_store().project
    for name in ("first", "second"):
        url = f"sqlite:///{tmp_path}/{name}.db"
        open_store(Settings(feast_registry_uri=url)).apply([FeatureService(name=name, features=[])])
        watchers[name] = RegistryWatcher(url, project)

    def read(name: str) -> Any:
        watchers[name].reread()
        while (state := watchers[name].poll()) is None:
            time.sleep(0.05)
        return state

    def listed(state: Any) -> list[str]:
        return [each.name for each in state.list_feature_services(project, allow_cache=True)]

    with ExitStack() as stack:
        for watcher in watchers.values():
            stack.callback(watcher.close)
        read("second")  # opening it lists others
        state = read("first")
        place, number = id(state.cached_registry_proto), state.cached_registry_proto.version_id
        assert listed(state) == ["first"]
        again = read("first")
        assert len({"", number, again.cached_registry_proto.version_id}) == 3
        # a number is none of what requests are answered with, which a materialization leaves as it is
        assert catalog._definitions(again) == catalog._definitions(state)
        del again
        assert listed(state) == ["first"]
        del state
        for _ in range(50):  # most often it is the third or the fourth
            state = read("second")
            if id(state.cached_registry_proto) == place:
                break
        assert listed(state) == ["second"]
    # nor in stores, which read their registry anew each minute
    registry: Any = open_store(Settings(feast_registry_uri=f"sqlite:///{tmp_path}/first.db")).registry
    first = registry.cached_registry_proto.version_id
    registry.refresh()
    assert len({"", first, registry.cached_registry_proto.version_id}) == 3
