"""Findings about models: opened once, resolved when the week is well again, and of one tenant alone."""

from __future__ import annotations

import json
import os
import re
import signal
from datetime import UTC, datetime
from hashlib import md5
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.forecast_scores import DAY, MODEL, PRESENT, fill, promoted, spoil
from typer.testing import CliRunner

from ai_hub.cli import common
from ai_hub.cli.main import app
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.forecasting import log, production
from ai_hub.forecasting.findings import Kind, Outcome, check_models, find
from ai_hub.registry import discussions
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from psycopg import Connection

MODELS = ((MODEL, "live"), (MODEL, "shadow"), ("retired", "live"))


@pytest.fixture
def settings(database: str, connection: Connection[Any], tenant: str, other: str) -> Settings:
    """Of a database in which two tenants have a model of the same name."""
    for owner in (tenant, other):
        connection.execute("INSERT INTO assets (tenant_id, asset_id, unit) VALUES (%s, 'a', 'kW')", [owner])
        fill(connection, owner, PRESENT.date(), models=MODELS)
    return Settings(timescale_dsn=database)  # type: ignore[arg-type]


def check(settings: Settings, tenant: str, now: datetime = PRESENT, version: int = 3) -> Outcome:
    return check_models(settings, tenant, in_production=lambda _: {MODEL: version}, now=now)


def in_production(tenant: str) -> list[Any]:
    """What the registry says."""
    fields = {"semantic_version": None, "registered_at": datetime.now(UTC), "tags": {}}
    return [SimpleNamespace(tenant=tenant, model="ahead", version=3, **fields)]


def test_findings__are_opened_once_and_resolved_and_of_one_tenant(
    connection: Connection[Any], settings: Settings, tenant: str, other: str
) -> None:
    assert (check(settings, tenant).open, check(settings, other).open) == ([], [])
    spoil(connection, tenant, 7, 2, role="shadow")
    spoil(connection, tenant, 7, 2, model="retired")
    assert check(settings, tenant).open == []

    spoil(connection, tenant, 7, 2)
    outcome = check(settings, tenant)
    (finding,) = outcome.new
    assert outcome.open == outcome.new
    assert (finding.model, finding.kind, finding.since) == (
        "ahead",
        Kind.ERROR,
        datetime(2026, 10, 5, tzinfo=UTC),
    )
    assert finding.detail["value"] == pytest.approx(4, rel=0.02)
    assert finding.detail["usual"] == pytest.approx(2, rel=0.02)
    again = check(settings, tenant)
    assert (again.new, again.resolved, again.open) == ([], [], outcome.open)
    assert check(settings, other).open == []
    for owner, expected in ((tenant, outcome.open), (other, [])):
        with as_tenant(connection, owner):
            assert find(connection, owner) == expected
            # whatever is asked for inside the scope of a tenant
            assert find(connection, tenant) == expected

    spoil(connection, tenant, 7, 0.5)
    (resolved,) = check(settings, tenant).resolved
    assert (resolved.kind, resolved.resolved_at is not None) == (Kind.ERROR, True)
    assert find(connection, tenant, only_open=True) == []
    assert len(find(connection, tenant)) == 1


def test_findings__of_single_meters__name_them(
    connection: Connection[Any], settings: Settings, tenant: str, other: str
) -> None:
    more = [f"meter-{number}" for number in range(6)]
    for owner in (tenant, other):
        for meter in more:
            connection.execute(
                "INSERT INTO assets (tenant_id, asset_id, unit) VALUES (%s, %s, 'kW')", [owner, meter]
            )
        fill(connection, owner, PRESENT.date(), meters=more)
    connection.execute(
        "UPDATE forecast_scores SET absolute = absolute * 1.2, error = -0.1 * actual"
        " WHERE tenant_id = %s AND asset_id = 'meter-4' AND day >= %s AND role = 'live'",
        [tenant, PRESENT.date() - 7 * DAY],
    )
    (finding,) = (each for each in check(settings, tenant).new if each.kind is Kind.METERS)
    assert [each["asset_id"] for each in finding.detail["meters"]] == ["meter-4"]
    assert "1 meter errs unlike the others: meter-4" in str(finding)
    assert check(settings, other).open == []
    connection.execute(
        "UPDATE forecast_scores SET absolute = absolute / 1.2, error = 0"
        " WHERE tenant_id = %s AND asset_id = 'meter-4' AND day >= %s AND role = 'live'",
        [tenant, PRESENT.date() - 7 * DAY],
    )
    assert Kind.METERS in [each.kind for each in check(settings, tenant).resolved]


