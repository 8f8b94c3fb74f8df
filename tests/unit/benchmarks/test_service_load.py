"""What the load of the service's benchmarks counts, and what its proxy does."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from benchmarks import service_load
from benchmarks.service_load import Load, Stream
from benchmarks.tcp_proxy import proxied

if TYPE_CHECKING:
    from collections.abc import Iterator

_STALL_S = 0.5


class _Stalling(BaseHTTPRequestHandler):
    """Answers at once, but that all requests of half a second wait for its end."""

    protocol_version = "HTTP/1.1"
    #: of the whole server
    first: float | None = None

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        now = time.monotonic()
        if type(self).first is None:
            type(self).first = now
        since = now - (type(self).first or now)
        if _STALL_S < since < 2 * _STALL_S:
            time.sleep(2 * _STALL_S - since)
        body = b'{"degraded":true}'
        self.send_response(503 if self.headers["x-api-key"] == "refused" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _server() -> Iterator[int]:
    _Stalling.first = None
    with ThreadingHTTPServer(("127.0.0.1", 0), _Stalling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_load__server_stalls__every_request_that_had_to_wait_counts_from_when_it_was_due() -> None:
    with _server() as port:
        outcome = service_load.run(port, Stream("s", "POST", "/", ["{}"], seconds=1.5, rate=100))["s"]
    assert outcome.statuses() == {200: 150}
    # half a second of requests waited a quarter of a second on average; who asks one after the other sees one
    assert sum(seconds > 0.1 for seconds in outcome.seconds) >= 0.6 * _STALL_S * 100
    assert max(outcome.seconds) > 0.8 * _STALL_S
    gaps = [after - before for before, after in zip(outcome.scheduled, outcome.scheduled[1:], strict=False)]
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(0.01, abs=0.002)


def test_load__refused_and_unanswered__each_is_counted_by_how_it_ended() -> None:
    headers = [{"x-api-key": "refused"}, {"x-api-key": "good"}]
    with _server() as port:
        stream = Stream(
            "s", "POST", "/", ["{}", "{}"], 0.2, rate=50, headers=headers, patterns=['"degraded":true']
        )
        outcome = service_load.run(port, stream)["s"]
    assert outcome.statuses() == {200: 5, 503: 5}
    assert outcome.count(0) == 10
    outcome = service_load.run(port, Stream("s", "POST", "/", ["{}"], 0.2, rate=50))["s"]
    assert outcome.statuses() == {0: 10}
    assert outcome.failures == {"refused": 10}


def test_load__stopped__tells_of_what_it_has_sent() -> None:
    with _server() as port, Load(port, [Stream("s", "POST", "/", ["{}"], 60, rate=50)]) as load:
        time.sleep(0.2)
        load.stop()
        outcome = load.outcomes()["s"]
    assert set(outcome.statuses()) == {200}
    assert 1 <= len(outcome.seconds) < 60


def test_proxy__reset_and_stall__what_a_client_sees() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, proxied(listener.getsockname()[1]) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), 5) as client, listener.accept()[0] as server:
            client.sendall(b"a")
            assert server.recv(1) == b"a"
            proxy.stall()
            server.sendall(b"b")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(1)
            proxy.heal()
            client.settimeout(5)
            assert client.recv(1) == b"b"
            assert proxy.reset() == 1
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        proxy.refuse()
        # the reset comes before the connection is known to stand, or after
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", proxy.port), 5) as client,
        ):
            client.recv(1)
