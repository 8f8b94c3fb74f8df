"""Every command of `feast` on this repository and on servers: it works, or says in one line what to do.

What wrong and hostile arguments do is in tests/unit/cli/test_feast_sweep.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from click.testing import CliRunner
from support.feast_process import restored

from ai_hub.cli.errors import explain
from ai_hub.cli.feast_commands import SERVERS, commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

VIEW = "forecast_basic_features"
ON_DEMAND = "forecast_basic_calendar"
SERVICE = "forecast_basic"
#: What a command prints, by its words.
PRINTS = {
    "configuration": "feast_plugins.projects.ProjectProvider",
    "data-sources describe readings": "PUSH_SOURCE",
    "data-sources list": "timeseries_data",
    "endpoint": "`feast serve` starts one",
    "entities describe tenant": "joinKey: tenant_id",
    "entities list": "asset",
    f"feature-services describe {SERVICE}": "lag_24h",
    "feature-services list": SERVICE,
    f"feature-views describe {VIEW}": "lag_1h",
    "feature-views list": ON_DEMAND,
    f"feature-views list-versions {VIEW}": "v0",
    "features describe lag_1h": VIEW,
    "features list": "historical_avg_24h",
    "features list --output json": '"feature_name"',
    "label-views list": "NAME",
    "mlflow list-sources": "No FeatureViews backed by MlflowDatasetSource",
    "monitor run --feature-view latest_reading --start-date 2026-01-01 --end-date 2026-01-02": "completed",
    f"on-demand-feature-views describe {ON_DEMAND}": "hour_of_day",
    "on-demand-feature-views list": ON_DEMAND,
    "permissions check": "not secured",
    "permissions list": "NAME",
    "permissions list-roles": "ROLE NAME",
    "plan": "No changes to registry",
    "projects current_project": "name: ai_hub",
    "projects describe ai_hub": "name: ai_hub",
    "projects list": "ai_hub",
    "registry create-schema": "successfully",
    "saved-datasets list": "NAME",
    "stream-feature-views list": "NAME",
    "validation-references list": "NAME",
    "version": "0.67.0",
    "delete nothing": "Deletion skipped",
    "demo-notebooks -o notebooks": "01_feature_store_overview",
    "init made": "Creating a new Feast repository",
}
#: What a command says instead.
REFUSES = {
    f"feature-views disable {VIEW}": "stays as it is",
    f"feature-views enable {ON_DEMAND}": "stays as it is",
    f"feature-views set-state {VIEW} CREATED": "stays as it is",
    "mcp": "feast[mcp-server]",
    f"mlflow validate-source {VIEW}": "not backed by an MlflowDatasetSource",
    "materialize-incremental 2999-01-01": "is in the future",
    "permissions describe nobody": "does not exist in project ai_hub",
    "projects delete nobody": "Project nobody does not exist",
    "serve_lineage": "Add 'openlineage' section",
    "serve_registry --rest-api": "`feast ui` serves the same API",
    "serve --type grpc": "only supports 'http'",
    "listen -a 127.0.0.1:99999": "Give a free port",
    f"validate -f {SERVICE} -r nothing 2026-01-01 2026-01-02": "reference nothing does not exist",
}


@pytest.fixture
def feast(energy: Energy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs `feast` in this process; what it prints, and how it ended."""
    for name, value in energy.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[str, int]:
        with restored():
            result = CliRunner().invoke(commands, arguments)
        if result.exception is None or isinstance(result.exception, SystemExit):
            return result.output, result.exit_code
        failure = explain(result.exception)
        assert "\n" not in failure.message
        return str(failure), failure.exit_code

    return run


@pytest.mark.parametrize("line", PRINTS)
def test_command__works(feast: Any, line: str) -> None:
    printed, status = feast(*line.split())
    assert status == 0, printed
    assert PRINTS[line] in printed


@pytest.mark.parametrize("line", REFUSES)
def test_command__that_cannot__says_what_to_do(feast: Any, line: str) -> None:
    printed, status = feast(*line.split())
    assert status in {1, 2}, printed
    assert REFUSES[line] in printed


