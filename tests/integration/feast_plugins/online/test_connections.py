"""Connections that break, are shared, or belong to a cluster: every answer is that to its own question."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
import uvloop
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from support.online_repo import OURS, RECENT, Pair, open_store, view
from support.valkey_servers import HOST, cluster, free_port, sentinel, server

from feast_plugins.online.connection import Commands, Pipeline, PipelinedConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from feast import FeatureStore

#: How long a hasty client waits, and how long the server then lets it wait.
PATIENCE_S, PAUSE_MS = 0.1, 250
MASTER = "meters"
ASSETS = [str(number) for number in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a registry with one view, and of servers."""
    folder = tmp_path_factory.mktemp("connections")
    Pair.open(folder, "127.0.0.1:1", "project").apply(view("a"))
    return folder


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    with server(folder) as port:
        fill(opened(folder, f"{HOST}:{port}"))
        yield port


def opened(folder: Path, connection: str, **online: Any) -> FeatureStore:
    return open_store(folder, connection, OURS, "project", **online)


@pytest.fixture
def admin(port: int) -> redis.Redis:
    return redis.Redis(HOST, port)


@pytest.fixture
def store(folder: Path, port: int) -> FeatureStore:
    return opened(folder, f"{HOST}:{port}")


@pytest.fixture
def hasty(folder: Path, port: int) -> FeatureStore:
    """Asks once, and does not wait long."""
    return opened(folder, f"{HOST}:{port}", timeout_seconds=PATIENCE_S, retries=0)


def rows(assets: list[str]) -> list[dict[str, str]]:
    return [{"tenant_id": "t", "asset_id": asset} for asset in assets]


def batch() -> list[Any]:
    """The value of each asset is its number."""
    return [
        (
            EntityKey(join_keys=list(row), entity_values=[Value(string_val=text) for text in row.values()]),
            {"a": Value(double_val=float(row["asset_id"]))},
            RECENT,
            None,
        )
        for row in rows(ASSETS)
    ]


def fill(store: FeatureStore) -> None:
    store.provider.online_store.online_write_batch(store.config, store.get_feature_view("a"), batch(), None)


def read(store: FeatureStore, *assets: str) -> list[Any]:
    answer: list[Any] = store.get_online_features(["a:a"], rows(list(assets))).to_dict()["a"]
    return answer


async def read_async(store: FeatureStore, *assets: str) -> list[Any]:
    answer = await store.get_online_features_async(["a:a"], rows(list(assets)))
    actual: list[Any] = answer.to_dict()["a"]
    return actual


def run(store: FeatureStore, work: Callable[[], Any]) -> Any:
    """In an event loop, whose connections are closed at the end."""

    async def closing() -> Any:
        try:
            return await work()
        finally:
            await store.close()

    return asyncio.run(closing())


def test_killed_connections__are_replaced(store: FeatureStore, admin: redis.Redis) -> None:
    async def killed() -> list[Any]:
        actual = [await read_async(store, "1")]
        admin.client_kill_filter(_type="normal")
        return [*actual, await read_async(store, "2")]

    assert read(store, "1") == [1.0]
    admin.client_kill_filter(_type="normal")
    assert read(store, "2") == [2.0]
    assert run(store, killed) == [[1.0], [2.0]]


def test_answer_that_comes_too_late__is_nobody_elses(hasty: FeatureStore, admin: redis.Redis) -> None:
    """The server answers after the client gave up: what it then sends must not answer the next question."""

    async def late(asset: str) -> None:
        with pytest.raises(redis.TimeoutError):
            await read_async(hasty, asset)

    async def cancelled(asset: str) -> None:
        task = asyncio.create_task(read_async(hasty, asset))
        await asyncio.sleep(PATIENCE_S / 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def of_loop() -> None:
        assert await read_async(hasty, "9") == [9.0]
        for work in (late, cancelled, late):
            admin.client_pause(PAUSE_MS)
            await work("10")
            await asyncio.sleep(PAUSE_MS / 1000)
            assert await read_async(hasty, "11") == [11.0]

    assert read(hasty, "9") == [9.0]
    for _ in range(2):
        admin.client_pause(PAUSE_MS)
        with pytest.raises(redis.TimeoutError):
            read(hasty, "10")
        time.sleep(PAUSE_MS / 1000)
        assert read(hasty, "11") == [11.0]
    run(hasty, of_loop)


def test_refused_command__leaves_no_answer_behind(store: FeatureStore, admin: redis.Redis) -> None:
    """One of the keys holds something else."""
    key = _redis_key("project", batch()[77][0])
    kept = admin.dump(key)
    admin.delete(key)
    admin.set(key, "no hash")
    try:
        for _ in range(2):
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                read(store, "76", "77", "78")
            assert read(store, "1", "2") == [1.0, 2.0]
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                run(store, lambda: read_async(store, "76", "77", "78"))
    finally:
        admin.delete(key)
        admin.restore(key, 0, kept)


def test_server_that_is_down__is_named_and_found_again(folder: Path) -> None:
    port = free_port()
    store = opened(folder, f"{HOST}:{port}", retries=2, retry_wait_seconds=0.01)
    with pytest.raises(redis.ConnectionError, match=f"connecting to {HOST}:{port}"):
        read(store, "1")
    with pytest.raises(redis.ConnectionError, match=f"connecting to {HOST}:{port}"):
        run(store, lambda: read_async(store, "1"))
    for _ in range(2):
        with server(folder, port=port):
            fill(store)
            assert read(store, "1") == [1.0]
        with pytest.raises(redis.ConnectionError):
            read(store, "1")


def test_threads_and_tasks__get_their_own_answers(store: FeatureStore) -> None:
    def of_thread(number: int) -> bool:
        wanted = [str((number + step) % len(ASSETS)) for step in range(30)]
        return all(read(store, asset) == [float(asset)] for asset in wanted)

    async def of_tasks() -> list[list[Any]]:
        return await asyncio.gather(*(read_async(store, str(number)) for number in range(40)))

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(of_thread, range(12)))
        loops = [pool.submit(run, store, of_tasks) for _ in range(3)]
        for loop in loops:
            assert loop.result() == [[float(number)] for number in range(40)]


