"""OpenLineage events: what is sent and what is not, and what a receiver that is down costs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.receivers import web_server

from mlflow_plugins import lineage_events
from mlflow_plugins.lineage_events import LineageDataset, LineageRun, lineage_run, model_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PASSWORD = "pass-of-the-receiver"
#: Sends two events; prints how long that took, and whether the client is loaded.
ONE_RUN = """
import sys, time
from mlflow_plugins.lineage_events import lineage_run
began = time.monotonic()
with lineage_run("town", "train/m"):
    pass
print(time.monotonic() - began, "openlineage.client" in sys.modules)
"""
#: The client asks a receiver that does not answer six times, and gives each time five seconds.
ONE_TRY_S, ALL_TRIES_S = 5, 30


@pytest.fixture(autouse=True)
def _sender_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # nothing is to be said at the end of the tests
    nothing = SimpleNamespace(register=lambda _: None, unregister=lambda _: None)
    monkeypatch.setattr(lineage_events, "atexit", nothing)
    lineage_events._sender.cache_clear()
    yield
    lineage_events._sender.cache_clear()


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """Switches events on, to a file; reads those that are in it."""
    file = tmp_path / "events"
    transport = {"type": "file", "log_file_path": str(file), "append": True}
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT", json.dumps(transport))

    def read() -> list[dict[str, Any]]:
        assert lineage_events.flush(30)
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    return read


class ClientWithoutQueue:
    """Of OpenLineage's client what it has beside `emit`."""

    transport = None

    def close(self, timeout: float) -> bool:
        return timeout >= 0


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_events__by_default_or_disabled__are_off_and_load_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in (
        {},
        {"OPENLINEAGE_URL": ""},
        {"OPENLINEAGE_URL": "http://x", "OPENLINEAGE_DISABLED": "True"},
    ):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        with lineage_run("town", "train/m"):
            pass
        assert lineage_events.flush(0)
    assert lineage_events._sender.cache_info().misses == 0
    assert "openlineage" not in python(f"{ONE_RUN}print(*sys.modules)", OPENLINEAGE_URL="").stdout


