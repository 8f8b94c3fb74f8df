"""Addresses of Redis as URLs: of one server, of a master that sentinels know, and of a cluster.

    redis://[[user]:password@]host[:port][/db][?option=…]
    redis+sentinel://[[user]:password@]host[:port],…/master[/db][?sentinel_password=…]
    redis+cluster://[[user]:password@]host[:port],…

`rediss` in place of `redis` is TLS. User and password are those of the data servers; those of the sentinels
themselves are options. What else may follow `?` are redis-py's arguments.
"""

# mypy: allow-untyped-calls
# redis-py declares half of its types

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import redis

#: By kind: the port where none is named.
_PORTS: Final = {"": 6379, "sentinel": 26379, "cluster": 6379}
_URL: Final = re.compile(
    r"(?P<scheme>rediss?)(?:\+(?P<kind>sentinel|cluster))?://"
    r"(?:(?P<login>[^/?#]*)@)?(?P<nodes>[^/?#@]+)(?P<path>(?:/[^?#]*)?)(?:\?(?P<query>[^#]*))?"
)
_SENTINEL: Final = "sentinel_"


@dataclass(frozen=True)
class Address:
    """Servers and how to log in there."""

    #: of the data servers, or of the sentinels
    nodes: Sequence[tuple[str, int]]
    #: keyword arguments of redis-py's clients
    options: Mapping[str, Any]
    is_cluster: bool = False
    #: what the sentinels call the server; None: there are none
    master: str | None = None
    #: keyword arguments of the clients of sentinels
    sentinel_options: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, url: str) -> Address:
        """The address that a URL names.

        Raises:
            ValueError: it names none; says what is wrong without repeating the password.
        """
        if (match := _URL.fullmatch(url.strip())) is None:
            raise ValueError("it is not redis://, redis+sentinel:// or redis+cluster:// with a host")
        kind, path = match["kind"] or "", [part for part in match["path"].split("/") if part]
        master = unquote(path.pop(0)) if kind == "sentinel" and path else None
        if kind == "sentinel" and master is None:
            raise ValueError("it does not end with /name-of-the-master")
        database = path.pop(0) if path else "0"
        if path or not database.isdecimal():
            raise ValueError("what follows the host is no number of a database")
        if kind == "cluster" and int(database):
            raise ValueError("a cluster has database 0 only")
        nodes = [_node(node, _PORTS[kind]) for node in match["nodes"].split(",")]
        if not kind and len(nodes) > 1:
            raise ValueError("several servers are redis+sentinel:// or redis+cluster://")
        more = _arguments(match["query"]) if match["query"] else {}
        names = [name for name in more if master is not None and name.startswith(_SENTINEL)]
        sentinels = {name.removeprefix(_SENTINEL): more.pop(name) for name in names}
        _refuse_unknown(more)
        _refuse_unknown(sentinels)
        tls: dict[str, Any] = {"ssl": True} if match["scheme"] == "rediss" else {}
        user, _, password = (match["login"] or "").partition(":")
        login = {"username": unquote(user), "password": unquote(password)}
        options = {name: value for name, value in login.items() if value} | more | tls
        if kind != "cluster":
            options["db"] = int(database)
        return cls(nodes, options, kind == "cluster", master, None if master is None else sentinels | tls)

    def client(self, **options: Any) -> redis.Redis | redis.RedisCluster:
        """A client with more `options`; it connects when it is first asked, a cluster's at once.

        Raises:
            redis.RedisError: the cluster does not answer.
        """
        from redis import Redis, RedisCluster, Sentinel
        from redis.cluster import ClusterNode

        options = {**self.options, **options}
        if self.is_cluster:
            nodes = [ClusterNode(host, port) for host, port in self.nodes]
            return RedisCluster(startup_nodes=nodes, **options)
        if self.master is not None:
            found: Redis = self.sentinel(Sentinel, options).master_for(self.master)
            return found
        ((host, port), *_) = self.nodes
        return Redis(host=host, port=port, **options)

    def sentinel(self, kind: Any, options: Mapping[str, Any]) -> Any:
        """The sentinels, as redis-py's class `kind` for threads or event loops."""
        sockets = {name: value for name, value in options.items() if name.startswith("socket_")}
        return kind(self.nodes, sentinel_kwargs={**sockets, **(self.sentinel_options or {})}, **options)


def _node(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        found = parts.hostname, parts.port or port
    except ValueError as error:
        raise ValueError(f"{text} is not host:port") from error
    if not found[0] or parts.path:
        raise ValueError(f"{text} is not host:port")
    return found[0], found[1]


def _arguments(query: str) -> dict[str, Any]:
    """What `?…` says as redis-py's arguments, with their types."""
    from redis.connection import parse_url

    options = dict(parse_url(f"redis://host?{query}"))
    del options["host"]
    return options


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    if not options:
        return
    from redis import Redis

    if unknown := options.keys() - signature(Redis.__init__).parameters.keys():
        raise ValueError(f"there is no option {min(unknown)}")