def test_forked_process__opens_connections_of_its_own(store: FeatureStore) -> None:
    def child(answers: Any) -> None:
        answers.put([read(store, str(number)) for number in range(100)])

    assert read(store, "1") == [1.0]
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    ours = [read(store, str(number)) for number in range(100, 200)]
    assert answers.get() == [[float(number)] for number in range(100)]
    process.join()
    assert ours == [[float(number)] for number in range(100, 200)]


@contextmanager
def of_cluster(folder: Path) -> Iterator[dict[str, Any]]:
    with cluster(folder) as ports:
        nodes = ",".join(f"{HOST}:{port}" for port in ports)
        yield {"connection": nodes, "redis_type": "redis_cluster"}


@contextmanager
def of_sentinel(folder: Path) -> Iterator[dict[str, Any]]:
    with sentinel(folder, MASTER) as (port, _, _):
        yield {"connection": f"{HOST}:{port}", "redis_type": "redis_sentinel", "sentinel_master": MASTER}


@pytest.mark.parametrize("servers", [of_cluster, of_sentinel])
def test_cluster_and_sentinel__write_read_and_delete(folder: Path, servers: Any) -> None:
    with servers(folder) as options:
        store = opened(folder, **options)
        table, online = store.get_feature_view("a"), store.provider.online_store
        fill(store)
        expected = [float(asset) for asset in ASSETS]
        assert read(store, *ASSETS) == expected
        assert run(store, lambda: read_async(store, *ASSETS)) == expected
        run(store, lambda: online.online_write_batch_async(store.config, table, batch(), None))
        assert read(store, *ASSETS, "nobody") == [*expected, None]
        other = store.config.model_copy(update={"project": "other_project"})
        online.online_write_batch(other, table, batch(), None)
        online.delete_table(store.config, table)
        assert read(store, *ASSETS) == [None] * len(ASSETS)
        client = online._get_client(store.config.online_store)
        assert len(list(client.scan_iter())) == len(ASSETS)
        online.teardown(other, [table], [])
        client = online._get_client(store.config.online_store)
        assert not list(client.scan_iter())
        online.teardown(other, [], [])


def test_sentinel__names_another_master__which_is_asked_from_then_on(folder: Path) -> None:
    with sentinel(folder, MASTER) as (port, master, replica):
        store = opened(folder, f"{HOST}:{port}", redis_type="redis_sentinel", sentinel_master=MASTER)
        fill(store)
        assert read(store, "5") == [5.0]
        # what a failover does, without its waits
        redis.Redis(HOST, replica).replicaof("NO", "ONE")
        watch = redis.Redis(HOST, port)
        watch.sentinel_remove(MASTER)
        watch.sentinel_monitor(MASTER, HOST, replica, 1)
        redis.Redis(HOST, replica).flushall()
        redis.Redis(HOST, master).replicaof(HOST, replica)
        fill(store)
        assert read(store, "5") == [5.0]
        assert redis.Redis(HOST, replica).dbsize() == len(ASSETS)
        store.provider.online_store.teardown(store.config, [], [])


PING = Commands(b"PING\r\n", 1)


async def connected(port: int, timeout_s: float = 5.0) -> PipelinedConnection:
    connection = redis.asyncio.Connection(host=HOST, port=port, socket_timeout=timeout_s)
    await connection.connect()
    return PipelinedConnection(connection)


