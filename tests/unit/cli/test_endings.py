"""How commands end when a pipe, a disk, a server or the person ends them: in processes of their own."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import forked

if TYPE_CHECKING:
    from collections.abc import Iterator

CLI = Path(sys.executable).with_name("ai-hub")
FULL = Path("/dev/full")
LIMIT = 100_000


def _environment(folder: Path, **variables: str) -> dict[str, str]:
    # where files have no room, coverage's have none, either
    foreign = ("TIMESCALE_", "REDIS_", "MINIO_", "MLFLOW_", "FEAST_", "PG", "COVERAGE_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return own | {"AI_HUB_STATE_DIR": str(folder / "state")} | variables


def _run(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    variables = options.pop("variables", {})
    return subprocess.run(
        [CLI, *arguments],
        env=_environment(folder, **variables),
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


def test_reader_of_a_pipe_is_gone__nothing_is_said(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = _run(tmp_path, "ingest", "profiles", stdout=writing)
    os.close(writing)
    assert done.returncode in {1, 128 + signal.SIGPIPE}
    assert done.stderr.strip() == ""


def test_output_on_a_full_disk__is_one_line(tmp_path: Path) -> None:
    with FULL.open("w") as full:
        done = _run(tmp_path, "ingest", "profiles", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "Error: No space left on device.\nMake room and run it again.\n"


def test_backup__no_room__is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE runs AS SELECT randomblob(1000000) AS content")
        connection.commit()
    variables = {
        "TIMESCALE_DSN": "postgresql://nobody@127.0.0.1:1/none",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "FEAST_REGISTRY_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }
    without = [f"--without={name}" for name in ("timescaledb", "models", "exports", "mlflow-login", "feast")]
    done = _run(
        tmp_path,
        *("backup", "kept", *without),
        variables=variables,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT)),
        stdout=subprocess.PIPE,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 2), done.stderr
    assert "Is there room" in done.stderr
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.fixture
def silent_server() -> Iterator[socket.socket]:
    """Listens, and answers nothing by itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server


def _address(server: socket.socket) -> str:
    return f"postgresql://somebody:secret-of-a-test@127.0.0.1:{server.getsockname()[1]}/data"


def _start(folder: Path, server: socket.socket, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [CLI, *arguments],
        env=_environment(folder, TIMESCALE_DSN=_address(server)),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # whatever started the tests may ignore Ctrl-C, as shells do in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads here
    )


def test_ctrl_c__while_a_server_is_waited_for__ends_at_once(
    tmp_path: Path, silent_server: socket.socket
) -> None:
    with _start(tmp_path, silent_server, "readings", "log", "--tenant", "acme") as process:
        connection, _ = silent_server.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert process.returncode in {130, -signal.SIGINT}
    assert "Traceback" not in errors


def test_server_that_goes_away_midway__is_named(tmp_path: Path, silent_server: socket.socket) -> None:
    def go_away() -> None:
        silent_server.accept()[0].close()
        silent_server.close()

    going = threading.Thread(target=go_away)
    going.start()
    environment = _environment(tmp_path, TIMESCALE_DSN=_address(silent_server))
    done = forked.run(["ai-hub", "readings", "log", "--tenant", "acme"], environment, tmp_path)
    going.join()
    assert done.returncode == 3
    assert done.stderr.startswith("Error: TimescaleDB")
    assert "Traceback" not in done.stderr
    assert "secret-of-a-test" not in done.stderr