def test_findings__of_a_fault_that_stays__stay_open(
    connection: Connection[Any], settings: Settings, tenant: str
) -> None:
    spoil(connection, tenant, 28, 2)
    for days in (21, 14, 7, 0):
        outcome = check(settings, tenant, PRESENT - days * DAY)
        assert [each.kind for each in outcome.open] == [Kind.ERROR]
        assert len(outcome.new) == (days == 21)
    gone = check_models(settings, tenant, in_production=lambda _: {"another": 3}, now=PRESENT)
    assert ([each.model for each in gone.resolved], gone.open) == (["ahead"], [])


def test_findings__are_of_the_version_in_production_and_the_days_that_it_forecast(
    connection: Connection[Any], settings: Settings, tenant: str
) -> None:
    spoil(connection, tenant, 7, 2)
    (finding,) = check(settings, tenant).open
    assert (finding.version, "(version 3, since 2026-10-05)" in str(finding)) == (3, True)
    # promoted before it: three days say nothing of a version, and nothing of another one is said of it
    promoted(connection, tenant, 4, 3)
    outcome = check(settings, tenant, version=4)
    assert (outcome.open, outcome.resolved) == ([finding], [])
    promoted(connection, tenant, 4, 4)
    (of_next,) = check(settings, tenant, version=4).open
    assert (of_next.finding_id, of_next.version, of_next.since) == (finding.finding_id, 4, finding.since)
    spoil(connection, tenant, 4, 0.5)
    assert [each.version for each in check(settings, tenant, version=4).resolved] == [4]
    # the days before are of the version before
    assert check(settings, tenant, version=4).open == []
    # while the registry does not answer, it is judged as the finding's
    spoil(connection, tenant, 4, 2)
    (reopened,) = check(settings, tenant, version=4).new
    assert check_models(settings, tenant, in_production=fail, now=PRESENT).open == [reopened]


def test_findings__that_can_never_be_told_again__are_resolved(
    connection: Connection[Any], settings: Settings, tenant: str, other: str
) -> None:
    for owner in (tenant, other):
        spoil(connection, owner, 7, 2)
        assert [each.kind for each in check(settings, owner).new] == [Kind.ERROR]
    connection.execute(
        "UPDATE assets SET unit = 'bar' WHERE tenant_id = %s AND asset_id = 'a'",
        [tenant],
    )
    connection.execute("DELETE FROM assets WHERE tenant_id = %s AND asset_id = 'a'", [other])
    for owner in (tenant, other):
        outcome = check(settings, owner)
        assert ([each.kind for each in outcome.resolved], outcome.open) == ([Kind.ERROR], [])


def test_findings__of_a_meter_that_is_late__are_none(
    connection: Connection[Any], settings: Settings, tenant: str
) -> None:
    connection.execute("INSERT INTO assets (tenant_id, asset_id, unit) VALUES (%s, 'late', 'kW')", [tenant])
    connection.execute(
        "INSERT INTO forecast_scores (tenant_id, asset_id, day, model, version, role, unit, lead_hours,"
        " hours, error, absolute, squared, actual, banded, covered, width)"
        " SELECT tenant_id, 'late', day, model, version, role, unit, lead_hours,"
        " hours, error, absolute / 10, squared, actual, banded, covered, width"
        " FROM forecast_scores WHERE tenant_id = %s AND day < %s",
        [tenant, PRESENT.date() - 5 * DAY],
    )
    assert check(settings, tenant).open == []


