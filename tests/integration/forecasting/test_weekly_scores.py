"""Weekly scores in MLflow: a week once, and again only where settled values have changed it."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime, timedelta
from math import sqrt
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient
from support.day_ahead import promote_day_ahead
from typer.testing import CliRunner

from ai_hub import registry
from ai_hub.cli.issuing import _check
from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.errors import AiHubError
from ai_hub.forecasting.weekly_scores import _LOCK, log_weekly_scores
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.energy import Energy

DAY = timedelta(days=1)
MODEL = "ahead"
#: A Wednesday: with seven days until readings are complete, the last whole week is provisional.
PRESENT = datetime(2026, 10, 14, 6, tzinfo=UTC)


@pytest.fixture(scope="module")
def tenant(energy: Energy) -> str:
    """With scores of 40 days of a version in production; another tenant has a model of that name."""
    del energy
    name = f"weekly-{secrets.token_hex(4)}"
    promote_day_ahead(name, ["a"], model=MODEL)
    with connect() as connection:
        for owner, factor in ((name, 1), (f"{name}-other", 7)):
            connection.execute(
                "INSERT INTO assets (tenant_id, asset_id, unit) VALUES (%s, 'a', 'kW')", [owner]
            )
            connection.execute(
                "INSERT INTO forecast_scores (tenant_id, asset_id, day, model, version, role, unit,"
                " lead_hours,"
                " hours, error, absolute, squared, actual, banded, covered, width)"
                " SELECT %s, 'a', %s::date - number, %s, version, role, 'kW', lead, 20 + number %% 4, number,"
                " 2 * number * %s, 9 * number, 99, 20, 16, 9"
                " FROM generate_series(0, 40) AS number, (VALUES (0), (6)) AS leads (lead),"
                " (VALUES (1, 'live'), (1, 'shadow'), (9, 'live'), (0, 'live')) AS v (version, role)",
                [owner, PRESENT.date(), MODEL, factor],
            )
    return name


def expected() -> dict[int, dict[str, float]]:
    """By year and week of ISO 8601, from the same numbers one by one."""
    days: dict[int, list[int]] = {}
    for number in range(41):
        day = (PRESENT - number * DAY).date()
        if day < (PRESENT - PRESENT.weekday() * DAY).date():
            year, week, _ = day.isocalendar()
            days.setdefault(year * 100 + week, []).append(number)
    found = {}
    for week, numbers in days.items():
        hours = sum(2 * (20 + number % 4) for number in numbers)
        found[week] = {
            "hours": hours,
            "mae": sum(4 * number for number in numbers) / hours,
            "rmse": sqrt(sum(18 * number for number in numbers) / hours),
            "bias": sum(2 * number for number in numbers) / hours,
            "coverage": 0.8,
        }
    return found


def histories(energy: Energy, tenant: str) -> dict[str, dict[int, list[float]]]:
    """Values that were written, by metric and step."""
    with registry.tenant_scope(tenant):
        client = MlflowClient(energy.environment["MLFLOW_TRACKING_URI"])
        version = registry.find_version(tenant, MODEL, 1)
        run = client.get_run(str(version.run_id))
        found: dict[str, dict[int, list[float]]] = {}
        for name in (name for name in run.data.metrics if name.startswith("live.")):
            for each in client.get_metric_history(run.info.run_id, name):
                found.setdefault(name, {}).setdefault(each.step, []).append(each.value)
    return found


def test_weeks__are_written_once_and_again_where_settled_values_changed(energy: Energy, tenant: str) -> None:
    settings = Settings()
    wanted = expected()
    provisional = max(wanted)
    assert log_weekly_scores(settings, tenant, now=PRESENT) == len(wanted)
    first = histories(energy, tenant)
    check(first, {week: each for week, each in wanted.items() if week != provisional}, "live.")
    check(first, {provisional: wanted[provisional]}, "live.provisional.")
    # nothing is new
    assert log_weekly_scores(settings, tenant, now=PRESENT + timedelta(hours=1)) == 0
    assert histories(energy, tenant) == first

    # a corrected reading of a settled week, and one of the provisional week
    old, new = (PRESENT - 20 * DAY).date(), (PRESENT - 4 * DAY).date()
    with connect() as connection:
        connection.execute(
            "UPDATE forecast_scores SET absolute = absolute + 48 WHERE tenant_id = %s AND day = ANY (%s)"
            " AND lead_hours = 0 AND role = 'live' AND version = 1",
            [tenant, [old, new]],
        )
    year, week, _ = old.isocalendar()
    assert log_weekly_scores(settings, tenant, now=PRESENT + DAY) == 1
    changed = histories(energy, tenant)
    corrected = wanted[year * 100 + week]["mae"] + 48 / wanted[year * 100 + week]["hours"]
    written = changed["live.mae"][year * 100 + week]
    assert sorted(written) == pytest.approx([wanted[year * 100 + week]["mae"], corrected])
    assert changed["live.provisional.mae"] == first["live.provisional.mae"]
    # the week is settled
    assert log_weekly_scores(settings, tenant, now=PRESENT + 5 * DAY + timedelta(hours=1)) == 2
    settled = histories(energy, tenant)["live.mae"][provisional]
    assert settled == [pytest.approx(wanted[provisional]["mae"] + 48 / wanted[provisional]["hours"])]


def check(found: Mapping[str, Any], wanted: Mapping[int, Mapping[str, float]], prefix: str) -> None:
    assert set(found[f"{prefix}mae"]) == set(wanted)
    for week, values in wanted.items():
        for name, value in values.items():
            assert found[f"{prefix}{name}"][week] == [pytest.approx(value)], (week, name)


def test_weeks__are_metrics_of_the_logged_model_and_a_dataset(energy: Energy, tenant: str) -> None:
    log_weekly_scores(Settings(), tenant, now=PRESENT)
    with registry.tenant_scope(tenant):
        client = MlflowClient(energy.environment["MLFLOW_TRACKING_URI"])
        run = client.get_run(str(registry.find_version(tenant, MODEL, 1).run_id))
        model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    (dataset,) = [each.dataset for each in run.inputs.dataset_inputs if each.dataset.name == f"{MODEL}-live"]
    assert dataset.source_type == "ai_hub_forecast_scores"
    found = [each for each in model.metrics if each.key == "live.mae"]
    assert found
    assert {(each.dataset_name, each.dataset_digest) for each in found} == {(dataset.name, dataset.digest)}


def test_run_deleted_in_mlflow__is_left_out(energy: Energy, tenant: str) -> None:
    client = MlflowClient(energy.environment["MLFLOW_TRACKING_URI"])
    with registry.tenant_scope(tenant):
        run_id = str(registry.find_version(tenant, MODEL, 1).run_id)
        client.delete_run(run_id)
        try:
            # weeks that are new
            assert log_weekly_scores(Settings(), tenant, now=PRESENT + 14 * DAY) == 0
        finally:
            client.restore_run(run_id)


@pytest.mark.long  # only natively, and in CI nothing is skipped
@pytest.mark.skipif("AI_HUB_TEST_DSN" not in os.environ, reason="the embedded server has one session")
def test_weeks__are_left_to_another_check_that_writes_them(tenant: str) -> None:
    settings, later = Settings(), PRESENT + 14 * DAY
    with connect(autocommit=True) as connection:
        connection.execute(_LOCK, [tenant])
        assert log_weekly_scores(settings, tenant, now=later) == 0
    assert log_weekly_scores(settings, tenant, now=later) > 0
    assert log_weekly_scores(settings, tenant, now=later) == 0


def test_check_models__goes_on_with_the_next_step_after_one_that_fails(
    tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def fail(*_: Any, **__: Any) -> None:
        raise AiHubError("as if")

    monkeypatch.setattr("ai_hub.forecasting.retraining.propose", fail)
    monkeypatch.setattr("ai_hub.forecasting.weekly_scores.log_weekly_scores", fail)
    monkeypatch.setattr("ai_hub.cli.retrain.notify_receivers", lambda _, name: told.append(name))
    outcomes, proposals, errors = _check(Settings(), [tenant])
    assert ([each.tenant for each in outcomes], proposals, told) == ([tenant], [], [tenant])
    assert [str(each) for each in errors] == ["as if", "as if"]


def test_check_models__writes_them(energy: Energy, tenant: str) -> None:
    today = datetime.now(UTC).date()
    with connect() as connection:
        connection.execute(
            "UPDATE forecast_scores SET day = day + (%s::date - %s::date) WHERE tenant_id = %s",
            [today, PRESENT.date(), tenant],
        )
    before = histories(energy, tenant)
    said = CliRunner().invoke(app, ["check", "models", "--tenant", tenant])
    assert f"{tenant}: ahead: " in said.output or "1 tenants checked" in said.output
    after = histories(energy, tenant)
    assert sum(map(len, after["live.mae"].values())) > sum(map(len, before.get("live.mae", {}).values()))
