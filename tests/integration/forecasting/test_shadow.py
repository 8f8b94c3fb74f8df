"""Versions in Staging forecast in shadow: on the same inputs, for the log alone."""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pytest
from support.day_ahead import MODEL, promote_day_ahead, register_day_ahead
from support.energy import add_meter
from typer.testing import CliRunner

from ai_hub import registry
from ai_hub.cli import issuing, jobs
from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.forecasting import issue_history, log, production
from ai_hub.forecasting.accuracy import LeadErrors, accuracy
from ai_hub.forecasting.log import Role
from ai_hub.forecasting.production import Issuer
from ai_hub.forecasting.retraining import Cause, Proposals, Waiting
from ai_hub.registry.versions import get_version
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from support.energy import Energy

HOUR = timedelta(hours=1)
METERS = ("1", "11")


@pytest.fixture(scope="module")
def tenant(energy: Energy) -> str:
    """Two meters; version 1 in production, 2 and 3 in Staging, of which 3 looks 24 hours ahead."""
    name = f"shadow-{secrets.token_hex(4)}"
    for number, meter in enumerate(METERS):
        add_meter(name, meter, "UTC", energy.now, weeks=3, level=2.0 + number, seed=number)
    refresh()
    promote_day_ahead(name, METERS)
    register_day_ahead(name, METERS, seed=1)
    register_day_ahead(name, METERS, seed=2, leads=24)
    return name


def logged(tenant: str, role: Role) -> list[log.Run]:
    with connect() as connection:
        return log.list_runs(connection, tenant, model=MODEL, role=role)[0]


