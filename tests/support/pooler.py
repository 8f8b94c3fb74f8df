"""A real PgBouncer in transaction mode, with few server connections: what relies on a session fails."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg

from support import machine
from support.valkey_servers import free_port, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.tcp_proxy import Proxy

HOST = "127.0.0.1"
_CONFIGURATION = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/logins
admin_users = {owner}
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 200
query_wait_timeout = 300
server_login_retry = 0.1
"""


@dataclass(frozen=True)
class Pooler:
    """PgBouncer before one server."""

    port: int

    def url(self, address: str) -> str:
        """The address of a database of the server, through the pooler."""
        parts = urlsplit(address)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@{HOST}:{self.port}"))


@contextmanager
def pooled(
    server: str, *logins: tuple[str, str], size: int = 2, line: Proxy | None = None
) -> Iterator[Pooler]:
    """A pooler before the server of this URL, for its login and `logins` (name, password).

    With `line`, its connections to the server go through it. (Making a password's hash, libpq waits for the
    server with Python's lock held, and then nothing gets through.)
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        machine.missing("PgBouncer", "pgbouncer")
    parts = urlsplit(server)
    owner = unquote(parts.username or ""), unquote(parts.password or "")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pooler-") as name:
        folder = Path(name)
        server_port = line.port if line else parts.port or 5432
        values = {"host": HOST, "server_port": server_port, "port": port, "folder": folder, "size": size}
        (folder / "pgbouncer.ini").write_text(_CONFIGURATION.format(owner=owner[0], **values))
        (folder / "logins").write_text(
            "".join(f'"{user}" "{password}"\n' for user, password in (owner, *logins))
        )
        drop = []
        if os.geteuid() == 0:  # it refuses to run as root
            drop = ["--user=nobody"]
            for path in (folder, *folder.iterdir()):
                os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([program, *drop, folder / "pgbouncer.ini"], stdout=log, stderr=log)
        pooler = Pooler(port)
        try:
            until(lambda: _answers(pooler.url(server)))
            yield pooler
        finally:
            process.terminate()
            process.wait()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.OperationalError:
        return False
    return True
