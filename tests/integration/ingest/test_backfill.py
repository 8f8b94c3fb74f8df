"""`ai-hub backfill`: a history of files, killed midway and taken up again."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from psycopg import sql
from support import forked
from support.registry_servers import FORKS, PRELOADED

from ai_hub.db import connect
from ai_hub.ingest import files as ingest_files
from ai_hub.ingest.options import Options
from feast_plugins.windows import history as windows

if TYPE_CHECKING:
    from .conftest import Rows

ASSETS = 6
FEATURES = "historical_avg_24h, historical_std_24h, lag_1h, lag_24h, lag_168h, temperature"


@pytest.fixture(autouse=True)
def folder(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del database
    monkeypatch.chdir(tmp_path)


def make_history(days: int) -> tuple[list[str], str]:
    """Two files of readings and one of weather, relative to the current folder."""
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = pd.date_range(end - timedelta(days=days), end, freq="h", inclusive="left")
    random = np.random.default_rng(3)
    for number in range(2):
        readings = pd.concat(
            pd.DataFrame(
                {
                    "timestamp": hours,
                    "asset_id": f"meter-{number}-{asset}",
                    "value": random.normal(50, 9, len(hours)),
                }
            )
            for asset in range(ASSETS // 2)
        )
        readings.to_parquet(f"readings-{number}.parquet")
    weather = pd.DataFrame({"timestamp": hours, "temperature": random.normal(12, 5, len(hours))})
    weather.assign(asset_id="meter-0-0").to_parquet("weather.parquet")
    return ["readings-0.parquet", "readings-1.parquet"], "weather.parquet"


def command(tenant: str, history: tuple[list[str], str]) -> list[str]:
    readings, weather = history
    return ["ai-hub", "backfill", *readings, "--weather", weather, "--tenant", tenant, "--json"]


def backfill(tenant: str, history: tuple[list[str], str]) -> dict[str, Any]:
    ended = forked.run(command(tenant, history), os.environ, Path.cwd())
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def features(rows: Rows, tenant: str) -> list[tuple[Any, ...]]:
    return rows(
        f"SELECT asset_id, event_timestamp, {FEATURES} FROM forecast_advanced_features"  # noqa: S608  # constant names
        " WHERE tenant_id = %s ORDER BY 1, 2",
        tenant,
    )


class Killer:
    """Kills its own process once a part of a backfill is stored."""

    def __init__(self, part: str) -> None:
        self._part = part

    def file(self, path: Path, fraction: float, rows: int) -> None:
        del fraction
        self._kill("readings" if rows and path.name.startswith("readings") else "")

    def aggregates(self, done: int, total: int) -> None:
        del done, total

    def features(self, done: int, total: int) -> None:
        self._kill("features" if 0 < done < total else "")

    def _kill(self, part: str) -> None:
        if part == self._part:
            os.kill(os.getpid(), signal.SIGKILL)


def backfill_until(
    part: str, tenant: str, history: tuple[list[str], str], folder: Path, environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    readings, weather = history
    windows.POSITIONS = 10_000  # several batches of features
    ingest_files.backfill(
        [Path(name) for name in readings], [Path(weather)], Options(tenant=tenant), Killer(part)
    )


def killed(part: str, tenant: str, history: tuple[list[str], str]) -> None:
    FORKS.set_forkserver_preload(PRELOADED)
    process = FORKS.Process(target=backfill_until, args=(part, tenant, history, Path.cwd(), dict(os.environ)))
    process.start()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL


# a killed client's two sessions end what they have begun
@pytest.mark.parametrize(
    ("days", "is_killed_twice"), [(10, False), pytest.param(150, True, marks=pytest.mark.long)]
)
def test_backfill__killed_while_storing_and_while_computing__ends_like_an_undisturbed_one(
    rows: Rows, tenant: str, days: int, *, is_killed_twice: bool
) -> None:
    history = make_history(days)
    total = ASSETS * days * 24
    with connect(autocommit=True) as connection:

        def count(table: str) -> int:
            query = sql.SQL("SELECT count(*) FROM {} WHERE tenant_id = %s").format(sql.Identifier(table))
            (number,) = connection.execute(query, [tenant]).fetchall()[0]
            return int(number)

        killed("readings", tenant, history)
        assert 0 < count("timeseries_data") < total
        skipped = ["weather.parquet"]
        if is_killed_twice:
            killed("features", tenant, history)
            assert count("timeseries_data") == total
            assert 0 < count("ai_features_stored") < total
            skipped += ["readings-0.parquet", "readings-1.parquet"]
    resumed = backfill(tenant, history)
    assert resumed["skipped"] == skipped
    assert resumed["feature_rows"] > 0

    undisturbed = backfill(f"{tenant}-2", history)
    assert undisturbed["skipped"] == []
    assert {name: report["inserted"] for name, report in undisturbed["files"].items()} == {
        "weather.parquet": days * 24,
        "readings-0.parquet": total // 2,
        "readings-1.parquet": total // 2,
    }
    actual = features(rows, tenant)
    assert len(actual) == total
    assert actual == features(rows, f"{tenant}-2")
    assert sum(row[-1] is not None for row in actual) >= days * 24 - 6

    again = backfill(tenant, history)
    assert again["feature_rows"] == 0
    assert again["files"] == {}


def test_backfill__missing_file__writes_nothing(rows: Rows, tenant: str) -> None:
    readings, weather = make_history(2)
    ended = forked.run(command(tenant, ([*readings, "absent.parquet"], weather)), os.environ, Path.cwd())
    assert ended.returncode == 2
    assert "There is no file absent.parquet" in ended.stderr
    assert rows("SELECT FROM assets WHERE tenant_id = %s", tenant) == []


def test_backfill__changed_file__is_read_again(rows: Rows, tenant: str) -> None:
    history = make_history(10)
    backfill(tenant, history)
    name = history[0][0]
    readings = pd.read_parquet(name)
    readings.iloc[40, readings.columns.get_loc("value")] = 1234.0
    readings.to_parquet(name)
    again = backfill(tenant, history)
    assert again["skipped"] == ["weather.parquet", "readings-1.parquet"]
    assert (again["files"][name]["updated"], again["files"][name]["inserted"]) == (1, 0)
    assert again["feature_rows_changed"] == 25
    assert rows("SELECT count(*) FROM timeseries_data WHERE tenant_id = %s AND value = 1234", tenant) == [
        (1,)
    ]
