"""Programs of the machine that no package registry gives: PostgreSQL and Chromium."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_ON = {"1", "true", "yes"}
_INIT_OPTIONS = (
    "--username=admin",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C.UTF-8",
    "--no-sync",
)


def missing(program: str, package: str) -> NoReturn:
    """Skip the test; in CI, where nobody would notice, fail it."""
    text = f"{program} is not installed: apt-get install {package}"
    if os.environ.get("CI", "").lower() in _ON:
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def chromium() -> str:
    """Path of Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return found or missing("Chromium", "chromium")


@contextmanager
def native_postgres() -> Iterator[str]:
    """A PostgreSQL server with nothing in it; yields its superuser's URL, which asks for the password."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    programs = found[-1].parent if found else missing("PostgreSQL", "postgresql")
    password = secrets.token_hex(16)
    # not below pytest's own folder, which another user cannot enter
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        if os.geteuid() == 0:
            owner = pwd.getpwnam("nobody")
            for path in (folder, folder / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        data = f"--pgdata={folder / 'data'}"
        control = str(programs / "pg_ctl")
        _run(folder, str(programs / "initdb"), data, *_INIT_OPTIONS, f"--pwfile={folder / 'password'}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder} -c fsync=off"
        _run(folder, control, data, "--wait", f"--log={folder / 'log'}", f"--options={options}", "start")
        try:
            yield f"postgresql://admin:{password}@127.0.0.1:{port}/postgres"
        finally:
            _run(folder, control, data, "--wait", "--mode=immediate", "stop")


def _run(folder: Path, *command: str) -> None:
    """Run a PostgreSQL program as somebody else if need be: it refuses to run as root."""
    drop = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups") if os.geteuid() == 0 else ()
    # into a file: the server keeps what it inherits open, so a pipe would never end
    with (folder / "output").open("ab") as output:
        done = subprocess.run(
            [*drop, *command], check=False, stdout=output, stderr=output, cwd="/", timeout=60
        )
    assert done.returncode == 0, (folder / "output").read_text()