def fail(_: str) -> dict[str, int]:
    raise OSError("no registry")


def test_findings__while_the_registry_does_not_answer__are_of_models_that_have_one(
    connection: Connection[Any], settings: Settings, tenant: str
) -> None:
    spoil(connection, tenant, 7, 2, model="retired")
    unknown = check_models(settings, tenant, in_production=fail, now=PRESENT)
    assert (unknown.open, str(unknown.problem)) == ([], "no registry")
    spoil(connection, tenant, 7, 2)
    (finding,) = check(settings, tenant).new
    assert check_models(settings, tenant, in_production=fail, now=PRESENT).open == [finding]
    # a newer one that is of no version says nothing of which
    connection.execute(
        "INSERT INTO model_findings (tenant_id, model, kind, since, detail, detected_at)"
        " VALUES (%s, %s, 'stale', now(), '{}', now() + INTERVAL '1 hour')",
        [tenant, finding.model],
    )
    still = check_models(settings, tenant, in_production=fail, now=PRESENT).open
    assert [each.version for each in still if each.kind is finding.kind] == [3]
    connection.execute("DELETE FROM model_findings WHERE tenant_id = %s AND kind = 'stale'", [tenant])
    spoil(connection, tenant, 7, 0.5)
    (resolved,) = check_models(settings, tenant, in_production=fail, now=PRESENT).resolved
    assert resolved.model == "ahead"


DUE = {"by": "ai-hub forecast run", "meters": "all"}


def test_findings__of_a_model_that_issues_nothing(
    connection: Connection[Any], settings: Settings, tenant: str, other: str
) -> None:
    def issue(at: datetime, owner: str, status: str = "complete", **details: Any) -> None:
        connection.execute(
            "INSERT INTO forecast_runs (run_id, tenant_id, model, version, manifest_sha256, role, issued_at,"
            " known_at, recorded_at, step, horizon, status, assets, details) VALUES (%s, %s, 'ahead', 3,"
            " repeat('ab', 32), 'live', %s, %s, %s, '1 h', '24 h', %s, ARRAY['a'], %s)",
            [log.new_run_id(), owner, at, at, at, status, json.dumps(details)],
        )

    for number in range(10):
        issue(PRESENT - (2 + number) * DAY, tenant, **DUE)
        issue(PRESENT - (0.9 + number) * DAY, other, **DUE)
    issue(PRESENT - DAY / 24, tenant)  # somebody asked by REST
    for number in range(40):
        issue(PRESENT - (1 + number) * DAY / 24, tenant, "failed", **DUE)
    assert check(settings, other).open == []
    (finding,) = check(settings, tenant).open
    assert (finding.kind, finding.since) == (Kind.STALE, PRESENT - 2 * DAY)
    assert finding.detail == {"value": 48, "usual": 24, "limit": 36}

    unknown = check_models(settings, tenant, in_production=fail, now=PRESENT)
    assert (len(unknown.open), unknown.resolved, str(unknown.problem)) == (1, [], "no registry")
    # retention leaves three
    connection.execute(
        "DELETE FROM forecast_runs WHERE tenant_id = %s AND issued_at < %s", [tenant, PRESENT - 4.5 * DAY]
    )
    few = check(settings, tenant)
    assert (few.open, few.resolved) == ([finding], [])
    issue(PRESENT, tenant, **DUE)
    assert [each.kind for each in check(settings, tenant).resolved] == [Kind.STALE]


