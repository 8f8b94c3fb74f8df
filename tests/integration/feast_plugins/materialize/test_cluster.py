"""In a cluster each row goes to the server that has its slot, also while slots move."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import redis
from support.materialize_lab import DAY, NOON, STOCK, view

from benchmarks.servers import free_port, valkey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.materialize_lab import Lab

SLOTS = 16384
CLUSTER = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")


@pytest.fixture
def nodes() -> Iterator[list[redis.Redis]]:
    """Two servers with half of the slots each."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(valkey(*CLUSTER, "--cluster-port", str(free_port()))) for _ in range(2)
        ]
        clients = [redis.Redis(port=server.port) for server in servers]
        for number, client in enumerate(clients):
            first = number * SLOTS // 2
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, first + SLOTS // 2 - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        bus = clients[1].config_get("cluster-port")["cluster-port"]
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", servers[1].port, bus)
        deadline = time.monotonic() + 20
        while not all(is_ready(client) for client in clients):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield clients


def is_ready(client: redis.Redis) -> bool:
    info: Any = client.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in info if isinstance(info, bytes) else info.get("cluster_state") == "ok"


def move(slot: int, source: redis.Redis, target: redis.Redis) -> None:
    """Give an empty slot to another server."""
    owner = target.execute_command("CLUSTER", "MYID")
    for client in (target, source):
        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", owner)


def test_materialize__cluster__as_feast_does(meters: Lab, nodes: list[redis.Redis]) -> None:
    meters.execute(
        "INSERT INTO meters SELECT '{t' || mod(i, 5) || '}', 'a{' || i, %(now)s, %(now)s, i, i, 'on'"
        " FROM generate_series(1, 3000) AS i",
        {"now": NOON},
    )
    address = ",".join(f"127.0.0.1:{client.get_connection_kwargs()['port']}" for client in nodes)
    online = {"redis_type": "redis_cluster", "connection_string": address}
    stock = meters.store(view(), kinds=STOCK, online=online, materialization={"pull_latest_features": True})
    stock.materialize(NOON - DAY, NOON)
    expected = [content(client) for client in nodes]
    for client in nodes:
        client.flushall()
    ours = meters.store(view(), online=online, engine={"batch_rows": 100})
    ours.materialize(NOON - DAY, NOON)
    assert [content(client) for client in nodes] == expected
    assert min(map(len, expected)) > 1000

    # the client learns of a slot's new place from the server's refusal
    for client in nodes:
        client.flushall()
    mover = threading.Thread(target=lambda: [move(slot, *nodes) for slot in range(256)])
    mover.start()
    mover.join()
    ours.materialize(NOON - DAY, NOON)
    first, second = (content(client) for client in nodes)
    assert first | second == expected[0] | expected[1]
    assert len(first) < len(expected[0])


def content(client: redis.Redis) -> dict[bytes, Any]:
    return {key: client.hgetall(key) for key in client.scan_iter(count=5000)}  # type: ignore[misc]
