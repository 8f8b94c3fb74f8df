"""What the check of S3 says of a store that refuses."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from ai_hub.dev.s3_server import S3Service
from ai_hub.servers import NotReadyError, ensure_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def refusing(clock: timedelta) -> Iterator[dict[str, str]]:
    """Settings of a store whose clock is so far off, and that refuses everything."""

    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            del timestamp
            return format_datetime(datetime.now(UTC) + clock, usegmt=True)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        keys = {"MINIO_ACCESS_KEY": "key", "MINIO_SECRET_KEY": "hush", "MODEL_STORAGE_BUCKET": "ml-models"}
        yield {"MINIO_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", **keys}
        server.shutdown()


@pytest.mark.parametrize(
    ("clock", "said"),
    [
        (timedelta(hours=3, seconds=30), "this machine's clock is 180 min behind the store's"),
        (timedelta(hours=-3, seconds=-30), "this machine's clock is 180 min ahead of the store's"),
        (timedelta(minutes=10), "Forbidden"),
    ],
)
def test_refused__clocks_apart__says_so(clock: timedelta, said: str) -> None:
    with refusing(clock) as settings:
        for ask in (lambda: S3Service().check(settings, 5), lambda: ensure_bucket(settings)):
            with pytest.raises(NotReadyError, match=said):
                ask()
