"""Tenants with meters, computed features and an applied feature repository, made once an hour of the run."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from feast import FeatureStore

from ai_hub.db.connection import connect
from ai_hub.db.refresh import refresh
from ai_hub.features.store import open_store
from ai_hub.settings import Settings
from support import forked

if TYPE_CHECKING:
    from subprocess import CompletedProcess

ROOT = Path(__file__).resolve().parents[2]
HOUR = timedelta(hours=1)
#: What tests set to be clients of a registry of their own.
_OF_CLIENTS = {"MLFLOW_REGISTRY_URI", "MLFLOW_WORKSPACE", "MLFLOW_EXPERIMENT_ID"}


@dataclass(frozen=True)
class Energy:
    """What is there.

    `main` has a regular meter, one with gaps and one that has just started; `twin` and `near` are other
    tenants with an equal and with a colliding asset name.
    """

    store: FeatureStore
    #: start of the hour after the last reading, which is the present one
    now: datetime
    main: str
    near: str
    twin: str
    environment: dict[str, str]

    def run(self, *command: str) -> CompletedProcess[str]:
        """Run a program of this installation from the repository's root, as a person would."""
        ours = {name: value for name, value in os.environ.items() if name not in _OF_CLIENTS}
        return forked.run(command, ours | self.environment, ROOT)


@pytest.fixture(scope="session")
def feast_apply(database: str, stack: dict[str, str]) -> CompletedProcess[str]:
    """The first `feast apply` of the run's feature repository, and what it printed."""
    del database
    return forked.run(["feast", "apply"], os.environ | Settings().environment() | stack, ROOT)


@pytest.fixture(scope="session")
def energies() -> dict[datetime, Energy]:
    """What there is by its hour: a second one where the run crosses the hour's turn."""
    return {}


@pytest.fixture(scope="module")
def energy(
    feast_apply: object, stack: dict[str, str], hour: datetime, energies: dict[datetime, Energy]
) -> Energy:
    """See `Energy`."""
    del feast_apply
    if hour not in energies:
        energies[hour] = _make(Settings().environment() | stack, hour)
    return energies[hour]


def _make(environment: dict[str, str], now: datetime) -> Energy:
    main = f"grid-{secrets.token_hex(4)}-1"
    # `near` + "11" reads like `main` + "1", and `main` + "11" like `near` + "111"
    near = main.removesuffix("1")
    made = Energy(open_store(), now, main, near, f"twin-{secrets.token_hex(4)}", environment)
    add_meter(main, "1", "Asia/Kolkata", now, weeks=6, level=3.0, seed=1)
    add_meter(main, "11", "America/Chicago", now, weeks=6, level=1.0, seed=2, gaps=True)
    add_meter(main, "fresh", "UTC", now, weeks=0, hours=5, level=2.0, seed=3)
    add_meter(near, "11", "Europe/London", now, weeks=1, level=500.0, seed=4)
    add_meter(made.twin, "1", "Pacific/Auckland", now, weeks=1, level=9000.0, seed=5)
    refresh()
    return made


def add_meter(
    tenant: str,
    asset: str,
    zone: str,
    now: datetime,
    *,
    weeks: int,
    level: float,
    seed: int,
    hours: int = 0,
    gaps: bool = False,
) -> None:
    """A meter with half-hourly readings up to `now`: a daily cycle, quiet weekends, noise."""
    random = np.random.default_rng(seed)
    count = 2 * (weeks * 168 + hours)
    times = [now - (count - i) * HOUR / 2 for i in range(count)]
    cycle = np.array([2 + np.sin(at.hour / 24 * 2 * np.pi) - 0.7 * (at.weekday() >= 5) for at in times])
    values = level * (cycle + random.normal(0, 0.4, count))
    kept = np.ones(count, dtype=bool)
    if gaps:
        kept[random.choice(count // 2, 30) * 2] = False  # half an hour
        kept[-2 * 60 : -2 * 50] = False  # ten hours
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind, unit, timezone)"
            " VALUES (%s, %s, 'electricity', 'kW', %s)",
            [tenant, asset, zone],
        )
        connection.execute(
            'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
            " SELECT time, %s, %s, value FROM unnest(%s::timestamptz[], %s::float8[]) AS r (time, value)",
            [
                tenant,
                asset,
                [at for at, keep in zip(times, kept, strict=True) if keep],
                [float(value) for value in values[kept]],
            ],
        )