def call(*arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["forecast", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_each_version_in_staging_forecasts_from_the_features_of_the_live_one(
    energy: Energy, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = issue_history.read_issues

    def counted(*arguments: Any, **options: Any) -> Any:
        reads.append(arguments)
        return read(*arguments, **options)

    monkeypatch.setattr(issue_history, "read_issues", counted)
    runs = json.loads(call("run", "--tenant", tenant, "--shadow", "--json")[0])
    assert len(reads) == 1
    assert [(run["role"], run["version"], run["horizon_hours"]) for run in runs] == [
        ("live", 1, 48),
        ("shadow", 3, 24),
        ("shadow", 2, 48),
    ]
    assert {run["known_at"] for run in runs} == {runs[0]["known_at"]}
    assert {tuple(run["assets"]) for run in runs} == {METERS}
    assert [run["details"].get("live") for run in runs] == [None, runs[0]["run"], runs[0]["run"]]
    for run in runs:
        loaded = production.load(get_version(tenant, MODEL, str(run["version"])))
        expected = loaded.model.forecast(production.read_rows(energy.store, loaded, METERS, energy.now))
        with connect() as connection:
            rows = log.read_rows(connection, log.find_run(connection, tenant, UUID(run["run"])))
        found = np.array([row.value for row in rows]).reshape(len(METERS), -1)
        np.testing.assert_array_equal(found, expected.values)  # no pandas
        # and can be made again
        again = json.loads(call("replay", run["run"], "--tenant", tenant, "--json")[0])
        assert (again["rows"], again["differing"], again["same_features"]) == (len(rows), 0, True)


def test_nobody_is_served_by_a_shadow(energy: Energy, tenant: str) -> None:
    live = json.loads(call("run", "--tenant", tenant, "--json")[0])[0]
    assert len(logged(tenant, Role.SHADOW)) >= 2
    # later than the live one
    loaded = production.load(get_version(tenant, MODEL, "2"))
    rows = production.read_rows(energy.store, loaded, METERS, energy.now)
    run, grid = production.issue(loaded, rows, known_at=datetime.now(UTC), role=Role.SHADOW)
    with connect() as connection:
        log.write(connection, run, grid)
    shown = json.loads(call("show", "1", "--tenant", tenant, "--from", energy.now.isoformat(), "--json")[0])
    assert {row["run"] for row in shown["forecasts"]} == {live["run"]}
    with connect() as connection:
        found = accuracy(connection, tenant, "1", energy.now, energy.now + 48 * HOUR, now=datetime.now(UTC))
    assert {hour.semantic_version for hour in found.hours} == {"v1.0.0"}


def test_without_the_option_there_is_no_shadow(tenant: str) -> None:
    before = len(logged(tenant, Role.SHADOW))
    call("run", "--tenant", tenant)
    assert len(logged(tenant, Role.SHADOW)) == before


def test_a_shadow_that_fails_is_said_and_harms_nothing(tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = production.load
    order = []

    def some(version: registry.ModelVersion) -> production.LoadedDayAhead:
        order.append((version.version, len(logged(tenant, Role.LIVE))))
        if version.version == 2:
            raise MemoryError("too large")
        return load(version)

    monkeypatch.setattr(production, "load", some)
    before = len(logged(tenant, Role.LIVE))
    out, err = call("run", "--tenant", tenant, "--shadow", "--json")
    assert [(run["role"], run["version"]) for run in json.loads(out)] == [("live", 1), ("shadow", 3)]
    assert f"{tenant}: {MODEL} v1.0.1 does not forecast in shadow: too large" in " ".join(err.split())
    # the live one was in the log before any other version was touched
    assert order == [(1, before), (3, before + 1), (2, before + 1)]

    def down(*arguments: Any, **options: Any) -> Any:
        if options.get("stage") == "Staging":
            raise ConnectionError("gone")
        return search(*arguments, **options)

    search = production.search
    monkeypatch.setattr(production, "search", down)
    out, err = call("run", "--tenant", tenant, "--shadow", "--json")
    assert [run["role"] for run in json.loads(out)] == ["live"]
    assert "has no forecasts in shadow: gone" in " ".join(err.split())


def test_a_version_in_another_unit_or_archived_does_not_forecast(tenant: str) -> None:
    other = f"{MODEL}-units"
    promote_day_ahead(tenant, METERS, model=other)
    register_day_ahead(tenant, METERS, model=other, unit="MW")
    register_day_ahead(tenant, METERS, model=other)
    registry.promote(tenant, other, version="3", stage="archived", reason="test")
    (run,), errors, (note,) = Issuer(Settings(), [tenant], [other], shadow=True).issue_now()
    assert (run.role, errors) == (Role.LIVE, [])
    assert "v1.0.1 does not forecast in shadow: It was trained in MW" in note


def test_the_follower_issues_each_shadow_once_and_forgets_versions(tenant: str) -> None:
    other = f"{MODEL}-followed"
    promote_day_ahead(tenant, METERS, model=other)
    register_day_ahead(tenant, METERS, model=other)
    issuer = Issuer(Settings(), [tenant], [other], shadow=True)
    assert [run.role for run in issuer.catch_up().runs] == [Role.LIVE]
    # it waits for a time when nothing is due
    assert issuer.catch_up() == ([], [], [])
    assert issuer.waiting_shadows == 1
    (made,), errors, notes = issuer.issue_shadow()
    assert (made.role, made.version, errors, notes, issuer.waiting_shadows) == (Role.SHADOW, 2, [], [], 0)
    assert list(issuer._shadows[tenant, other]) == [2]
    registry.promote(tenant, other, version="2", stage="archived", reason="test")
    assert [run.role for run in issuer.issue_now().runs] == [Role.LIVE]
    assert issuer._shadows[tenant, other] == {}


def test_a_shadow_that_has_waited_for_two_steps_is_left_out(tenant: str) -> None:
    other = f"{MODEL}-waiting"
    promote_day_ahead(tenant, METERS, model=other)
    register_day_ahead(tenant, METERS, model=other)
    issuer = Issuer(Settings(), [tenant], [other], shadow=True)
    (live,) = issuer.catch_up().runs
    ((waiting, version),) = issuer._waiting
    before = len(logged(tenant, Role.SHADOW))
    issuer._waiting[0] = waiting._replace(run=replace(live, issued_at=live.issued_at - 2 * HOUR)), version
    ((), (), (note,)) = issuer.issue_shadow()
    assert f"{other} v1.0.1 has no forecast in shadow for {live.issued_at - 2 * HOUR:%Y-%m-%d %H:%MZ}" in note
    assert len(logged(tenant, Role.SHADOW)) == before


def test_a_follower_looks_for_live_issues_between_shadows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three shadows one is made in each interval, as it lasts longer."""
    order: list[str] = []

    class Follower:
        settings, tenants, waiting_shadows = None, (), 0

        def catch_up(self) -> production.Issued:
            order.append("look")
            if order.count("look") == 1:
                self.waiting_shadows = 3
            return production.Issued([], [], [])

        def issue_shadow(self) -> production.Issued:
            order.append("shadow")
            self.waiting_shadows -= 1
            time.sleep(0.06)
            if self.waiting_shadows == 1:
                stop.set()
            return production.Issued([], [], [f"shadow {self.waiting_shadows} is made"])

    stop = threading.Event()
    told: list[str] = []
    monkeypatch.setattr(jobs, "interruptible", lambda: nullcontext(stop))
    # said once, however often it is checked
    proposals = Proposals("t", waiting=[Waiting("t", "ahead", 2, None, [Cause.AGE])])
    monkeypatch.setattr(issuing, "_CHECK_S", 0)
    monkeypatch.setattr(issuing, "_check", lambda *_: ([], [proposals], []))
    monkeypatch.setattr(issuing, "say", told.append)
    follower: Any = Follower()
    issuing._follow(follower, 0.05, LeadErrors())
    assert order == ["look", "shadow", "look", "shadow"]
    assert told == [
        f"t: {proposals.waiting[0]}",
        *("shadow 2 is made", "shadow 1 is made"),
        *("1 forecasts in shadow are not made", "stopped"),
    ]


def test_a_follower_says_once_what_waits__also_after_a_check_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop, told = threading.Event(), list[str]()
    proposals = Proposals("t", waiting=[Waiting("t", "ahead", 2, None, [Cause.AGE])])
    checks: list[list[Proposals]] = [[proposals], [], [proposals]]

    def check(*_: object) -> tuple[list[Any], list[Proposals], list[Exception]]:
        if len(checks) == 1:
            stop.set()
        return [], checks.pop(0), []

    monkeypatch.setattr(jobs, "interruptible", lambda: nullcontext(stop))
    monkeypatch.setattr(issuing, "_CHECK_S", 0)
    monkeypatch.setattr(issuing, "_check", check)
    monkeypatch.setattr(issuing, "say", told.append)
    follower: Any = SimpleNamespace(
        settings=None, tenants=(), waiting_shadows=0, catch_up=lambda: production.Issued([], [], [])
    )
    issuing._follow(follower, 0.01, LeadErrors())
    assert told == [f"t: {proposals.waiting[0]}", "stopped"]


def test_versions_of_another_tenant_forecast_nothing(energy: Energy, tenant: str) -> None:
    theirs = f"{tenant}-other"
    add_meter(theirs, "1", "UTC", energy.now, weeks=1, level=2.0, seed=1)
    refresh()
    promote_day_ahead(theirs, ["1"])
    runs = Issuer(Settings(), [theirs], shadow=True).issue_now().runs
    assert [(run.tenant, run.role) for run in runs] == [(theirs, Role.LIVE)]
    assert logged(theirs, Role.SHADOW) == []
