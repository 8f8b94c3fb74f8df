"""Receivers of notifications: a web server that keeps what is posted to it, and a mail server."""

from __future__ import annotations

import json
import queue
import socketserver
import threading
from collections import defaultdict
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from email.message import EmailMessage

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
        posts, statuses = self.posts, {path: list(given) for path, given in answers.items()}

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


class MailServer:
    """Speaks as much SMTP as it takes to accept a message."""

    def __init__(self) -> None:
        self.mails: queue.Queue[Mail] = queue.Queue()
        mails = self.mails

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.say("220 ready")
                sender, mailboxes = "", list[str]()
                while line := self.rfile.readline().decode().strip():
                    verb = line.partition(" ")[0].upper()
                    if verb == "MAIL":
                        sender = line.partition("<")[2].partition(">")[0]
                    elif verb == "RCPT":
                        mailboxes.append(line.partition("<")[2].partition(">")[0])
                    elif verb == "DATA":
                        self.say("354 go on")
                        lines = iter(self.rfile.readline, b".\r\n")
                        content = b"".join(each.removeprefix(b".") for each in lines)
                        mails.put(Mail(sender, mailboxes, message_from_bytes(content, policy=default)))
                    elif verb == "QUIT":
                        self.say("221 bye")
                        return
                    self.say("250 fine")

            def say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]

    def next(self) -> Mail:
        """The next message, waiting for it."""
        return self.mails.get(timeout=SECONDS)


@contextmanager
def mail_server() -> Iterator[MailServer]:
    """A mail server for the block."""
    running = MailServer()
    with _serving(running.server):
        yield running


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
