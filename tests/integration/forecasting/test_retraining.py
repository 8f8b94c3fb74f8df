"""Requests to train anew: proposed by rule with their evidence, decided once, of one tenant alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from math import isfinite
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from prometheus_client import REGISTRY
from support.forecast_scores import DAY, MODEL, PRESENT, fill, promoted, spoil
from typer.testing import CliRunner

from ai_hub.cli.main import app
from ai_hub.db.refresh import refresh
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.db.transactions import transaction
from ai_hub.errors import ConflictError, NotFoundError
from ai_hub.forecasting import production, retraining
from ai_hub.forecasting.findings import Kind, check_models, find
from ai_hub.forecasting.retraining import Cause, Policy, Proposals, RetrainRequest, Status
from ai_hub.jobs import queue
from ai_hub.registry import discussions
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from psycopg import Connection

METERS = ("a", "b")
TRAINED = PRESENT - 100 * DAY
MIDNIGHT = PRESENT.replace(hour=0)
#: What commands say to the registry, to be told to the receivers.
TOLD: list[tuple[Any, ...]] = []


@pytest.fixture
def settings(database: str, connection: Connection[Any], tenant: str, other: str) -> Settings:
    """Of a database in which two tenants have a model of the same name and 300 days of its scores."""
    for owner in (tenant, other):
        for asset in METERS:
            connection.execute(
                "INSERT INTO assets (tenant_id, asset_id, kind, unit, created_at)"
                " VALUES (%s, %s, 'electricity', 'kW', %s)",
                [owner, asset, TRAINED - DAY],
            )
        fill(connection, owner, PRESENT.date(), meters=METERS)
    return Settings(timescale_dsn=database)  # type: ignore[arg-type]


def version_of(tenant: str, **fields: Any) -> Any:
    """What the registry says of the version in production."""
    return SimpleNamespace(
        **{
            "tenant": tenant,
            "model": "ahead",
            "version": 3,
            "semantic_version": "v1.0.2",
            "registered_at": TRAINED,
            "tags": {"kind": "electricity"},
        }
        | fields
    )


def propose(
    settings: Settings,
    tenant: str,
    now: datetime = PRESENT,
    *,
    staging: Sequence[Any] = (),
    trained: Sequence[str] = METERS,
    **fields: Any,
) -> Proposals:
    version = version_of(tenant, **fields)
    check_models(settings, tenant, in_production=lambda _: {MODEL: version.version}, now=now)
    cards = {version.version: METERS} | {each.version: trained for each in staging}
    return retraining.propose(
        settings,
        tenant,
        [version],
        card_of=lambda each: SimpleNamespace(unit="kW", assets=cards[each.version]),  # type: ignore[return-value,arg-type]
        staging=staging,
        now=now,
    )


def only(outcome: Proposals) -> RetrainRequest:
    (request,) = outcome.proposed
    return request


def test_error__is_proposed_with_its_finding(
    connection: Connection[Any], settings: Settings, tenant: str, other: str
) -> None:
    assert propose(settings, tenant) == Proposals(tenant)
    spoil(connection, tenant, 7, 3)
    request = only(propose(settings, tenant))
    (finding,) = find(connection, tenant, only_open=True)
    assert finding.kind is Kind.ERROR
    assert (request.model, request.version, request.semantic_version) == ("ahead", 3, "v1.0.2")
    assert request.causes == [Cause.ERROR]
    assert request.evidence == {
        "error": {
            "finding_id": str(finding.finding_id),
            "since": finding.since.isoformat(),
            **finding.detail,
        }
    }
    assert str(request) == "ahead 3 (v1.0.2): error above its own history: MAE 6.01, usually 2"
    # one that is open is enough, whatever else is found
    assert propose(settings, tenant, registered_at=PRESENT - 999 * DAY) == Proposals(tenant)
    assert propose(settings, other) == Proposals(other)


def only_open(connection: Connection[Any], owner: str) -> UUID:
    (request,) = retraining.find_all(connection, owner, status=Status.PROPOSED)
    return request.request_id


def read(connection: Connection[Any], owner: str, factor: float) -> dict[str, list[float]]:
    """Store readings of 27 weeks and three days; by meter, those by hour, the newest first.

    The last day of all and a day of one of the weeks before are missing; the last week of `a` is multiplied.
    """
    drawn = np.random.default_rng(5)
    hours = 27 * 168 + 72
    loads = {}
    for asset in METERS:
        values = 10 + 0.2 * drawn.normal(size=hours)
        values[: 7 * 24] *= factor if asset == "a" else 1
        values[:24] = values[168 * 4 : 168 * 4 + 30] = np.nan
        loads[asset] = values.tolist()
        kept = [(ago, value) for ago, value in enumerate(loads[asset]) if isfinite(value)]
        connection.execute(
            "INSERT INTO timeseries_data (timestamp, tenant_id, asset_id, value, interval_seconds)"
            " SELECT %s::timestamptz - (ago + 1) * INTERVAL '1 hour', %s, %s, value, 3600"
            " FROM unnest(%s::integer[], %s::float8[]) AS drawn (ago, value)",
            [MIDNIGHT, owner, asset, *(list(each) for each in zip(*kept, strict=True))],
        )
    return loads


def test_drift__is_proposed_with_an_error_and_never_alone(
    connection: Connection[Any],
    settings: Settings,
    database: str,
    tenant: str,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads = read(connection, tenant, 1.6)
    read(connection, other, 1)
    refresh(dsn=database)
    assert propose(settings, tenant) == Proposals(tenant)
    for owner in (tenant, other):
        spoil(connection, owner, 7, 3)
    # how often an hour was forecast, and what of, is nothing to its load
    connection.execute("UPDATE forecast_scores SET actual = 9 * hours, hours = 99 WHERE lead_hours = 6")
    request = only(propose(settings, tenant))
    assert request.causes == [Cause.ERROR, Cause.DRIFT]
    weeks = [list(filter(isfinite, loads["a"][168 * week : 168 * (week + 1)])) for week in range(27)]
    last, *usual = (fmean(week) for week in weeks if len(week) >= 144)
    assert len(usual) == 25
    assert request.evidence["drift"] == {
        "count": 1,
        "meters": [
            {
                "asset": "a",
                "value": pytest.approx(last),
                "usual": pytest.approx(fmean(usual)),
                "limit": pytest.approx(4 * stdev(usual)),
            }
        ],
    }
    assert "the load of 1 meters has changed: a 16, usually 10" in str(request)
    assert only(propose(settings, other)).causes == [Cause.ERROR]
    # it is not looked for where nothing can be proposed
    with monkeypatch.context() as patch:
        patch.setattr(retraining, "_drifted", lambda *_: pytest.fail("looked"))
        assert propose(settings, tenant) == Proposals(tenant)
        retraining.approve(connection, other, only_open(connection, other), by="ann")
        assert propose(settings, other) == Proposals(other)
    # one of another version is withdrawn
    promoted(connection, tenant, 4, 4)
    outcome = propose(settings, tenant, version=4)
    assert [each.request_id for each in outcome.withdrawn] == [request.request_id]
    assert only(outcome).causes == [Cause.ERROR, Cause.DRIFT]
    with monkeypatch.context() as patch:
        patch.setattr(retraining, "_drifted", lambda *_: pytest.fail("looked"))
        retraining.reject(connection, tenant, only_open(connection, tenant), by="ann", reason="no")
        assert propose(settings, tenant, version=4) == Proposals(tenant)


@pytest.mark.parametrize(("days", "causes"), [(180, []), (181, [Cause.AGE])])
@pytest.mark.usefixtures("connection")
def test_age__above_the_policy(settings: Settings, tenant: str, days: int, causes: list[Cause]) -> None:
    outcome = propose(settings, tenant, registered_at=PRESENT - days * DAY)
    assert [cause for request in outcome.proposed for cause in request.causes] == causes
    with transaction(settings) as owner:
        retraining.save_policy(owner, tenant, max_age_days=days - 1)
    if not causes:
        assert only(propose(settings, tenant, registered_at=PRESENT - days * DAY)).evidence == {
            "age": {"days": days, "limit": days - 1, "trained_at": (PRESENT - days * DAY).isoformat()}
        }


def test_new_meters__of_its_kind_and_unit_with_a_history(
    connection: Connection[Any], settings: Settings, tenant: str
) -> None:
    def add(asset: str, kind: str = "electricity", unit: str = "kW", *, days: int, age: int = 50) -> None:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind, unit, created_at) VALUES (%s, %s, %s, %s, %s)",
            [tenant, asset, kind, unit, PRESENT - age * DAY],
        )
        connection.execute(
            "INSERT INTO asset_spans (tenant_id, asset_id, first_hour, last_hour) VALUES (%s, %s, %s, %s)",
            [tenant, asset, PRESENT - days * DAY, PRESENT],
        )

    add("gas", "gas", days=60)
    add("other unit", unit="bar", days=60)
    add("young", days=27)
    add("older than the version", days=60, age=101)
    assert propose(settings, tenant) == Proposals(tenant)
    add("c", days=28)
    add("b2", days=300)
    request = only(propose(settings, tenant))
    assert request.evidence == {"assets": {"count": 2, "names": ["b2", "c"]}}
    assert str(request) == "ahead 3 (v1.0.2): 2 new meters: b2, c"


def test_version_that_cannot_be_read__keeps_nothing_else_from_being_proposed(
    connection: Connection[Any], settings: Settings, tenant: str
) -> None:
    spoil(connection, tenant, 7, 3)
    connection.execute(
        "INSERT INTO assets (tenant_id, asset_id, kind, unit, created_at)"
        " VALUES (%s, 'c', 'electricity', 'kW', %s)",
        [tenant, PRESENT - 50 * DAY],
    )
    connection.execute(
        "INSERT INTO asset_spans (tenant_id, asset_id, first_hour, last_hour) VALUES (%s, 'c', %s, %s)",
        [tenant, PRESENT - 60 * DAY, PRESENT],
    )
    check_models(settings, tenant, in_production=lambda _: {MODEL: 3}, now=PRESENT)

    def card_of(_: Any) -> Any:
        raise ConflictError("A file is not what was registered.")

    with pytest.raises(ConflictError, match="not what was registered"):
        retraining.propose(settings, tenant, [version_of(tenant)], card_of=card_of, now=PRESENT)
    (request,) = retraining.find_all(connection, tenant)
    assert request.evidence.keys() == {"error"}


def test_proposal_that_is_decided_during_a_check__is_left_as_it_is(
    connection: Connection[Any], settings: Settings, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(connection, tenant, 7, 3)
    request = only(propose(settings, tenant))
    retraining.reject(connection, tenant, request.request_id, by="ann", reason="holidays")
    # what the check has read before
    monkeypatch.setattr(retraining, "find_all", lambda *_, **__: [request])
    outcome = propose(settings, tenant, version=4)
    assert outcome.withdrawn == []
    monkeypatch.undo()
    assert {each.status for each in retraining.find_all(connection, tenant)} >= {"rejected"}


def test_request__is_decided_once_and_followed_by_a_pause(
    connection: Connection[Any], settings: Settings, tenant: str, other: str
) -> None:
    spoil(connection, tenant, 7, 3)
    request = only(propose(settings, tenant))
    with as_tenant(connection, other):
        assert retraining.find_all(connection, tenant) == []
        with pytest.raises(NotFoundError):
            retraining.approve(connection, tenant, request.request_id, by="somebody")
    with as_tenant(connection, other), pytest.raises(NotFoundError):
        retraining.reject(connection, other, request.request_id, by="somebody", reason="no")
    with as_tenant(connection, tenant):
        rejected = retraining.reject(connection, tenant, request.request_id, by="ann", reason="holidays")
        assert rejected.outcome == "rejected by ann: holidays"
    with as_tenant(connection, tenant), pytest.raises(ConflictError, match="is rejected already"):
        retraining.approve(connection, tenant, request.request_id, by="ann")
    assert propose(settings, tenant) == Proposals(tenant)

    def age(days: float) -> None:
        connection.execute(
            "UPDATE retrain_requests SET ended_at = %s WHERE request_id = %s",
            [PRESENT - days * DAY, request.request_id],
        )

    age(13.9)
    assert propose(settings, tenant) == Proposals(tenant)
    age(14.1)
    again = only(propose(settings, tenant))
    # somebody else's version is in production: what it is proposed for is its own error
    promoted(connection, tenant, 4, 3)
    outcome = propose(settings, tenant, version=4)
    assert [each.request_id for each in outcome.withdrawn] == [again.request_id]
    assert outcome.proposed == []
    promoted(connection, tenant, 4, 4)
    assert only(propose(settings, tenant, version=4)).version == 4


def test_version_in_staging_that_was_trained_since__holds_back_what_it_answers(
    connection: Connection[Any], settings: Settings, tenant: str, other: str
) -> None:
    spoil(connection, tenant, 7, 3)
    now = datetime.now(UTC)
    # neither one that was trained before the finding nor one before the version in production
    before = [
        version_of(tenant, version=4, registered_at=now - DAY),
        version_of(tenant, version=2, registered_at=TRAINED - DAY),
    ]
    first = only(propose(settings, tenant, staging=before))
    retraining.reject(connection, tenant, first.request_id, by="ann", reason="later")
    connection.execute("UPDATE retrain_requests SET ended_at = %s", [PRESENT - 99 * DAY])
    since = version_of(tenant, version=5, semantic_version="v1.0.4", registered_at=now + DAY)
    outcome = propose(settings, tenant, staging=[since, *before], registered_at=PRESENT - 181 * DAY)
    assert outcome.proposed == []
    (waits,) = outcome.waiting
    assert str(waits) == (
        "ahead: nothing is proposed for error, age while version 5 (v1.0.4), trained since, "
        "waits in Staging: promote or archive it"
    )
    # of another model or tenant it holds back nothing, nor when somebody asks
    elsewhere = [version_of(tenant, model="another", version=5, registered_at=now + DAY)]
    spoil(connection, other, 7, 3)
    assert only(propose(settings, other, staging=elsewhere)).causes == [Cause.ERROR]
    assert retraining.propose_by_hand(settings, version_of(tenant), by="ann", reason="x").causes == [
        Cause.REQUEST
    ]


def test_version_in_staging__holds_back_the_meters_that_it_knows(
    connection: Connection[Any], settings: Settings, tenant: str
) -> None:
    for asset in ("c", "d"):
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind, unit, created_at)"
            " VALUES (%s, %s, 'electricity', 'kW', %s)",
            [tenant, asset, PRESENT - 50 * DAY],
        )
        connection.execute(
            "INSERT INTO asset_spans (tenant_id, asset_id, first_hour, last_hour) VALUES (%s, %s, %s, %s)",
            [tenant, asset, PRESENT - 60 * DAY, PRESENT],
        )
    staging = [version_of(tenant, version=4, registered_at=PRESENT - DAY)]
    outcome = propose(settings, tenant, staging=staging, trained=["a", "b", "c", "d"])
    assert (outcome.proposed, [each.as_dict() for each in outcome.waiting]) == (
        [],
        [
            {
                "tenant": tenant,
                "model": MODEL,
                "version": 4,
                "semantic_version": "v1.0.2",
                "causes": ["assets"],
            }
        ],
    )
    request = only(propose(settings, tenant, staging=staging, trained=["a", "b", "c"]))
    assert request.evidence == {"assets": {"count": 1, "names": ["d"]}}


def test_approved__has_a_job_whose_end_is_its_own(
    connection: Connection[Any], settings: Settings, tenant: str
) -> None:
    request = retraining.propose_by_hand(settings, version_of(tenant), by="ann", reason="new heat pumps")
    assert request.evidence == {"request": {"by": "ann", "reason": "new heat pumps"}}
    with pytest.raises(ConflictError, match="is open"):
        retraining.propose_by_hand(settings, version_of(tenant), by="ann", reason="again")
    with as_tenant(connection, tenant):
        approved = retraining.approve(connection, tenant, request.request_id, by="bob", reason="go")
        job = queue.find(connection, tenant, request.request_id)
    assert (approved.status, approved.decided_by, approved.reason) == (Status.APPROVED, "bob", "go")
    assert (job.kind, job.status, job.arguments, job.created_by) == (
        *(retraining.KIND, "pending"),
        *({"model": "ahead"}, "bob"),
    )

    def found() -> tuple[Any, ...]:
        with as_tenant(connection, tenant):
            each = retraining.find(connection, tenant, request.request_id)
        return each.status, each.new_version, each.new_semantic_version, each.error, each.ended_at is not None

    def job_is(**values: Any) -> None:
        assignments = ", ".join(f"{name} = %({name})s" for name in values)
        with as_tenant(connection, tenant):
            connection.execute(
                f"UPDATE jobs SET {assignments} WHERE job_id = %(job)s",  # type: ignore[arg-type]  # noqa: S608
                values | {"job": request.request_id},
            )

    job_is(status="running")
    assert found() == (Status.APPROVED, None, None, None, False)
    job_is(status="failed", error="no readings", completed_at=PRESENT)
    assert found() == (Status.FAILED, None, None, "no readings", True)
    with as_tenant(connection, tenant):
        queue.retry(connection, tenant, request.request_id)
    assert found() == (Status.APPROVED, None, None, None, False)
    with as_tenant(connection, tenant):
        queue.cancel(connection, tenant, request.request_id)
    # while another one is open, the first stays as it is
    retraining.propose_by_hand(settings, version_of(tenant), by="ann", reason="again")
    with as_tenant(connection, tenant), pytest.raises(ConflictError, match="Another job"):
        queue.retry(connection, tenant, request.request_id)
    connection.execute("DELETE FROM retrain_requests WHERE status = 'proposed' AND tenant_id = %s", [tenant])
    with as_tenant(connection, tenant):
        queue.retry(connection, tenant, request.request_id)
    result = json.dumps({"version": 7, "semantic_version": "v1.1.0"})
    job_is(status="completed", result=result, completed_at=PRESENT)
    assert found() == (Status.COMPLETED, 7, "v1.1.0", None, True)


def test_receivers__are_told_once_and_again_where_that_has_failed(
    connection: Connection[Any], settings: Settings, tenant: str, other: str
) -> None:
    for owner in (tenant, other):
        spoil(connection, owner, 7, 3)
    request, foreign = only(propose(settings, tenant)), only(propose(settings, other))

    def fail(_: RetrainRequest) -> None:
        raise OSError("no registry")

    with pytest.raises(OSError, match="no registry"):
        retraining.notify(settings, tenant, fail)
    told: list[RetrainRequest] = []
    for _ in range(2):
        retraining.notify(settings, tenant, told.append)
    assert [each.request_id for each in told] == [request.request_id]
    with transaction(settings, other) as rows:
        retraining.reject(rows, other, foreign.request_id, by="ann", reason="no")
    retraining.notify(settings, other, told.append)
    assert len(told) == 1


def test_policy__of_the_model_then_of_the_tenant_then_the_default(
    connection: Connection[Any], settings: Settings, tenant: str, other: str
) -> None:
    assert retraining.find_policy(connection, tenant, "ahead") == Policy()
    retraining.save_policy(connection, tenant, automatic=True, cooldown_days=3)
    assert retraining.save_policy(connection, tenant, "ahead", max_age_days=30) == Policy(
        automatic=True, max_age_days=30, cooldown_days=3
    )
    assert retraining.save_policy(connection, tenant, "quiet", automatic=False) == Policy(cooldown_days=3)
    assert retraining.find_policy(connection, other, "ahead") == Policy()
    # of another tenant it is proposed, of this one approved, too
    outcome = propose(settings, tenant)
    assert [each.decided_by for each in outcome.approved] == ["policy"]
    assert only(outcome).causes == [Cause.AGE]
    with as_tenant(connection, tenant):
        assert queue.find(connection, tenant, only(outcome).request_id).status == "pending"
    spoil(connection, other, 7, 3)
    assert propose(settings, other).approved == []


def test_service__decides_on_nothing_else(
    connection: Connection[Any], settings: Settings, tenant: str
) -> None:
    retraining.propose_by_hand(settings, version_of(tenant), by="ann", reason="why not")
    for statement in (
        "INSERT INTO retrain_requests (tenant_id, model, version, evidence) VALUES (%s, 'm', 1, '[1]')",
        "UPDATE retrain_requests SET evidence = '{\"age\": 1}' WHERE tenant_id = %s",
        "UPDATE retrain_policies SET automatic = true WHERE tenant_id = %s",
        "DELETE FROM retrain_requests WHERE tenant_id = %s",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), as_tenant(connection, tenant):
            connection.execute(statement, [tenant])  # type: ignore[arg-type]


@pytest.fixture
def command(
    database: str,
    settings: Settings,
    connection: Connection[Any],
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Runs `ai-hub` in this database, with a model in production."""
    del settings
    monkeypatch.setenv("TIMESCALE_DSN", database)
    now = datetime.now(UTC)
    version = version_of(tenant, registered_at=now - 200 * DAY)
    monkeypatch.setattr(production, "production_versions", lambda _: [version])
    monkeypatch.setattr(production, "staging_versions", lambda _: [])
    monkeypatch.setattr(discussions, "propose_retraining", lambda *said: TOLD.append(said))
    connection.execute("DELETE FROM forecast_scores WHERE tenant_id = %s", [tenant])

    def run(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--tenant", tenant])
        assert result.exit_code == code, result.output
        return result

    return run


def count(change: Status) -> float:
    return REGISTRY.get_sample_value("ai_hub_retrain_requests_total", {"change": change.value}) or 0


def test_commands__from_a_check_to_a_decision(
    command: Any, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count(Status.PROPOSED), count(Status.APPROVED)
    checked = command("check", "models")
    assert f"{tenant}: train anew? ahead 3 (v1.0.2): trained 200 days ago" in checked.stdout
    said = "Train anew: trained 200 days ago, at most 180 are allowed"
    assert [each for each in TOLD if each[0] == tenant] == [(tenant, "ahead", said, 3)]
    (event,) = (json.loads(line) for line in checked.stderr.splitlines())
    assert (event["event"], event["tenant"], event["causes"]) == (
        "model.retraining_proposed",
        tenant,
        ["age"],
    )
    (found,) = json.loads(command("retrain", "list", "--json").stdout)
    assert found["status"] == "proposed"
    assert "waits for a decision" in command("retrain", "list").stdout
    assert f"request_id: {found['request_id']}" in command("retrain", "show", found["request_id"]).stdout
    assert "nothing is proposed" in command("retrain", "propose").stdout
    monkeypatch.setattr(
        production,
        "staging_versions",
        lambda _: [version_of(tenant, version=4, registered_at=datetime.now(UTC))],
    )
    held = "ahead: nothing is proposed for age while version 4 (v1.0.2), trained since, waits in Staging"
    assert held in command("retrain", "propose").stdout
    assert f"{tenant}: {held}" in command("check", "models").stdout
    approved = command("retrain", "approve", found["request_id"], "--reason", "spring")
    assert approved.stdout.startswith("ahead: approved by ")
    assert (count(Status.PROPOSED), count(Status.APPROVED)) == (before[0] + 1, before[1] + 1)
    again = command("retrain", "reject", found["request_id"], "--reason", "no", code=1)
    assert isinstance(again.exception, ConflictError)
    assert "ai-hub jobs cancel" in str(again.exception)
    unknown = command("retrain", "approve", str(uuid4()), code=1)
    assert isinstance(unknown.exception, NotFoundError)
    assert json.loads(command("retrain", "list", "--status", "proposed", "--json").stdout) == []


def test_commands__that_propose_by_hand_and_set_the_policy(command: Any) -> None:
    assert "approval: manual" in command("retrain", "policy").stdout
    command("retrain", "policy", "--approval", "automatic", "--max-age-days", "300")
    assert json.loads(command("retrain", "policy", "--model", "ahead", "--json").stdout) == {
        "approval": "automatic",
        "max_age_days": 300,
        "cooldown_days": 14,
    }
    assert "nothing is proposed" in command("retrain", "propose").stdout
    command("retrain", "propose", "ahead", code=1)
    command("retrain", "propose", "nobody", "--reason", "why", code=1)
    command("retrain", "propose", "ahead", "--reason", "new heat pumps")
    (found,) = json.loads(command("retrain", "list", "--json").stdout)
    assert (found["status"], found["decided_by"]) == ("approved", "policy")