def test_registry_dump__is_json_of_every_object(feast: Any, energy: Energy) -> None:
    printed, status = feast("registry-dump")
    assert status == 0
    dumped = json.loads(printed)
    store = energy.store
    assert {item["spec"]["name"] for item in dumped["featureViews"]} == {
        item.name for item in store.list_feature_views()
    }
    views = {item["spec"]["name"]: item["spec"] for item in dumped["onDemandFeatureViews"]}
    assert set(views) == {item.name for item in store.list_on_demand_feature_views()}
    assert "def " in views[ON_DEMAND]["featureTransformation"]["userDefinedFunction"]["body"]
    assert dumped["project"] == "ai_hub"


def test_materialize_and_read(feast: Any, energy: Energy) -> None:
    start = (energy.now - timedelta(hours=2)).isoformat()
    assert feast("materialize", start, datetime.now(UTC).isoformat(), "-v", VIEW)[1] == 0
    assert feast("materialize-incremental", datetime.now(UTC).isoformat(), "-v", VIEW)[1] == 0
    keys = ["-e", f"tenant_id={energy.main}", "-e", "asset_id=1"]
    online, status = feast("get-online-features", *keys, "-f", f"{VIEW}:lag_1h")
    assert status == 0
    row = [{"tenant_id": energy.main, "asset_id": "1", "event_timestamp": energy.now.isoformat()}]
    history, status = feast("get-historical-features", "-d", json.dumps(row), "-f", f"{VIEW}:lag_1h")
    assert status == 0
    (expected,) = json.loads(history)
    assert expected["lag_1h"] is not None
    assert json.loads(online)["lag_1h"] == [pytest.approx(expected["lag_1h"])]
    assert "No changes to registry" in feast("plan")[0]


def test_missing_settings__one_line_names_them(feast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPORT")
    printed, status = feast("entities", "list")
    assert status == 2
    assert "names variables that are not set: PGPORT" in printed
    assert 'eval "$(ai-hub env)"' in printed


def test_mistake_in_the_repository__its_file_and_line(feast: Any, tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text("project: p\nprovider: local\nregistry: r.db\n")
    (tmp_path / "mistaken_views.py").write_text("from feast import Entity\n\nEntity(nam='x')\n")
    printed, status = feast("-c", str(tmp_path), "apply")
    assert status == 2
    assert f"{tmp_path}/mistaken_views.py:3: " in printed


def test_delete__of_a_view__and_apply_brings_it_back(feast: Any) -> None:
    printed, status = feast("delete", "anomaly_detection")
    assert status == 0
    assert "Deleted" in printed
    assert "anomaly_detection" in feast("plan")[0]
    assert feast("apply")[1] == 0
    assert "No changes to registry" in feast("plan")[0]


#: How to ask a server whether it is there: over HTTP where it speaks that.
HTTP = {"serve": "/health", "ui": "/api/v1/projects"}


@pytest.mark.parametrize(
    "name",
    [
        # deployment/test_servers.py starts and ends a server of features always
        pytest.param(name, marks=pytest.mark.long)
        for name in SERVERS
        if name != "serve_lineage"  # says what it lacks
    ],
)
def test_server__answers_and_ends(energy: Energy, name: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["-a", f"127.0.0.1:{port}"] if name == "listen" else ["-p", str(port)]
    program = Path(sys.executable).with_name("feast")
    with started([program, name, *arguments], energy, tmp_path / "log") as process:
        wait_for(port, process, tmp_path / "log")
        if path := HTTP.get(name):
            response = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=60)
            assert response.status_code == 200
        busy = subprocess.run(
            [program, name, *arguments],
            env=os.environ | energy.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert busy.returncode in {1, 2}
        assert f"port {port}: Address already in use" in busy.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in {0, -signal.SIGTERM}
    assert "Traceback" not in (tmp_path / "log").read_text()


@contextmanager
def started(command: list[Any], energy: Energy, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is ended with the block."""
    with log.open("w") as file:
        process = subprocess.Popen(command, env=os.environ | energy.environment, stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until somebody listens."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    pytest.fail(f"Nobody listens: {log.read_text()}")
