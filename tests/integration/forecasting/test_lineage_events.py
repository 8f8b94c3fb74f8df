"""OpenLineage events of training, promotion and forecasts, sent by its own client to a receiver."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from support import registry_servers
from support.day_ahead import client_of_its_own
from support.energy import add_meter
from support.receivers import web_server
from typer.testing import CliRunner

from ai_hub import registry
from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import AiHubError, ConflictError, NotFoundError
from mlflow_plugins import lineage_events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.energy import Energy
    from support.receivers import WebServer

MODEL = "day-ahead-electricity"
PATH = "/api/v1/lineage"


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


@pytest.fixture(scope="module")
def _with_events(
    energy: Energy,
    stack: dict[str, str],
    receiver: WebServer,
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """This process and an MLflow server of its own send events."""
    del energy
    folder = tmp_path_factory.mktemp("registry")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    policy = folder / "policy.yaml"
    policy.write_text("defaults: {reason: {min_length: 3}}")
    settings = {"PROMOTION_POLICY_PATH": str(policy), "OPENLINEAGE_URL": receiver.url}
    database = f"sqlite:///{folder / 'mlflow.db'}"
    with (
        pytest.MonkeyPatch.context() as patch,
        registry_servers.running(database, stack, folder, settings=settings) as server,
    ):
        patch.setenv("MLFLOW_TRACKING_URI", server.url)
        patch.setenv("OPENLINEAGE_URL", receiver.url)
        with client_of_its_own():
            yield
        # OpenLineage's client writes the address there, too
        for name in [each for each in os.environ if each.startswith("OPENLINEAGE__TRANSPORT__TRANSPORTS__")]:
            del os.environ[name]


def call(*arguments: str, fails: int = 0) -> Any:
    """What a command prints as JSON."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    if isinstance(result.exception, AiHubError):
        raise result.exception
    assert result.exit_code == fails, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def told(energy: Energy, receiver: WebServer, _with_events: None) -> dict[str, list[dict[str, Any]]]:
    """Events by tenant: of one that has a model in production at last, and of one with too few readings."""
    tenant, other = tenants = [f"told-{secrets.token_hex(4)}" for _ in range(2)]
    add_meter(tenant, f"meter-of-{tenant}", "UTC", energy.now, weeks=4, level=2.0, seed=1)
    add_meter(other, f"meter-of-{other}", "UTC", energy.now, weeks=0, hours=3, level=3.0, seed=2)
    refresh()
    options = ("--weeks", "3", "--holdout-weeks", "1", "--horizon", "1h")
    call("train", "--tenant", other, *options, fails=2)
    call("train", "--tenant", tenant, *options)
    with pytest.raises(ConflictError):
        registry.promote(tenant, MODEL)
    with pytest.raises(NotFoundError):
        registry.promote(tenant, "nobodys", version="1", reason="better")
    registry.promote(tenant, MODEL, reason="better")
    call("forecast", "run", "--tenant", tenant)
    with pytest.raises(AiHubError):
        call("forecast", "run", "--tenant", tenant, "--asset", "nobodys")
    assert lineage_events.flush(30)
    # the server sends behind its answers
    events = [receiver.next(PATH) for _ in range(12)]
    assert receiver.posts[PATH].empty()
    by_tenant: dict[str, list[dict[str, Any]]] = {tenant: [] for tenant in tenants}
    for event in events:
        assert "Authorization" not in event.headers
        by_tenant[event.json["job"]["namespace"].removeprefix("ai-hub/")].append(event.json)
    return by_tenant


def test_events__of_a_run__are_start_and_what_came_of_it(told: dict[str, list[dict[str, Any]]]) -> None:
    found = []
    for events in told.values():
        by_run: dict[str, list[dict[str, Any]]] = {}
        for event in sorted(events, key=lambda each: each["eventTime"]):
            by_run.setdefault(event["run"]["runId"], []).append(event)
        found += [(run[0]["job"]["name"], *(event["eventType"] for event in run)) for run in by_run.values()]
    assert found == [
        (f"train/{MODEL}", "START", "COMPLETE"),
        (f"promote/{MODEL}", "START", "FAIL"),
        (f"promote/{MODEL}", "START", "COMPLETE"),
        (f"forecast/{MODEL}", "START", "COMPLETE"),
        (f"forecast/{MODEL}", "START", "FAIL"),
        (f"train/{MODEL}", "START", "FAIL"),
    ]


def test_datasets__chain_from_the_tables_to_the_forecast(told: dict[str, list[dict[str, Any]]]) -> None:
    tenant, events = next(iter(told.items()))
    done = {each["job"]["name"]: each for each in events if each["eventType"] == "COMPLETE"}
    train, promote, forecast = (done[f"{job}/{MODEL}"] for job in ("train", "promote", "forecast"))
    version = (f"models/{MODEL}/1", "v1.0.0")
    tables = names(train["inputs"])
    assert tables
    assert names(train["outputs"]) == names(promote["inputs"]) == [version]
    assert names(promote["outputs"]) == [(f"models/{MODEL}/production", "v1.0.0")]
    first, *read = names(forecast["inputs"])
    assert first == version
    assert [name for name, _ in read] == [name for name, _ in tables]
    found = call("lineage", MODEL, "--tenant", tenant)
    training_set = found["versions"][0]["training_set"]
    assert [name for name, _ in tables] == training_set["tables"]
    known_at = datetime.fromisoformat(training_set["known_at"])
    assert {datetime.fromisoformat(known) for _, known in tables} == {known_at}
    start = datetime.fromisoformat(train["run"]["facets"]["nominalTime"]["nominalStartTime"])
    assert start == datetime.fromisoformat(training_set["start"])
    with connect() as connection:
        ((run, issued_at, horizon),) = connection.execute(
            "SELECT run_id, issued_at, horizon FROM forecast_runs WHERE tenant_id = %s", [tenant]
        ).fetchall()
    assert names(forecast["outputs"]) == [(f"forecasts/{MODEL}", str(run))]
    times = forecast["run"]["facets"]["nominalTime"]
    assert datetime.fromisoformat(times["nominalStartTime"]) == issued_at
    assert datetime.fromisoformat(times["nominalEndTime"]) == issued_at + horizon
    datasets = [each for event in events for each in event["inputs"] + event["outputs"]]
    assert {each["namespace"] for each in datasets} == {f"ai-hub/{tenant}"}


def names(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Names of datasets and their versions."""
    return [(each["name"], each["facets"]["version"]["datasetVersion"]) for each in datasets]


def test_events__have_no_word_of_another_tenant_and_no_secret(
    told: dict[str, list[dict[str, Any]]], stack: dict[str, str]
) -> None:
    secret = [
        stack[name] for name in ("TIMESCALE_DSN", "REDIS_URL", "MINIO_SECRET_KEY", "FEAST_REGISTRY_URI")
    ]
    for tenant, events in told.items():
        text = json.dumps(events)
        assert tenant in text
        for word in (*(told.keys() - {tenant}), *secret, "meter-of-"):
            assert word not in text
