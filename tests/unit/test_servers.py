"""Whether something accepts connections at an address, and what is said when nothing does."""

from __future__ import annotations

import socket

import pytest

from ai_hub.servers import NoConnectionError, connection_error, require_connection


def test_connection_error__nobody_listens__tells_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert connection_error("127.0.0.1", port, 1) is None
    assert isinstance(connection_error("127.0.0.1", port, 1), ConnectionRefusedError)


def test_require_connection__first_server_or_any_other_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        require_connection("Redis", f"redis://:hush@127.0.0.1:{port}/0")
        require_connection("Redis", f"redis+sentinel://127.0.0.1:{port},127.0.0.1:1/meters")
        require_connection("Redis", f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/meters")
    with pytest.raises(
        NoConnectionError, match=r"Redis at redis://127\.0\.0\.1:1/0 does not answer"
    ) as caught:
        require_connection("Redis", "redis://:hush@127.0.0.1:1/0")
    assert "hush" not in str(caught.value)
