"""What a connection's socket is told about a server that has vanished."""

from __future__ import annotations

import socket

from psycopg.conninfo import make_conninfo

from ai_hub.db import connect

OPTIONS = {
    "tcp_user_timeout": socket.TCP_USER_TIMEOUT,
    "keepalives_idle": socket.TCP_KEEPIDLE,
    "keepalives_interval": socket.TCP_KEEPINTVL,
    "keepalives_count": socket.TCP_KEEPCNT,
}


def _options(dsn: str) -> dict[str, int]:
    with connect(dsn) as connection, socket.socket(fileno=connection.fileno()) as own:
        found = {name: own.getsockopt(socket.IPPROTO_TCP, option) for name, option in OPTIONS.items()}
        own.detach()
    return found


def test_server_that_vanishes__is_noticed_in_a_minute__by_who_waits_for_it_too(database: str) -> None:
    assert _options(database) == dict(zip(OPTIONS, (60_000, 30, 10, 3), strict=True))


def test_dsn__says_otherwise(database: str) -> None:
    own = {"tcp_user_timeout": 5_000, "keepalives_idle": 7, "keepalives_interval": 2, "keepalives_count": 9}
    assert _options(make_conninfo(database, **own)) == own