def test_send__many_at_once__each_gets_its_own_replies_and_cancelled_ones_are_dropped(port: int) -> None:
    def echo(number: int) -> Commands:
        text = b"x" * (number * 997 % 70_000)
        return Commands.of([b"*2\r\n$4\r\nECHO\r\n$%d\r\n%b\r\n" % (len(text), text)] * (number % 4 + 1))

    async def run() -> None:
        connection = await connected(port)
        futures = [connection.send(*echo(number)) for number in range(200)]
        for future in futures[::3]:
            future.cancel()
        for number, future in enumerate(futures):
            if not future.cancelled():
                assert await future == [b"x" * (number * 997 % 70_000)] * (number % 4 + 1)
        connection.close()

    uvloop.run(run())
    asyncio.run(run())


def test_send__reply_that_nobody_waits_for__closes_the_connection(port: int) -> None:
    async def run() -> None:
        connection = await connected(port)
        first = connection.send(b"PING\r\nPING\r\n", 1)
        assert await first == [b"PONG"]
        with pytest.raises(redis.exceptions.ConnectionError):
            await connection.send(b"ECHO mine\r\n", 1)
        assert not connection.is_open

    asyncio.run(run())


def test_send__reply_is_late__the_later_requests_may_be_sent_again(port: int, admin: redis.Redis) -> None:
    """They have not timed out, and the connection is closed."""

    async def run() -> None:
        connection = await connected(port, PATIENCE_S)
        admin.client_pause(PAUSE_MS)
        first = connection.send(*PING)
        await asyncio.sleep(PATIENCE_S / 2)
        second = connection.send(*PING)
        with pytest.raises(redis.exceptions.TimeoutError):
            await first
        with pytest.raises(redis.exceptions.ConnectionError):
            await second
        with pytest.raises(redis.exceptions.ConnectionError):
            await connection.send(*PING)

    asyncio.run(run())


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer whenever nothing else is to be done."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]  # asyncio's own
        select = selector.select

        def jump(timeout: float | None) -> Any:
            events = select(0 if timeout is not None else None)
            if not events and timeout:
                self._now += timeout
            return events

        selector.select = jump

    def time(self) -> float:
        return self._now


def test_exchange__an_earlier_reply_is_late__the_later_request_waits_no_longer_than_its_own_time(
    tmp_path: Path,
) -> None:
    async def answer_all_but_ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.startswith(b"*"):
                count = int(line[1:])
                words = [(await reader.readline(), await reader.readline())[1] for _ in range(count)]
                if words:
                    writer.write(b"+OK\r\n")
        writer.close()

    async def run() -> list[float]:
        loop = asyncio.get_running_loop()
        address = str(tmp_path / "silent")
        server = await asyncio.start_unix_server(answer_all_but_ping, address)
        client = redis.asyncio.Redis(
            unix_socket_path=address, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)
        )
        pipeline = Pipeline(client)
        assert await pipeline.exchange(Commands(b"*1\r\n$4\r\nTIME\r\n", 1)) == [b"OK"]

        async def seconds(later_by: float) -> float:
            await asyncio.sleep(later_by)
            begun = loop.time()
            with pytest.raises(redis.exceptions.TimeoutError):
                await pipeline.exchange(PING)
            return loop.time() - begun

        found = await asyncio.gather(seconds(0), seconds(0.5))
        pipeline.close()
        await client.aclose()
        server.close()
        await asyncio.sleep(1)  # of the loop's clock: the server's ends of the connections close first
        return found

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        assert runner.run(run()) == pytest.approx([1.0, 1.0], abs=0.01)


def test_exchange__uvloop_has_closed_the_transport__connects_anew(port: int) -> None:
    async def run() -> list[Any]:
        client = redis.asyncio.Redis(host=HOST, port=port, socket_timeout=5.0)
        pipeline = Pipeline(client)
        assert await pipeline.exchange(PING) == [b"PONG"]
        connection = pipeline._connection
        assert connection is not None
        connection._transport.abort()
        with pytest.raises(redis.exceptions.ConnectionError):
            await connection.send(*PING)
        replies = await pipeline.exchange(PING)
        pipeline.close()
        await client.aclose()
        return replies

    assert uvloop.run(run()) == [b"PONG"]


def test_exchange__uvloop_closes_the_transport_while_greeting__is_a_connection_error(port: int) -> None:
    async def greet(connection: redis.asyncio.Connection) -> None:
        connection._writer.transport.abort()  # type: ignore[union-attr]  # as for a server that was killed
        await asyncio.sleep(0.01)
        await connection.send_command("PING")

    async def run() -> None:
        client = redis.asyncio.Redis(
            host=HOST, port=port, socket_timeout=5.0, redis_connect_func=greet, retry=Retry(NoBackoff(), 0)
        )
        with pytest.raises(redis.exceptions.ConnectionError):
            await Pipeline(client).exchange(PING)
        await client.aclose()

    uvloop.run(run())
