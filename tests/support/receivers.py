"""Receivers of notifications: a web server that keeps what is posted to it, and a mail server."""

from __future__ import annotations

import json
import queue
import ssl
import threading
from collections import defaultdict
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from benchmarks.servers import free_port

if TYPE_CHECKING:
    import socketserver
    from collections.abc import Iterator, Mapping, Sequence
    from email.message import EmailMessage
    from pathlib import Path

    from aiosmtpd.smtp import Envelope, LoginPassword, Session

#: Name and password at the mail server that asks for them.
ACCOUNT = ("hub@example.org", "p@ss:w/ord %41")
#: How long a message may take on a loaded machine.
SECONDS = 60


class Post(NamedTuple):
    """A request: its path, headers and body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class WebServer:
    """Keeps what is posted, by path; answers with the next of the path's `answers`, then with 204."""

    def __init__(self, port: int = 0, answers: Mapping[str, Sequence[int]] = MappingProxyType({})) -> None:
        self.posts: defaultdict[str, queue.Queue[Post]] = defaultdict(queue.Queue)
        self.answers = {path: list(given) for path, given in answers.items()}
        posts, statuses = self.posts, self.answers

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                left = statuses.get(self.path)
                self.send_response(left.pop(0) if left else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                posts[self.path].put(Post(self.path, dict(self.headers), body))

            def log_message(self, *_: object) -> None:
                """Nothing on the console."""

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def next(self, path: str) -> Post:
        """The next post to a path, waiting for it."""
        return self.posts[path].get(timeout=SECONDS)


@contextmanager
def web_server(
    port: int = 0, answers: Mapping[str, Sequence[int]] = MappingProxyType({})
) -> Iterator[WebServer]:
    """A web server for the block."""
    running = WebServer(port, answers)
    with _serving(running.server):
        yield running


class Mail(NamedTuple):
    """What came by SMTP: from and to whom, with which login, and the message."""

    sender: str
    mailboxes: list[str]
    message: EmailMessage
    login: str | None


class MailServer:
    """Keeps what is sent to it; with a certificate only by STARTTLS and after a login of `ACCOUNT`."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.mails: queue.Queue[Mail] = queue.Queue()
        self.port = free_port()
        if certificate is None:
            self.controller = Controller(self, hostname="127.0.0.1", port=self.port)
            return
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
        self.controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            tls_context=tls,
            require_starttls=True,
            auth_required=True,
            authenticator=self._check,
        )

    async def handle_DATA(  # noqa: N802  # what aiosmtpd calls
        self, _: object, session: Session, envelope: Envelope
    ) -> str:
        """Keep a message."""
        message = message_from_bytes(envelope.content or b"", policy=default)
        self.mails.put(Mail(envelope.mail_from or "", envelope.rcpt_tos, message, session.auth_data))
        return "250 fine"

    def next(self) -> Mail:
        """The next message, waiting for it."""
        return self.mails.get(timeout=SECONDS)

    def _check(self, *arguments: Any) -> AuthResult:
        login: LoginPassword = arguments[-1]
        name = login.login.decode()
        is_right = (name, login.password.decode()) == ACCOUNT
        return AuthResult(success=is_right, handled=False, auth_data=name)


@contextmanager
def mail_server(certificate: Path | None = None) -> Iterator[MailServer]:
    """A mail server for the block."""
    running = MailServer(certificate)
    running.controller.start()
    try:
        yield running
    finally:
        running.controller.stop()


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
