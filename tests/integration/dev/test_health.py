"""A server that is away is named, with the way to bring it back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ai_hub.dev import status
from ai_hub.dev.control import down
from ai_hub.dev.services import select
from ai_hub.errors import ServiceDownError, SettingMissingError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from conftest import OwnStack


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)], timeout=10)


def test_require__running__silent(own_stack: OwnStack) -> None:
    own_stack.up("redis")
    status.require("redis")


def test_require__never_started__names_the_setting(own_stack: OwnStack) -> None:
    del own_stack
    with pytest.raises(SettingMissingError, match="REDIS_URL is not set"):
        status.require("redis")


def test_require__killed__tells_how_to_bring_it_back(own_stack: OwnStack) -> None:
    own_stack.up("redis")
    pid = own_stack.pid("redis")
    kill(pid)
    with pytest.raises(ServiceDownError) as caught:
        status.require("redis")
    text = str(caught.value)
    assert f"The embedded Redis (pid {pid}) has died" in text
    assert "Ready to accept connections" in text  # its log
    assert "`ai-hub up --detach`" in text
    assert own_stack.setting("REDIS_URL").split("@")[0].split(":")[-1] not in text  # its password


def test_require__stopped__tells_how_to_start_it(own_stack: OwnStack) -> None:
    own_stack.up("redis")
    down(select([]), purge=False, on_wait=lambda: None)
    with pytest.raises(ServiceDownError, match="The embedded Redis is stopped"):
        status.require("redis")


def test_require__outside_server_away__names_the_setting(
    own_stack: OwnStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    del own_stack
    monkeypatch.setenv("TIMESCALE_DSN", "postgresql://u:hush@127.0.0.1:1/d")
    with pytest.raises(ServiceDownError, match="TIMESCALE_DSN names a server outside") as caught:
        status.require("timescaledb")
    assert "hush" not in str(caught.value)


def test_translate__connection_error_of_a_library__becomes_service_down(own_stack: OwnStack) -> None:
    own_stack.up("redis")
    client = redis.Redis.from_url(Settings().require("redis_url"), retry=Retry(NoBackoff(), 0))
    kill(own_stack.pid("redis"))
    with pytest.raises(redis.ConnectionError) as caught:
        client.ping()
    outer = RuntimeError("cannot read features")
    outer.__cause__ = caught.value
    down_error = status.translate(outer)
    assert down_error is not None
    assert down_error.service == "Redis"


def test_translate__server_answers__leaves_the_error_alone(own_stack: OwnStack) -> None:
    own_stack.up("redis")
    assert status.translate(redis.ConnectionError("something else")) is None
    assert status.translate(ValueError("unrelated")) is None


def test_command__server_killed__says_so_without_a_traceback(own_stack: OwnStack) -> None:
    own_stack.up("redis")
    kill(own_stack.pid("redis"))
    code = (
        "import redis, sys\n"
        "from ai_hub.cli.main import app, main\n"
        "from ai_hub.settings import Settings\n"
        "@app.command()\n"
        "def ping(): redis.Redis.from_url(Settings().require('redis_url'), retry=None).ping()\n"
        "sys.argv = ['ai-hub', 'ping']; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("Error: Redis at redis://127.0.0.1:")
    assert "Traceback" not in done.stderr
    assert "`ai-hub up --detach`" in done.stderr