@pytest.mark.usefixtures("settings")
def test_forecast_run__that_follows__says_what_is_found(
    connection: Connection[Any], database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMESCALE_DSN", database)
    monkeypatch.setattr(production, "production_versions", in_production)
    monkeypatch.setattr(production, "staging_versions", lambda _: [])
    connection.execute("DELETE FROM forecast_scores WHERE tenant_id = %s", [tenant])
    fill(connection, tenant, datetime.now(UTC).date(), models=MODELS)
    connection.execute("UPDATE forecast_scores SET covered = 10 WHERE tenant_id = %s", [tenant])
    looks = iter(range(3))
    served: list[str] = []
    say = common.say

    def listen(text: str) -> None:
        say(text)
        served.extend(re.findall(r"metrics on (http://127\.0\.0\.1:\d+/metrics)", text))

    monkeypatch.setattr(common, "say", listen)

    def look(_: production.Issuer) -> production.Issued:
        if next(looks, None) is None:
            served.append(httpx.get(served[0]).raise_for_status().text)
            os.kill(os.getpid(), signal.SIGTERM)
        return production.Issued([], [], [])

    monkeypatch.setattr(production.Issuer, "catch_up", look)
    said = CliRunner().invoke(
        app, ["forecast", "run", "--tenant", tenant, "--follow", "--interval", "0.1", "--metrics-port", "0"]
    )
    assert said.exit_code == 0, said.output
    assert said.stdout.count(f"{tenant}: ahead: band lost: 42% of the values") == 1
    _, text = served
    assert 'ai_hub_model_findings_total{change="opened",kind="coverage"}' in text
    assert tenant not in text
    # as Prometheus's hashmod
    number = int(md5(tenant.encode(), usedforsecurity=False).hexdigest()[16:], 16) % 2**32
    published = re.findall(
        r'ai_hub_forecast_error_share{lead_hours="(\d+)",model="(\w+)",tenant="(\d+)"} (\S+)', text
    )
    expected = connection.execute(
        "SELECT lead_hours::text, model, %s, sum(absolute) / sum(actual) FROM forecast_scores"
        " WHERE tenant_id = %s AND role = 'live' AND day >= (now() AT TIME ZONE 'UTC')::date - 28"
        " GROUP BY 1, 2 ORDER BY 1, 2",
        [str(number), tenant],
    ).fetchall()
    assert sorted((*of, float(value)) for *of, value in published) == [
        (*of, pytest.approx(value)) for *of, value in expected
    ]
    assert expected


@pytest.mark.usefixtures("settings")
def test_check_models_command__says_what_is_open_and_fails(
    connection: Connection[Any],
    database: str,
    tenant: str,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIMESCALE_DSN", database)
    monkeypatch.setattr(production, "production_versions", in_production)
    monkeypatch.setattr(production, "staging_versions", lambda _: [])
    monkeypatch.setattr(discussions, "propose_retraining", lambda *_: None)
    connection.execute("DELETE FROM forecast_scores WHERE tenant_id = ANY (%s)", [[tenant, other]])
    for owner in (tenant, other):
        fill(connection, owner, datetime.now(UTC).date())
    connection.execute(
        "UPDATE forecast_scores SET absolute = 2 * absolute WHERE tenant_id = %s AND model = 'ahead'"
        " AND day >= current_date - 7",
        [tenant],
    )
    found = CliRunner().invoke(app, ["check", "models", "--tenant", tenant, "--tenant", other])
    assert found.exit_code == 1, found.output
    assert f"{tenant}: ahead: error above its own history" in found.output
    assert "2 tenants checked: 1 findings are new, 0 resolved" in found.output
    event, proposed = (json.loads(line) for line in found.stderr.splitlines())
    assert (event["event"], event["tenant"], event["kind"]) == ("model.finding_opened", tenant, "error")
    assert (proposed["event"], proposed["tenant"]) == ("model.retraining_proposed", tenant)
    assert proposed["evidence"]["error"]["finding_id"] == event["finding_id"]
    # no forecasts are left, the finding is
    of_all = CliRunner().invoke(app, ["check", "models"])
    assert of_all.exit_code == 1, of_all.output
    assert f"{tenant}: ahead: error above its own history" in of_all.output
    healthy = CliRunner().invoke(app, ["check", "models", "--tenant", other, "--json"])
    assert healthy.exit_code == 0, healthy.output
    nothing: dict[str, list[Any]] = {"open": [], "new": [], "resolved": [], "proposed": [], "waiting": []}
    assert json.loads(healthy.stdout) == [{"tenant": other, **nothing}]
