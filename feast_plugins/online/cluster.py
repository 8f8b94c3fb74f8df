"""Commands for a cluster: its client sends each to the node that has the key, all nodes at once."""

# mypy: allow-untyped-calls
# redis-py declares half of its types

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hiredis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis import asyncio as redis_asyncio
    from redis.cluster import RedisCluster

    from feast_plugins.online.exchange import Question


def exchange_in_cluster(client: RedisCluster, question: Question) -> None:
    """Ask the nodes; each command has one key.

    Raises:
        RedisError: a command was refused, or a node does not answer.
    """
    question.begin()
    blocks = list(question.blocks())
    with client.pipeline() as pipe:
        for arguments in _unpacked(blocks):
            pipe.execute_command(*arguments)
        _give(question, blocks, pipe.execute())


async def exchange_in_cluster_async(client: redis_asyncio.RedisCluster, question: Question) -> None:
    """As `exchange_in_cluster`."""
    question.begin()
    blocks = list(question.blocks())
    async with client.pipeline() as pipe:
        for arguments in _unpacked(blocks):
            pipe.execute_command(*arguments)
        _give(question, blocks, await pipe.execute())


def _unpacked(blocks: Sequence[tuple[bytes, int]]) -> Iterator[list[Any]]:
    """Name and arguments of each: a packed command is a list of strings in the protocol of Redis."""
    reader = hiredis.Reader()
    for payload, count in blocks:
        reader.feed(payload)
        for _ in range(count):
            name, *arguments = reader.gets()
            yield [name.decode(), *arguments]


def _give(question: Question, blocks: Sequence[tuple[bytes, int]], replies: Sequence[Any]) -> None:
    begin = 0
    for _, count in blocks:
        question.take(list(replies[begin : begin + count]))
        begin += count
