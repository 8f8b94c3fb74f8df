"""`ai-hub push` and `ai-hub materialize --follow` as a person runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ai_hub.db import connect
from ai_hub.features.store import get_service, read_online
from ai_hub.ingest import removal

if TYPE_CHECKING:
    from support.energy import Energy

THIS_HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


@pytest.fixture
def meter(database: str, tenant: str) -> tuple[str, ...]:
    with connect(database) as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind) VALUES (%s, 'meter', 'gas')", [tenant]
        )
    return ("--tenant", tenant, "--asset", "meter")


def test_push__reading_of_the_last_hour__is_online_with_its_features(
    energy: Energy, tenant: str, meter: tuple[str, ...]
) -> None:
    at = THIS_HOUR - timedelta(minutes=7)
    done = energy.run("ai-hub", "push", *meter, "--value", "7.5", "--time", at.isoformat())
    assert done.returncode == 0, done.stderr
    assert "latest_reading is online after" in done.stdout
    assert "forecast_basic_features" in done.stdout
    (row,) = read_online(energy.store, get_service(energy.store, "forecast_basic"), tenant, ["meter"])
    assert (row.hour, row.features["lag_1h"]) == (THIS_HOUR, 7.5)
    older = energy.run("ai-hub", "push", *meter, "--value", "1", "--time", "2026-01-31")
    assert f"online stays the newer reading of {at:%Y-%m-%d %H:%M:%SZ}" in older.stdout


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--value", "-1", "value is below 0, impossible for gas"),
        ("--value", "nan", "not a finite number"),
        ("--quality", "perfect", "quality is not one of"),
        ("--time", "soon", "--time 'soon' is not a time"),
        ("--asset", "metre", "Did you mean meter?"),
    ],
)
def test_push__what_ingest_refuses__is_refused(
    energy: Energy, meter: tuple[str, ...], option: str, value: str, message: str
) -> None:
    done = energy.run("ai-hub", "push", *meter, "--value", "1", option, value)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_asset_remove__killed_before_redis__goes_on(
    energy: Energy, database: str, tenant: str, meter: tuple[str, ...]
) -> None:
    at = THIS_HOUR - timedelta(minutes=7)
    assert energy.run("ai-hub", "push", *meter, "--value", "7.5", "--time", at.isoformat()).returncode == 0
    with connect(database, autocommit=True) as connection:
        removal.remove_asset(connection, tenant, "meter", "as of a call that was killed")

    def hour() -> datetime | None:
        (row,) = read_online(energy.store, get_service(energy.store, "forecast_basic"), tenant, ["meter"])
        return row.hour

    assert hour() == THIS_HOUR
    again = energy.run("ai-hub", "asset", "remove", *meter, "--reason", "a test", "--yes")
    assert again.returncode == 0, again.stderr
    assert hour() is None
    never = energy.run("ai-hub", "asset", "remove", *meter[:2], "--asset", "x", "--reason", "a", "--yes")
    assert "has no asset x" in never.stderr


# as materialize's follower ends in deployment/test_servers.py
@pytest.mark.long
def test_follow__terminated__ends_after_its_pass(energy: Energy, tenant: str) -> None:
    command = ["materialize", "--follow", "--refresh", "--interval", "0.2", "--tenant", tenant]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("ai-hub"), *command],
        env=os.environ | energy.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "everything in" in lines[0]
    assert "nothing new" in lines[1]
    assert rest.rstrip().endswith("stopped")
