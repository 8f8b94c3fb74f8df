"""`ai-hub forecast show` and `runs` on a log that the test has written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from typer.testing import CliRunner

from ai_hub.cli.main import app
from ai_hub.db import connect
from ai_hub.errors import AiHubError, NotFoundError
from ai_hub.forecasting import log
from ai_hub.forecasting.log import Grid, Role, Run

HOUR = timedelta(hours=1)
ISSUE = datetime(2026, 3, 2, 10, tzinfo=UTC)


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["forecast", *arguments])
    if isinstance(result.exception, AiHubError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def runs(database: str, tenant: str) -> list[Run]:
    """Two live issues of a meter, the second an hour later, and one of another version beside them."""
    written = []
    with connect(database, autocommit=True) as connection:
        for number, role in enumerate((Role.LIVE, Role.LIVE, Role.SHADOW)):
            issued_at = ISSUE + number * HOUR
            run = Run(
                *(tenant, "day-ahead", number + 1, f"v1.0.{number}", "ab" * 32, role, issued_at, issued_at),
                step=HOUR,
                horizon=2 * HOUR,
                assets=("meter",),
                unit="kW",
            )
            values = np.array([[10.0 + number, 20.0 + number]])
            log.write(connection, run, Grid(values, {0.1: values - 1, 0.9: values + 1}))
            written.append(log.find_run(connection, tenant, run.run_id))
    return written


def test_show__is_the_newest_live_issue__or_that_of_a_time(tenant: str, runs: list[Run]) -> None:
    arguments = ("show", "meter", "--tenant", tenant, "--from", "2026-03-02")

    def shown(*more: str) -> list[tuple[str, float, str]]:
        found = json.loads(call(*arguments, "--json", *more))
        assert (found["unit"], found["step_minutes"]) == ("kW", 60)
        return [
            (row["timestamp"][11:16], row["value"], row["semantic_version"]) for row in found["forecasts"]
        ]

    assert shown() == [("10:00", 10, "v1.0.0"), ("11:00", 11, "v1.0.1"), ("12:00", 21, "v1.0.1")]
    first = runs[0].recorded_at
    assert first is not None
    assert shown("--as-of", first.isoformat()) == [("10:00", 10, "v1.0.0"), ("11:00", 20, "v1.0.0")]
    assert shown("--to", "2026-03-02T11:00Z") == [("10:00", 10, "v1.0.0")]
    table = call(*arguments)
    assert "21.000" in table
    assert "forecast (kW)" in table
    with pytest.raises(NotFoundError, match=r"No forecast of meter .* was recorded by"):
        call(*arguments, "--as-of", (first - timedelta(microseconds=1)).isoformat())
    # of the default time nothing is left: the issues are old
    with pytest.raises(NotFoundError, match="--from"):
        call("show", "meter", "--tenant", tenant)


def test_show_and_runs__of_another_tenant__find_nothing(tenant: str, runs: list[Run]) -> None:
    with pytest.raises(NotFoundError):
        call("show", "meter", "--tenant", f"{tenant}-x", "--from", "2026-03-02")
    assert json.loads(call("runs", "--tenant", f"{tenant}-x", "--json")) == []
    assert len(runs) == 3


def test_runs__lists_what_was_issued(tenant: str, runs: list[Run]) -> None:
    found = json.loads(call("runs", "--tenant", tenant, "--json"))
    assert [row["run"] for row in found] == [str(run.run_id) for run in reversed(runs)]
    assert found[0]["role"] == "shadow"
    assert [
        row["run"] for row in json.loads(call("runs", "--tenant", tenant, "--role", "live", "--json"))
    ] == [str(run.run_id) for run in reversed(runs[:2])]
    table = call("runs", "--tenant", tenant, "--limit", "1")
    assert "… and 2 older ones" in table
    assert str(runs[2].run_id) in table.replace("\n", "")
