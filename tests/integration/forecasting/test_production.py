"""Forecasts of a model in production through the command line: issued, logged, shown and made again."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pytest
from support.day_ahead import MODEL, promote_day_ahead
from support.energy import add_meter
from typer.testing import CliRunner

from ai_hub.cli import issuing
from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import AiHubError, ConflictError, NotFoundError, ServiceDownError
from ai_hub.forecasting import log, production
from ai_hub.forecasting.day_ahead_tracking import find_model
from ai_hub.forecasting.log import Grid, Role
from ai_hub.forecasting.models.loading import loader_of
from ai_hub.forecasting.production import Issuer
from ai_hub.registry import ensure_tenant
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from support.energy import Energy

    from ai_hub.forecasting.log import Run

HOUR = timedelta(hours=1)
METERS = ("1", "11")


def call(*arguments: str, fails: int = 0) -> str:
    result = CliRunner().invoke(app, ["forecast", *arguments])
    if isinstance(result.exception, AiHubError):
        raise result.exception
    assert result.exit_code == fails, result.output
    return result.output


@pytest.fixture(scope="module")
def tenant(energy: Energy) -> str:
    """Two meters of its own, and a model in production."""
    name = f"ahead-{secrets.token_hex(4)}"
    for number, meter in enumerate(METERS):
        add_meter(name, meter, "Europe/Berlin", energy.now, weeks=3, level=2.0 + number, seed=number)
    refresh()
    promote_day_ahead(name, METERS)
    return name


def run_of(tenant: str, run_id: str) -> tuple[Run, list[log.Row]]:
    with connect() as connection:
        run = log.find_run(connection, tenant, UUID(run_id))
        return run, log.read_rows(connection, run)


@pytest.fixture(scope="module")
def issued(tenant: str) -> dict[str, Any]:
    """The run of `ai-hub forecast run`."""
    (found,) = json.loads(call("run", "--tenant", tenant, "--json"))
    return dict(found)


def test_run__writes_what_the_model_says(energy: Energy, tenant: str, issued: dict[str, Any]) -> None:
    run, rows = run_of(tenant, issued["run"])
    assert (run.model, run.role, run.status, run.unit) == (MODEL, Role.LIVE, "complete", "kW")
    assert (run.issued_at, run.leads, run.assets) == (energy.now, 48, METERS)
    assert run.manifest_sha256 is not None
    assert run.details["metadata"]["features_used"]
    loaded = production.load(production.production_versions(tenant)[0])
    features = production.read_rows(energy.store, loaded, METERS, energy.now)
    forecasts = loaded.model.forecast(features)
    for name, expected in (
        ("value", forecasts.values),  # no pandas
        *(
            (f"q{round(level * 100)}", forecasts.quantiles[..., at])
            for at, level in enumerate(forecasts.levels)
        ),
    ):
        found = np.array([getattr(row, name) for row in rows]).reshape(2, 48)
        np.testing.assert_array_equal(found, expected)
    shown = json.loads(call("show", "1", "--tenant", tenant, "--from", energy.now.isoformat(), "--json"))
    assert [row["value"] for row in shown["forecasts"]] == [row.value for row in rows[:48]]


def test_replay__after_late_readings__has_the_same_bits(
    energy: Energy, tenant: str, issued: dict[str, Any]
) -> None:
    before = run_of(tenant, issued["run"])
    with connect() as connection:
        connection.execute(
            'UPDATE timeseries_data SET value = value * 3 WHERE tenant_id = %s AND "timestamp" >= %s',
            [tenant, energy.now - 48 * HOUR],
        )
    refresh()
    found = json.loads(call("replay", issued["run"], "--tenant", tenant, "--json", "--record"))
    assert (found["rows"], found["differing"], found["same_features"]) == (96, 0, True)
    again, rows = run_of(tenant, found["replay"])
    assert (again.role, again.details["replay_of"]) == (Role.REPLAY, issued["run"])
    assert rows == before[1]
    # now other features are known, and a replay is not what is valid
    (now,) = json.loads(call("run", "--tenant", tenant, "--json"))
    assert run_of(tenant, now["run"])[1] != rows
    shown = json.loads(call("show", "1", "--tenant", tenant, "--from", energy.now.isoformat(), "--json"))
    assert {row["run"] for row in shown["forecasts"]} == {now["run"]}


def test_replay__of_what_differs__says_so(tenant: str, issued: dict[str, Any]) -> None:
    run, rows = run_of(tenant, issued["run"])
    values = np.array([row.value for row in rows], dtype=float).reshape(2, 48)
    values[1, 5] = np.nextafter(values[1, 5], np.inf)
    altered = replace(run, run_id=log.new_run_id(), role=Role.SHADOW)
    quantiles = {
        level: np.array([getattr(row, f"q{round(level * 100)}") for row in rows]).reshape(2, 48)
        for level in log.QUANTILES
    }
    with connect() as connection:
        log.write(connection, altered, Grid(values, quantiles))
    output = call("replay", str(altered.run_id), "--tenant", tenant, fails=1)
    assert "1 of 96 rows differ from the same features" in output
    other = replace(altered, run_id=log.new_run_id(), manifest_sha256="0" * 64)
    with connect() as connection:
        log.write(connection, other, Grid(values, quantiles))
    with pytest.raises(ConflictError, match="are not those that run"):
        call("replay", str(other.run_id), "--tenant", tenant)


def test_replay_and_run__of_another_tenant__find_nothing(tenant: str, issued: dict[str, Any]) -> None:
    theirs = f"{tenant}-x"
    with pytest.raises(NotFoundError, match="no forecast run"):
        call("replay", issued["run"], "--tenant", theirs)


def test_models__are_downloaded_once_a_machine(tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (version,) = (each for each in production.production_versions(tenant) if each.model == MODEL)
    before = production.load(version)

    def gone(*_: object) -> None:
        raise AssertionError("downloaded again")

    monkeypatch.setattr("ai_hub.registry.download_version", gone)
    assert production.load(version).card == before.card
    assert find_model(tenant, MODEL, None).card == before.card
    # what is in the cache is checked at each load
    loader, cached = loader_of(version)
    with loader.files(cached) as folder:
        (folder / "MLmodel").write_text("changed")
    with pytest.raises(AssertionError, match="downloaded again"):
        production.load(version)


def test_run__without_a_model_in_production__says_how_to_train_one(energy: Energy) -> None:
    ensure_tenant(energy.twin)
    with pytest.raises(NotFoundError, match="no model with a horizon") as raised:
        call("run", "--tenant", energy.twin)
    assert f"ai-hub train --tenant {energy.twin} --horizon 48h" in str(raised.value)
    with pytest.raises(NotFoundError, match="no model nowhere"):
        call("run", "--tenant", energy.twin, "--model", "nowhere")


def test_run__of_a_meter_without_features__is_recorded_as_failed(energy: Energy, tenant: str) -> None:
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind, unit) VALUES (%s, 'new', 'electricity', 'kW')",
            [tenant],
        )
    (found,) = json.loads(call("run", "--tenant", tenant, "--asset", "new", "--json", fails=1))
    assert found["status"] == "failed"
    with pytest.raises(NotFoundError, match="no asset nobody"):
        call("run", "--tenant", tenant, "--asset", "nobody")
    del energy


def look(*tenants: str, **arguments: Any) -> production.Issued:
    # another process: nothing is in memory
    return Issuer(Settings(), tenants, **arguments).catch_up()


def test_follow__issues_each_step_once(energy: Energy, tenant: str) -> None:
    promote_day_ahead(tenant, METERS, model="once")
    # a forecast of one meter is none of the model
    call("run", "--tenant", tenant, "--model", "once", "--asset", "1")
    (run,) = look(tenant, models=["once"]).runs
    assert (run.issued_at, run.assets) == (energy.now, METERS)
    assert look(tenant, models=["once"]) == ([], [], [])
    (of_one,) = look(tenant, models=["once"], assets=["11"]).runs
    assert of_one.assets == ("11",)
    assert look(tenant, models=["once"], assets=["11"]).runs == []
    # one tenant without models does not stop the others
    other = f"{tenant}-none"
    ensure_tenant(other)
    found = Issuer(Settings(), [other, tenant], ["once"]).issue_now()
    assert [each.assets for each in found.runs] == [METERS]
    assert [str(error).partition(" with")[0] for error in found.errors] == [
        f"Tenant {other} has no model once"
    ]


# in a process of its own; what it issues is tried below, always
@pytest.mark.long
def test_follow__as_a_process__issues_once_and_ends_when_it_is_told(energy: Energy, tenant: str) -> None:
    promote_day_ahead(tenant, METERS, model="followed")
    options = ("--tenant", tenant, "--model", "followed", "--follow", "--interval", "0.1")
    with subprocess.Popen(
        [Path(sys.executable).parent / "ai-hub", "forecast", "run", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | energy.environment,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert f"{tenant}: followed v1.0.0, issued for {energy.now:%Y-%m-%d %H:%MZ}" in first
        time.sleep(1)  # several looks
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert (process.returncode, rest.count("\n"), rest.endswith("Z stopped\n")) == (0, 1, True)
    with connect() as connection:
        assert log.list_runs(connection, tenant, model="followed")[1] == 1


def test_follow__says_each_error_once_and_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    down = ServiceDownError("TimescaleDB", "here", "gone")
    gone = NotFoundError("No model.", hint="Train one.")
    looks = iter([([], [down], []), ([], [down], ["late"]), ([], [], []), ([], [down, gone], [])])

    def look(_: Issuer) -> production.Issued:
        found = next(looks, None)
        if found is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return production.Issued(*(found or ([], [], [])))

    monkeypatch.setattr(Issuer, "catch_up", look)
    monkeypatch.setattr(issuing, "_check", lambda *_: ([], [], []))
    lines = call("run", "--tenant", "t", "--follow", "--interval", "0.1").splitlines()
    # with the time before
    assert [line.split(" ", 2)[2].partition(":")[0] for line in lines] == [
        *("TimescaleDB at here does not answer", "late"),
        *("TimescaleDB at here does not answer", "No model. Train one.", "stopped"),
    ]


def test_follow__two_at_once__write_once(
    tenant: str, issued: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del issued
    both = threading.Barrier(2, timeout=60)
    make = Issuer._make

    def make_together(self: Issuer, *arguments: Any) -> Any:
        made = make(self, *arguments)
        both.wait()  # both have seen that it is due
        return made

    monkeypatch.setattr(Issuer, "_make", make_together)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: look(tenant, models=[MODEL], assets=METERS), range(2)))
    assert [each.errors for each in found] == [[], []]
    assert len(found[0].runs + found[1].runs) == 1


def test_follow__of_a_late_issue__leaves_it_out(
    tenant: str, issued: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del issued

    def runs() -> int:
        with connect() as connection:
            return log.list_runs(connection, tenant)[1]

    at = datetime.now(UTC) - 5 * HOUR
    monkeypatch.setattr(production.LoadedDayAhead, "due_issue", lambda self, _: self.issue_time(at))
    before = runs()
    found = look(tenant, models=[MODEL], assets=["11"])
    assert (found.runs, found.errors) == ([], [])
    assert "is late and left out" in found.notes[0]
    assert runs() == before


def test_run__with_meters_that_are_gone_or_changed__forecasts_the_others(
    energy: Energy, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del energy
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind, unit) VALUES (%s, 'other', 'gas', 'm3/h')",
            [tenant],
        )
    promote_day_ahead(tenant, [*METERS, "gone", "other"], model="mixed")
    (run,), errors, (note,) = Issuer(Settings(), [tenant], ["mixed"]).issue_now()
    assert (run.assets, run.status, errors) == (METERS, "complete", [])
    assert "does not forecast gone, other: removed, or no longer in kW" in note
    with pytest.raises(NotFoundError, match="no asset gone"):
        call("run", "--tenant", tenant, "--model", "mixed", "--asset", "gone", "--asset", "1")
    # a model that cannot be read stops no other one, and the command fails
    load = production.load

    def load_some(version: Any) -> Any:
        if version.model == "mixed":
            raise KeyError("format")
        return load(version)

    monkeypatch.setattr(production, "load", load_some)
    result = CliRunner().invoke(
        app, ["forecast", "run", "--tenant", tenant, "--model", "mixed", "--model", MODEL]
    )
    assert isinstance(result.exception, KeyError)
    assert f"{tenant}: {MODEL} v1.0.0, issued for" in result.output


def test_due_issue__is_that_of_the_rule(tenant: str) -> None:
    loaded = production.load(production.production_versions(tenant)[0])
    at = datetime(2026, 7, 1, 7, 59, tzinfo=UTC)
    assert loaded.due_issue(at) == at.replace(minute=0)
    by_rule = replace(loaded, card=replace(loaded.card, issue="D-1 10:00 Europe/Berlin"))
    assert by_rule.due_issue(at) == datetime(2026, 6, 30, 8, tzinfo=UTC)
    assert by_rule.due_issue(at + timedelta(minutes=1)) == datetime(2026, 7, 1, 8, tzinfo=UTC)
