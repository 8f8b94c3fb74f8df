"""A process or a Redis that dies midway leaves nothing that a second run does not complete."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from feast import FeatureStore, RepoConfig
from support.materialize_lab import DAY, NOON, Lab, view
from support.registry_servers import FORKS, PRELOADED

from benchmarks.servers import valkey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.process import BaseProcess
    from pathlib import Path

ENTITIES = 4_000
ENGINE = {"batch_rows": 25}
FILL = (
    "INSERT INTO meters"
    " SELECT 't' || mod(i, 7), 'a' || i, %(now)s - interval '2 hours', %(created)s, i, i, 'on'"
    " FROM generate_series(1, %(count)s) AS i"
)


def start_process(config: dict[str, Any], start: datetime, end: datetime) -> BaseProcess:
    FORKS.set_forkserver_preload(PRELOADED)
    # daemon: it waits for ever, and a test that fails before it kills it would too
    process = FORKS.Process(target=materialize, args=(config, start, end), daemon=True)
    process.start()
    return process


def materialize(config: dict[str, Any], start: datetime, end: datetime) -> None:
    """Materialize, and wait for the end where a third is written."""
    store = FeatureStore(config=RepoConfig(**config))
    stop_after(store, ENTITIES // 3, signal.pause)
    store.materialize(start, end)


def wait_until(condition: object, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def sessions(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
        assert row
        return int(row[0])


def values(client: redis.Redis) -> dict[bytes, dict[bytes, bytes]]:
    return {key: client.hgetall(key) for key in client.scan_iter(count=5000)}  # type: ignore[misc]


def writes(client: redis.Redis) -> int:
    stats = client.info("commandstats")
    return int(stats.get("cmdstat_hset", {}).get("calls", 0))  # type: ignore[union-attr]


def test_materialize__process_killed__the_next_run_resumes(meters: Lab) -> None:
    before = datetime.now(UTC) - DAY
    meters.execute(FILL, {"now": NOON, "created": before, "count": ENTITIES})
    config = meters.config(engine=ENGINE)
    meters.store(view(), engine=ENGINE, registry=config["registry"])
    start, end = NOON - DAY, NOON - timedelta(hours=1)
    client = meters.client()
    process = start_process(config, start, end)
    wait_until(lambda: client.dbsize() > ENTITIES / 5)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    killed_at = client.dbsize()
    assert killed_at < ENTITIES
    wait_until(lambda: sessions(meters.dsn) == 0, 10)

    # meanwhile one that was written is corrected, and one has a newer row
    first, second = "a10", "a300"
    meters.execute("UPDATE meters SET load = -1, created = now() WHERE asset_id = %s", [first])
    meters.execute(
        "INSERT INTO meters SELECT tenant_id, asset_id, %s, %s, -2, count, state"
        " FROM meters WHERE asset_id = %s",
        [NOON, before, second],
    )
    store = meters.store(view(), engine=ENGINE, registry=config["registry"])
    client.config_resetstat()
    store.materialize(start, NOON)
    assert writes(client) <= ENTITIES - killed_at + 10 * ENGINE["batch_rows"]
    resumed = values(client)
    assert len(resumed) == ENTITIES  # the checkpoint is gone, too
    client.flushdb()
    store.materialize(start, NOON)
    assert values(client) == resumed
    rows = [{"tenant_id": f"t{int(asset[1:]) % 7}", "asset_id": asset} for asset in (first, second)]
    answer = store.get_online_features(["meters:count"], rows).to_dict(include_event_timestamps=True)
    assert answer["count__ts"][1] == NOON.timestamp()


@pytest.mark.parametrize("change", ["flushed", "other columns", "an earlier start", "view deleted"])
def test_materialize__what_was_written_cannot_be_relied_on__starts_over(meters: Lab, change: str) -> None:
    meters.execute(FILL, {"now": NOON, "created": NOON - DAY, "count": 1000})
    config = meters.config(engine=ENGINE)
    store = meters.store(view(), engine=ENGINE, registry=config["registry"])
    client = meters.client()
    stop_after(store, 300)
    with pytest.raises(KeyboardInterrupt):
        store.materialize(NOON - DAY, NOON)
    assert len(list(client.scan_iter(b"feast_plugins:*"))) == 1
    start = NOON - DAY
    if change == "flushed":
        client.flushdb()
    elif change == "other columns":
        store.apply([view(schema={"load": view().features[0].dtype})])
    elif change == "an earlier start":
        start -= timedelta(hours=1)
    else:
        store.apply([], objects_to_delete=[store.get_feature_view("meters")], partial=False)
        assert client.dbsize() == 0
        store.apply([view()])
    again = meters.store(engine=ENGINE, registry=config["registry"])
    client.config_resetstat()
    again.materialize(start, NOON)
    assert writes(client) == 1000
    assert client.dbsize() == 1000


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Also where the run was started in the background, whose processes ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_materialize__interrupted__ends_its_query(meters: Lab) -> None:
    slow = view("slow", query="SELECT meters.* FROM meters, pg_sleep(60)")
    store = meters.store(slow, view())
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(1, signal.pthread_kill, [main, signal.SIGINT]).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        store.materialize(NOON - DAY, NOON)
    assert time.monotonic() - started < 10
    wait_until(lambda: sessions(meters.dsn) == 0, 5)


def interrupt() -> None:
    raise KeyboardInterrupt


def stop_after(store: object, rows: int, stop: Callable[[], None] = interrupt) -> None:
    """Interrupt the store's next materialization once so many rows are written."""
    engine = store._get_provider().batch_engine  # type: ignore[attr-defined]
    materialize = engine.materialize
    written = 0

    class Bar:
        def set_description_str(self, name: str) -> None:
            assert name == "meters"

        def update(self, count: int) -> None:
            nonlocal written
            written += count
            if written >= rows:
                stop()

        def close(self) -> None: ...

    def run(registry: object, tasks: list[object], **options: object) -> object:
        for task in tasks:
            task.tqdm_builder = lambda _: Bar()  # type: ignore[attr-defined]
        return materialize(registry, tasks, **options)

    engine.materialize = run


@pytest.mark.parametrize("death", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.long)])
def test_materialize__redis_dies__fails_soon_and_another_run_completes(
    meters: Lab, death: signal.Signals, tmp_path: Path
) -> None:
    meters.execute(FILL, {"now": NOON, "created": NOON - DAY, "count": ENTITIES})
    engine = ENGINE | {"redis_timeout_seconds": 1}
    with valkey() as server:
        lab = Lab(meters.dsn, server, tmp_path)
        store = lab.store(view(), engine=engine)
        client = lab.client()

        def kill() -> None:
            wait_until(lambda: client.dbsize() > ENTITIES / 10)
            os.kill(server.pid, death)

        killer = threading.Thread(target=kill)
        killer.start()
        started = time.monotonic()
        try:
            with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
                store.materialize(NOON - DAY, NOON)
            assert time.monotonic() - started < 20
        finally:
            killer.join()
            if death == signal.SIGSTOP:
                os.kill(server.pid, signal.SIGCONT)
        wait_until(lambda: sessions(meters.dsn) == 0, 10)
        if death == signal.SIGSTOP:
            store.materialize(NOON - DAY, NOON)
            assert client.dbsize() == ENTITIES
