"""Forecasts in quarter hours: declared, trained, promoted, issued, answered by REST."""

from __future__ import annotations

import json
import os
import re
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from support import forked
from support.energy import ROOT
from support.service_server import running_service
from support.two_projects import Project

from ai_hub import paths, registry
from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.settings import ServiceSettings, Settings
from feast_plugins.windows.database import allow_losses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy

QUARTER = timedelta(minutes=15)
#: Quarter hours of a day in which the meter takes ten times as much: hours do not know them.
PEAK = (30, 31)


def declaration() -> str:
    """The file of docs/forecasts.md."""
    text = (ROOT / "docs" / "forecasts.md").read_text()
    (found,) = re.findall(r"```python\n([^`]*declared_view[^`]*)```", text)
    return str(found)


@pytest.fixture(scope="module")
def tenant(energy: Energy) -> str:
    """A meter with three weeks of quarter hours."""
    name = f"quarter-{secrets.token_hex(4)}"
    count = 3 * 7 * 96
    times = [energy.now - (count - number) * QUARTER for number in range(count)]
    slot = np.array([(at.hour * 60 + at.minute) // 15 for at in times])
    values = np.where(np.isin(slot, PEAK), 20.0, 2.0) + np.random.default_rng(5).normal(0, 0.1, count)
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind, unit, interval_seconds)"
            " VALUES (%s, 'm', 'electricity', 'kW', 900)",
            [name],
        )
        connection.execute(
            'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
            " SELECT time, %s, 'm', value FROM unnest(%s::timestamptz[], %s::float8[]) AS r (time, value)",
            [name, times, values.tolist()],
        )
    refresh()
    return name


@pytest.fixture(scope="module")
def applied(energy: Energy, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The declaration in a registry of its own, beside the repository's."""
    folder = tmp_path_factory.mktemp("quarter")
    uri = f"sqlite:///{folder}/registry.db?timeout=60"
    project = Project(folder / "repo", "ai_hub", database, Settings().require("redis_url"), uri).write()
    for file in paths.resource("feature_repo").rglob("*.py"):
        place = project.folder / file.relative_to(paths.resource("feature_repo"))
        place.parent.mkdir(exist_ok=True)
        place.write_text(file.read_text())
    (project.folder / "views" / "quarter_ahead.py").write_text(declaration())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEAST_REGISTRY_URI", uri)
        command(energy, "feast", "-c", str(project.folder), "apply")
        command(energy, "ai-hub", "features", "backfill", "quarter_ahead_features")
        yield
        (project.folder / "views" / "quarter_ahead.py").unlink()
        with allow_losses():
            command(energy, "feast", "-c", str(project.folder), "apply", "--yes")


def command(energy: Energy, program: str, *arguments: str) -> str:
    uri = {"FEAST_REGISTRY_URI": os.environ["FEAST_REGISTRY_URI"]}
    done = forked.run([program, *arguments], os.environ | energy.environment | uri, ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quarter_hours__from_declaration_to_the_log(energy: Energy, tenant: str, applied: None) -> None:
    del applied
    options = ("--service", "quarter_ahead", "--horizon", "48h", "--step", "15m", "--weeks", "3")
    (summary,) = json.loads(
        command(energy, "ai-hub", "train", "--tenant", tenant, *options, "--holdout-weeks", "1", "--json")
    )
    assert (summary["step_minutes"], summary["horizon_hours"]) == (15, 48)
    # a model of hours would be off by most of the peak
    assert summary["overall"]["model"]["mae"] < 0.3
    registry.promote(tenant, summary["model"], reason="test")
    command(energy, "ai-hub", "materialize")
    (issued,) = json.loads(command(energy, "ai-hub", "forecast", "run", "--tenant", tenant, "--json"))
    shown = json.loads(command(energy, "ai-hub", "forecast", "show", "m", "--tenant", tenant, "--json"))[
        "forecasts"
    ]
    found: list[dict[str, Any]] = [each for each in shown if each["value"] is not None]
    assert len(found) >= 191
    for each in found:
        hour, minute = map(int, re.findall(r"T(\d\d):(\d\d)", each["timestamp"])[0])
        is_peak = (hour * 60 + minute) // 15 in PEAK
        assert each["value"] == pytest.approx(20 if is_peak else 2, rel=0.2)
    again = command(energy, "ai-hub", "forecast", "replay", issued["run"], "--tenant", tenant)
    assert "192 rows are the same to the last bit" in again
    with running_service(Settings(), ServiceSettings(database_timeout_s=60, redis_timeout_s=5)) as url:
        key = str(api_keys.create("test", [tenant], ALL_SCOPES, created_by="test")[1])
        answers = {
            minutes: httpx.post(
                f"{url}/ai/forecast",
                headers={"X-API-Key": key},
                json={"tenant_id": tenant, "asset_id": "m", "horizon_hours": 48, "interval_minutes": minutes},
                timeout=120,
            )
            for minutes in (15, 60)
        }
    assert answers[15].status_code == 200, answers[15].text
    served = {point["timestamp"]: point["point_forecast"] for point in answers[15].json()["forecasts"]}
    assert len(served) == 192
    of_run = {each["timestamp"].replace("+00:00", "Z"): each["value"] for each in found}
    # unless a quarter has begun in between, both are of the same issue
    assert {each: of_run[each] for each in served.keys() & of_run.keys()} == pytest.approx(
        {each: served[each] for each in served.keys() & of_run.keys()}, rel=0.05
    )
    # quantiles of an hour are not those of its quarters
    assert answers[60].status_code == 404, answers[60].text
