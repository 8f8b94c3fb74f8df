"""Commands for a cluster: its client sends each to the node that has the key, all nodes at once."""

# mypy: allow-untyped-calls
# redis-py declares half of its types

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hiredis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import asyncio as redis_asyncio
    from redis.cluster import RedisCluster

    from feast_plugins.online.exchange import Commands


def exchange_in_cluster(client: RedisCluster, commands: Commands) -> list[Any]:
    """Replies to the commands, in their order.

    Raises:
        RedisError: a command was refused, or a node does not answer.
    """
    with client.pipeline() as pipe:
        for arguments in _unpacked(commands):
            pipe.execute_command(*arguments)
        return list(pipe.execute())


async def exchange_in_cluster_async(client: redis_asyncio.RedisCluster, commands: Commands) -> list[Any]:
    """As `exchange_in_cluster`."""
    async with client.pipeline() as pipe:
        for arguments in _unpacked(commands):
            pipe.execute_command(*arguments)
        return list(await pipe.execute())


def _unpacked(commands: Commands) -> Iterator[list[Any]]:
    """Name and arguments of each: a packed command is a list of strings in the protocol of Redis."""
    reader = hiredis.Reader()
    reader.feed(commands.payload)
    for _ in range(commands.replies):
        name, *arguments = reader.gets()
        yield [name.decode(), *arguments]
