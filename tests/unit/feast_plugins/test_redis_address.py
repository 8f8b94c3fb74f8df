"""Addresses of Redis: one server, sentinels and clusters, in `REDIS_URL` and in Feast's configuration."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ai_hub.errors import BadInputError
from ai_hub.settings import Settings, feast_redis_connection
from feast_plugins.online.address import Address
from feast_plugins.online.connection import Connections
from feast_plugins.online_store import CorrectableRedisOnlineStoreConfig


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache", Address([("cache", 6379)], {"db": 0})),
        (
            "redis://:p%40ss@cache:6380/2?socket_timeout=1.5",
            Address([("cache", 6380)], {"password": "p@ss", "db": 2, "socket_timeout": 1.5}),
        ),
        (
            "rediss://meters:p@[::1]:7000/1",
            Address([("::1", 7000)], {"username": "meters", "password": "p", "ssl": True, "db": 1}),
        ),
        (
            "redis+sentinel://:p@one:26380,two/mymaster/3?sentinel_username=watch&sentinel_password=s",
            Address(
                [("one", 26380), ("two", 26379)],
                {"password": "p", "db": 3},
                master="mymaster",
                sentinel_options={"username": "watch", "password": "s"},
            ),
        ),
        (
            "rediss+sentinel://one/m",
            Address([("one", 26379)], {"ssl": True, "db": 0}, master="m", sentinel_options={"ssl": True}),
        ),
        (
            "redis+cluster://u:p@one:7000,two:7001,three",
            Address(
                [("one", 7000), ("two", 7001), ("three", 6379)],
                {"username": "u", "password": "p"},
                is_cluster=True,
            ),
        ),
    ],
)
def test_address__of_each_kind(url: str, expected: Address) -> None:
    assert Address.of(url) == expected


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("cache:6379", "not redis://"),
        ("http://cache", "not redis://"),
        ("redis://", "not redis://"),
        ("redis://cache/meters", "no number of a database"),
        ("redis://cache:many", "cache:many is not host:port"),
        ("redis://one,two", "several servers"),
        ("redis://cache?colour=red", "no option colour"),
        ("redis://cache?sentinel_password=s", "no option sentinel_password"),
        ("redis+sentinel://one,two", "name-of-the-master"),
        ("redis+sentinel://one/m/1/2", "no number of a database"),
        ("redis+cluster://one,two/1", "database 0 only"),
        ("redis+cluster://one,:7000", ":7000 is not host:port"),
    ],
)
def test_address__wrong__says_what_and_hides_the_password(url: str, problem: str) -> None:
    secret = url.replace("://", "://:hush@", 1)
    for text in (url, secret):
        with pytest.raises(BadInputError) as caught:
            Settings(redis_url=text).environment()
        assert problem in str(caught.value) or "://" not in text
        assert "hush" not in str(caught.value)
    if "://" in url:  # without, it is Feast's own notation
        with pytest.raises(ValidationError, match=problem) as refused:
            CorrectableRedisOnlineStoreConfig(connection_string=secret)
        assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:secret@cache:6380/2", "cache:6380,db=2,password=secret"),
        ("rediss://cache", "cache:6379,db=0,ssl=True"),
        # Feast would read 1e5 as a number, and stop at the comma
        ("redis://:1e5@cache/0", None),
        ("redis://:a%2Cb@cache/0", None),
        ("redis://meters:secret@cache/0", None),
        ("redis+sentinel://one,two/m", None),
        ("redis+cluster://one,two", None),
    ],
)
def test_feast_redis_connection__feasts_notation_where_it_can_say_it(url: str, expected: str | None) -> None:
    assert feast_redis_connection(url) == (expected or url)


def test_store__url_of_one_server__logs_in_as_it_says() -> None:
    config = CorrectableRedisOnlineStoreConfig(connection_string="redis://meters:1e5@cache:6380/2")
    client: Any = Connections().client(config)
    options = client.connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["db"]) == ("cache", 6380, 2)
    assert (options["username"], options["password"]) == ("meters", "1e5")
