"""Starting, breaking, repairing and stopping servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from ai_hub import servers
from ai_hub.dev import processes
from ai_hub.dev.control import StartFailedError, down
from ai_hub.dev.record import load, save
from ai_hub.dev.redis_server import server_program
from ai_hub.dev.service import is_free
from ai_hub.dev.services import select
from ai_hub.dev.status import status
from ai_hub.errors import ConflictError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import OwnStack


CLI = str(Path(sys.executable).with_name("ai-hub"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def kill(pid: int) -> None:
    """As the kernel does when memory runs out."""
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)], timeout=10)


@pytest.fixture
def outside_redis(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis server nobody but the test started."""
    port = free_port()
    command = [str(server_program()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        url = f"redis://127.0.0.1:{port}/0"
        client = redis.Redis.from_url(url, retry=Retry(ConstantBackoff(0.1), 50))
        client.ping()
        client.close()
        yield url, server
        server.terminate()


def test_up__twice__starts_nothing_new(own_stack: OwnStack) -> None:
    first = own_stack.up("redis")
    assert set(first) == {"redis"}
    assert own_stack.up("redis") == {}
    assert own_stack.pid("redis") == first["redis"].pid


def test_up__after_a_kill__restarts_only_that_one(own_stack: OwnStack) -> None:
    own_stack.up("redis", "s3")
    url, survivor = own_stack.setting("REDIS_URL"), own_stack.pid("s3")
    with redis.Redis.from_url(url) as client:
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 10_000)  # it writes its log once a second
    dead = own_stack.pid("redis")
    kill(dead)

    done = own_stack.cli("status", "--json")
    assert done.returncode == 3
    assert {row["name"]: row["state"] for row in json.loads(done.stdout)} == {
        "timescaledb": "stopped",
        "redis": "dead",
        "s3": "running",
        "mlflow": "stopped",
        "api": "stopped",
    }
    assert f"pid {dead} is gone" in own_stack.cli("status").stdout

    assert set(own_stack.up("redis", "s3")) == {"redis"}
    assert own_stack.pid("s3") == survivor
    assert own_stack.setting("REDIS_URL") == url
    with redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"yes"


def test_up__failing_server__named_with_its_log_and_the_others_stopped(own_stack: OwnStack) -> None:
    own_stack.up("redis")
    down(select([]), purge=False, on_wait=lambda: None)
    data = own_stack.state / "redis" / "appendonlydir"
    shutil.rmtree(data)
    data.write_text("not a folder")

    done = own_stack.cli("up", "--detach", "--only", "redis", "--only", "s3")
    assert done.returncode == 3
    assert "Error: Redis ended before it was ready" in done.stderr
    assert "appendonlydir" in done.stderr.split("Last lines of", 1)[1]
    assert {row.name: row.state for row in status(select(["redis", "s3"]))} == {
        "redis": "stopped",
        "s3": "stopped",
    }
    assert is_free(load().services["s3"].port)


@pytest.mark.long
def test_up__killed_halfway__next_one_recovers(own_stack: OwnStack) -> None:
    command = [CLI, "up", "--detach", "--only", "timescaledb"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "starting" in line:
                process.kill()
                break
    kill(own_stack.pid("timescaledb"))
    own_stack.up("timescaledb")
    with psycopg.connect(own_stack.setting("TIMESCALE_DSN")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_up__two_at_once__start_one_server(own_stack: OwnStack) -> None:
    command = [CLI, "up", "--detach", "--only", "redis"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    address = f":{load().services['redis'].port}"
    servers = [process for process in psutil.process_iter() if address in " ".join(_command_line(process))]
    assert [process.pid for process in servers] == [own_stack.pid("redis")]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.usefixtures("own_stack")
def test_up__in_the_foreground__stops_what_it_started_on_sigterm() -> None:
    command = [CLI, "up", "--only", "redis"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "Ctrl-C" in line:  # from this moment on it must be interruptible
                process.terminate()
                break
        assert process.wait(20) == 130
    assert [row.state for row in status(select(["redis"]))] == ["stopped"]
    assert is_free(load().services["redis"].port)


def test_up__in_the_foreground__reports_a_server_that_dies(own_stack: OwnStack) -> None:
    command = [CLI, "up", "--only", "redis"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "Ctrl-C" in line:
                break
        os.kill(own_stack.pid("redis"), signal.SIGKILL)
        assert "Redis ended" in process.stderr.read()
        assert process.wait(20) == 3


def test_up__outside_setting__used_and_left_alone(
    own_stack: OwnStack, outside_redis: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, server = outside_redis
    monkeypatch.setenv("REDIS_URL", url)
    assert own_stack.up("redis") == {}
    [row] = status(select(["redis"]))
    assert (row.state, row.health, row.endpoint) == ("outside", "ok", url)
    assert Settings().require("redis_url") == url
    assert "REDIS_URL" not in load().env
    down(select([]), purge=False, on_wait=lambda: None)
    assert server.poll() is None


def test_up__outside_server_down__named(own_stack: OwnStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://:hush@127.0.0.1:{free_port()}/0")
    with pytest.raises(StartFailedError, match="Redis was not started, because REDIS_URL names") as caught:
        own_stack.up("redis")
    assert "hush" not in str(caught.value)


def test_up__setting_from_env_command__is_still_ours(
    own_stack: OwnStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_stack.up("redis")
    for name, value in Settings().environment().items():
        monkeypatch.setenv(name, value)
    down(select([]), purge=False, on_wait=lambda: None)
    assert set(own_stack.up("redis")) == {"redis"}
    redis.Redis.from_url(os.environ["REDIS_URL"]).ping()


def test_up__configured_port__used(own_stack: OwnStack, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("AI_HUB_REDIS_PORT", str(port))
    own_stack.up("redis")
    assert own_stack.setting("REDIS_URL").endswith(f"@127.0.0.1:{port}/0")


def test_up__configured_port_taken__named(own_stack: OwnStack, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("AI_HUB_REDIS_PORT", str(port))
        with pytest.raises(ConflictError, match=rf"Port {port} \(AI_HUB_REDIS_PORT\)"):
            own_stack.up("redis")


def test_up__second_stack__runs_beside_the_first(
    own_stack: OwnStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_stack.up("redis", "s3")
    first = Settings().environment()
    servers.s3_client(first).put_object(Bucket="ml-models", Key="only-in-the-first", Body=b"x")
    monkeypatch.setenv("AI_HUB_STATE_DIR", str(own_stack.state.with_name("second")))
    own_stack.up("redis", "s3")
    second = Settings().environment()
    assert "Contents" not in servers.s3_client(second).list_objects_v2(Bucket="ml-models")
    assert servers.s3_client(first).list_objects_v2(Bucket="ml-models")["KeyCount"] == 1
    down(select([]), purge=True, on_wait=lambda: None)
    servers.s3_client(first).head_object(Bucket="ml-models", Key="only-in-the-first")


def test_up__folder_of_somebody_else__refused(own_stack: OwnStack) -> None:
    own_stack.state.mkdir()
    precious = own_stack.state / "thesis.txt"
    precious.write_text("years of work")
    for arguments in (["up", "--detach"], ["down", "--purge"]):
        done = own_stack.cli(*arguments)
        assert done.returncode == 1
        assert "was not made by `ai-hub up`" in done.stderr
    assert [entry.name for entry in own_stack.state.iterdir()] == ["thesis.txt"]
    shutil.rmtree(own_stack.state)


def test_down__reused_pid__not_touched(own_stack: OwnStack) -> None:
    own_stack.up("redis")
    down(select([]), purge=False, on_wait=lambda: None)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        record = load()
        record.services["redis"].pid = bystander.pid
        record.services["redis"].create_time = processes.started(psutil.Process(bystander.pid)) - 60
        save(record)
        assert [row.state for row in status(select(["redis"]))] == ["dead"]
        down(select([]), purge=False, on_wait=lambda: None)
        time.sleep(0.2)
        assert bystander.poll() is None
        bystander.kill()


def test_down__purge__leaves_nothing(own_stack: OwnStack) -> None:
    own_stack.up("redis")
    port = load().services["redis"].port
    done = own_stack.cli("down", "--purge")
    assert done.returncode == 0
    assert not own_stack.state.exists()
    assert is_free(port)


def test_record__secrets__for_the_owner_only(own_stack: OwnStack) -> None:
    own_stack.up("redis")
    assert own_stack.state.stat().st_mode & 0o777 == 0o700
    assert (own_stack.state / "stack.json").stat().st_mode & 0o777 == 0o600
    password = load().credentials["redis_password"]
    assert password not in " ".join(psutil.Process(own_stack.pid("redis")).cmdline())
    nobody = redis.Redis(port=load().services["redis"].port, retry=Retry(NoBackoff(), 0))
    with pytest.raises(redis.AuthenticationError):
        nobody.ping()


@pytest.mark.long
def test_timescale__killed__committed_rows_survive(own_stack: OwnStack) -> None:
    own_stack.up("timescaledb")
    dsn = own_stack.setting("TIMESCALE_DSN")
    with suppress(psycopg.OperationalError), psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE readings (at timestamptz NOT NULL, value float8)")
        connection.execute("SELECT create_hypertable('readings', 'at')")
        connection.execute(
            "INSERT INTO readings SELECT now() - n * interval '1 hour', n FROM generate_series(1, 5000) n"
        )
        connection.execute("BEGIN")
        connection.execute("DELETE FROM readings")
        kill(own_stack.pid("timescaledb"))
    own_stack.up("timescaledb")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*), sum(value) FROM readings").fetchone() == (5000, 12502500)


def test_timescale__idle_transaction__cut_off_when_others_wait(
    own_stack: OwnStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_HUB_IDLE_LIMIT_S", "0.5")
    own_stack.up("timescaledb")
    dsn = own_stack.setting("TIMESCALE_DSN")
    with psycopg.connect(dsn) as idle, psycopg.connect(dsn) as other:
        idle.execute("SELECT 1")
        assert other.execute("SELECT 2").fetchone() == (2,)
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            idle.execute("SELECT 3")


def test_env__in_bash__leads_to_the_database(servers: object, dsn: str) -> None:
    del servers, dsn
    script = (
        'eval "$(ai-hub env)"; psql -Atc "SELECT extname FROM pg_extension WHERE extname = \'timescaledb\'"'
    )
    environment = {
        "PATH": f"{Path(CLI).parent}:{os.environ['PATH']}",
        "AI_HUB_STATE_DIR": os.environ["AI_HUB_STATE_DIR"],
    }
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("timescaledb\n", "")