def test_events__without_the_client__say_how_to_install_it_once_and_fail_nothing(
    events: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del events
    monkeypatch.setattr(lineage_events, "find_spec", lambda _: None)
    for _ in range(2):
        with lineage_run("town", "train/m"):
            pass
    assert caplog.text.count("ai-hub[lineage]") == 1


def test_events__have_what_was_done_and_no_text_of_an_error(
    events: Callable[[], list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = tmp_path / "repository" / ".git"
    git.mkdir(parents=True)
    (git / "config").write_text(f'[remote "origin"]\n\turl = https://me:{PASSWORD}@git.example.org/r.git\n')
    (git / "HEAD").write_text("0123456789012345678901234567890123456789\n")
    monkeypatch.chdir(git.parent)
    monkeypatch.setenv("OPENLINEAGE__FACETS__SOURCE_CODE_LOCATION__DISABLED", "false")
    with lineage_run("town", "train/m") as run:
        run.inputs = [LineageDataset("rows", "2026-01-01T00:00:00+00:00")]
        run.outputs = [model_version("m", 3, "v1.2.0")]

    def fail_with_output(run: LineageRun) -> None:
        run.outputs = [model_version("m", 4, "v1.3.0")]
        raise OSError(f"no server at postgresql://me:password@{PASSWORD}")

    with pytest.raises(OSError, match="password"), lineage_run("town", "train/m") as run:
        fail_with_output(run)
    start, complete, second, fail = events()
    assert [each["eventType"] for each in (start, complete, second, fail)] == [
        *("START", "COMPLETE", "START", "FAIL")
    ]
    assert start["run"]["runId"] == complete["run"]["runId"] != second["run"]["runId"] == fail["run"]["runId"]
    assert (start["inputs"], start["outputs"]) == ([], [])
    ((rows,), (version,)) = complete["inputs"], complete["outputs"]
    assert (rows["namespace"], rows["name"]) == ("ai-hub/town", "rows")
    assert rows["facets"]["version"]["datasetVersion"] == "2026-01-01T00:00:00+00:00"
    assert (version["name"], version["facets"]["version"]["datasetVersion"]) == ("models/m/3", "v1.2.0")
    assert fail["run"]["facets"]["errorMessage"]["message"] == "OSError"
    assert fail["outputs"] == []
    assert PASSWORD not in json.dumps([start, complete, second, fail])


def test_events__of_a_void_run__are_none_and_else_start_when_it_began(
    events: Callable[[], list[dict[str, Any]]],
) -> None:
    for is_void in (True, False):
        with lineage_run("town", "forecast/m", at_once=False) as run:
            run.is_void = is_void
            assert not events()
            time.sleep(0.01)
    start, complete = events()
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["eventTime"] < complete["eventTime"]


def test_events__of_tenants_at_once__have_each_their_own_names(
    events: Callable[[], list[dict[str, Any]]],
) -> None:
    tenants = [f"town-{number}" for number in range(4)]

    def work(tenant: str) -> None:
        for number in range(20):
            with lineage_run(tenant, f"train/of-{tenant}") as run:
                run.inputs = [LineageDataset(f"rows-of-{tenant}")]
                run.outputs = [model_version(f"of-{tenant}", number, None)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, tenants))
    found = events()
    assert len(found) == 4 * 20 * 2
    for event in found:
        tenant = event["job"]["namespace"].removeprefix("ai-hub/")
        assert {each["namespace"] for each in event["inputs"] + event["outputs"]} <= {f"ai-hub/{tenant}"}
        assert all(other not in json.dumps(event) for other in tenants if other != tenant)


def test_events__of_a_process_that_ends_at_once__arrive() -> None:
    with web_server() as receiver:
        done = python(ONE_RUN, OPENLINEAGE_URL=receiver.url)
        events = [receiver.next("/api/v1/lineage").json["eventType"] for _ in range(2)]
    assert events == ["START", "COMPLETE"]
    assert not done.stderr


def test_receiver__that_never_answers__costs_nothing_but_a_bounded_wait_at_the_end() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://me:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}"
        code = f"{ONE_RUN}import atexit, os; end = time.monotonic()\n"
        # runs after ours
        code = f"import atexit, time\natexit.register(lambda: print(time.monotonic() - end))\n{code}"
        done = python(code, OPENLINEAGE_URL=url)
    work, _, end = done.stdout.split()
    assert float(work) < ONE_TRY_S
    assert float(end) < ALL_TRIES_S
    assert "2 lineage events were lost" in done.stderr
    assert PASSWORD not in done.stderr


def test_client_that_sends_behind_emit__is_closed_and_what_it_has_lost_is_counted() -> None:
    settings = {"OPENLINEAGE__TRANSPORT__TYPE": "async_http"}
    with web_server(answers={"/api/v1/lineage": [204, 400]}) as receiver:
        url = receiver.url.replace("//", f"//me:{PASSWORD}@")
        code = f"import logging\nlogging.basicConfig(level=logging.INFO)\n{ONE_RUN}"
        done = python(code, OPENLINEAGE_URL=url, **settings)
        events = [receiver.next("/api/v1/lineage").json["eventType"] for _ in range(2)]
    assert events == ["START", "COMPLETE"]
    assert "1 lineage events were lost" in done.stderr
    assert PASSWORD not in done.stderr


def test_settings__that_cannot_be_read__are_not_in_the_log() -> None:
    done = python(ONE_RUN, OPENLINEAGE__TRANSPORT=f'{{"type": "http", "auth": {{"apiKey": "{PASSWORD}"}}')
    assert "2 lineage events were lost" in done.stderr
    assert PASSWORD not in done.stderr + done.stdout


def test_receiver__that_is_down__is_left_alone_for_a_while(
    events: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del events
    calls = []

    class Client(ClientWithoutQueue):
        def emit(self, event: object) -> None:
            calls.append(event)
            raise ConnectionError(PASSWORD)

    monkeypatch.setattr(lineage_events, "_client", Client)
    monkeypatch.setattr(lineage_events, "_run_event", lambda event: event)
    for _ in range(3):
        with lineage_run("town", "train/m"):
            pass
    assert lineage_events.flush(30)
    assert len(calls) == 1
    sender = lineage_events._sender()
    assert sender is not None
    sender.finish()
    assert "6 lineage events were lost" in caplog.text
    assert PASSWORD not in caplog.text


def test_events__that_are_too_many__are_dropped_and_counted(
    events: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del events
    may_go_on, sent = threading.Event(), []

    class Client(ClientWithoutQueue):
        def emit(self, event: object) -> None:
            may_go_on.wait(60)
            sent.append(event)

    monkeypatch.setattr(lineage_events, "_client", Client)
    monkeypatch.setattr(lineage_events, "_run_event", lambda event: event)
    count = lineage_events.QUEUE_LENGTH // 2 + 5
    for _ in range(count):
        with lineage_run("town", "train/m"):
            pass
    may_go_on.set()
    sender = lineage_events._sender()
    assert sender is not None
    sender.finish()
    lost = 2 * count - len(sent)
    assert lost in {9, 10}  # the thread may have taken one before it was full
    assert f"{lost} lineage events were lost" in caplog.text
