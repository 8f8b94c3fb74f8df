"""A load that changes: its finding, the retraining that is proposed, approved and done, and its promotion."""

from __future__ import annotations

import csv
import random
import time
from dataclasses import replace
from datetime import datetime, timedelta
from math import pi, sin
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import numpy as np

from ai_hub import paths
from ai_hub.db import connect
from ai_hub.db.transactions import transaction
from ai_hub.dev.demo.data import HOUR
from ai_hub.dev.demo.steps import StepFailedError
from ai_hub.settings import Settings
from ai_hub.times import from_micros

if TYPE_CHECKING:
    from pathlib import Path

    from ai_hub.dev.demo.steps import Steps
    from ai_hub.forecasting.retraining import RetrainRequest

TENANT: Final = "harbour"
#: The second one changes.
METERS: Final = ("ferry-terminal", "cold-store")
MODEL: Final = "day-ahead-electricity"
_WEEK: Final = timedelta(weeks=1)
#: What the model is trained on, and for how long it has been forecasting.
_TRAINED, _ISSUED = 10 * _WEEK, 10 * _WEEK
_FACTOR: Final = 1.6
_FRIDAY: Final = 5
#: Seconds that the training may take.
_LONGEST_S: Final = 300
#: Weeks that are compared: after the training of the version in production, which so stands for itself.
_COMPARED: Final = 9
_RECIPE: Final = ("--horizon", "24h", "--weeks", "10", "--holdout-weeks", "2")


def show(steps: Steps, hour: datetime) -> dict[str, Any]:
    """Ten weeks of forecasts in production, the last of them of a load that has changed; the request.

    Raises:
        StepFailedError: a command failed.
    """
    steps.begin(f"Find that a load has changed, and train its model anew ({TENANT})")
    _end_earlier(steps)
    today = hour.replace(hour=0)
    unit = ("--tenant", TENANT, "--unit", "kW")
    assets = [["ai-hub", "asset", "add", meter, "--kind", "electricity", *unit] for meter in METERS]
    steps.run_together(assets, shown=False)
    files = {meter: str(_file(meter, today, hour)) for meter in METERS}
    steps.run_together(
        [["ai-hub", "ingest", "readings", file, "--asset", meter, *unit] for meter, file in files.items()],
        shown=False,
    )
    steps.run("ai-hub", "refresh", shown=False)
    until = f"{today - _ISSUED:%Y-%m-%d}"
    (trained,) = steps.json("ai-hub", "train", "--tenant", TENANT, *_RECIPE, "--until", until)
    steps.run(
        *("ai-hub", "promote", MODEL, "--tenant", TENANT, "--version", str(trained["version"])),
        *("--reason", "the first model of the harbour"),
        shown=False,
    )
    issues = _issue(today)
    steps.console.print(
        f"{issues} daily forecasts, as if it had run since; last week {METERS[1]} took {_FACTOR} x its usual",
        highlight=False,
    )
    steps.run("ai-hub", "refresh", shown=False)
    # an earlier demo's retraining shall not keep this one from being proposed
    steps.run("ai-hub", "retrain", "policy", "--tenant", TENANT, "--cooldown-days", "0", shown=False)
    steps.check("ai-hub", "check", "models", "--tenant", TENANT)
    (request,) = _requests(steps, "proposed")
    of_request = (request["request_id"], "--tenant", TENANT)
    steps.json("ai-hub", "retrain", "approve", *of_request, "--reason", "the new freezers stay")
    ended = _wait(UUID(request["request_id"]))
    if ended.new_version is None:
        raise StepFailedError("ai-hub worker", 1, f"{ended.model}: {ended.outcome}")
    done = dict(steps.json("ai-hub", "retrain", "show", *of_request))
    steps.end(
        f"causes {', '.join(done['causes'])}; {done['status']}: version {done['new_version']} "
        f"({done['new_semantic_version']}) in staging, {done['semantic_version']} still in production"
    )
    return done


def promote(steps: Steps, request: dict[str, Any]) -> None:
    """The version that was trained anew in shadow and beside the one in production, then in its place.

    Raises:
        StepFailedError: a command failed.
    """
    steps.begin(f"Compare what was trained anew with production, and promote it ({TENANT})")
    own, version = ("--tenant", TENANT), ("--version", str(request["new_version"]))
    steps.run("ai-hub", "forecast", "run", *own, "--shadow")
    found = steps.json("ai-hub", "compare", MODEL, *own, *version, "--weeks", str(_COMPARED))
    low, high = found["interval_percent"]
    gain = f"gain {found['gain_percent']:.1f} % ({low:.1f} to {high:.1f} %) over {found['weeks']} past weeks"
    steps.console.print(f"{gain}; the load has changed in the last of them", highlight=False)
    reason = ("--reason", f"the new freezers stay; {gain}")
    steps.run("ai-hub", "promote", MODEL, *own, *version, *reason)
    steps.end(f"{gain}; version {request['new_version']} in production")


def _requests(steps: Steps, status: str) -> list[dict[str, Any]]:
    return list(steps.json("ai-hub", "retrain", "list", "--tenant", TENANT, "--status", status))


def _end_earlier(steps: Steps) -> None:
    """Let a request end that was approved when an earlier demo was interrupted: no other could be proposed.

    One that was only proposed is withdrawn, as this demo trains and promotes another version.
    """
    for request in _requests(steps, "approved"):
        _wait(UUID(request["request_id"]))


def _wait(request_id: UUID) -> RetrainRequest:
    """The request when the worker beside the REST service has ended it."""
    from ai_hub.forecasting import retraining

    settings, deadline = Settings(), time.monotonic() + _LONGEST_S
    while True:
        with transaction(settings, TENANT) as connection:
            request = retraining.find(connection, TENANT, request_id)
        if request.status != retraining.Status.APPROVED:
            return request
        if time.monotonic() > deadline:
            raise StepFailedError("ai-hub worker", 1, f"{request.model}: {request.outcome}")
        time.sleep(0.5)


def _file(meter: str, today: datetime, hour: datetime) -> Path:
    """Generated readings up to the present hour: a daily and a weekly cycle with noise."""
    drawn = random.Random(meter)  # noqa: S311  # no secret
    path = paths.state_dir() / "demo-data" / f"{TENANT}-{meter}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["timestamp", "value"])
        at = today - _TRAINED - _ISSUED - 4 * _WEEK
        while at < hour:
            usual = (
                40 + 15 * sin((at.hour - 8) / 12 * pi) - 10 * (at.isoweekday() > _FRIDAY) + drawn.gauss(0, 2)
            )
            changed = meter == METERS[1] and at >= today - _WEEK
            rows.writerow([at.isoformat(), f"{usual * (_FACTOR if changed else 1):.3f}"])
            at += HOUR
    return path


def _issue(today: datetime) -> int:
    """Write what the model in production would have issued daily until today; returns the number of days.

    A live forecast counts if it was recorded when it was issued, so the runs are dated back.
    """
    from ai_hub.features.store import open_store  # these take seconds
    from ai_hub.forecasting import log, production
    from ai_hub.forecasting.day_ahead_training import Horizon, read
    from ai_hub.forecasting.train import plan

    (version,) = production.production_versions(TENANT)
    loaded = production.load(version)
    (wanted,) = plan(TENANT, loaded.card.feature_service, assets=METERS, model=MODEL)
    wanted = replace(wanted, weeks=_ISSUED // _WEEK, until=today)
    rows = read(open_store(), wanted, Horizon(length=loaded.horizon), lambda _: None).rows
    runs = []
    for at in np.unique(rows.issued_at):
        of_issue = rows.take(np.flatnonzero(rows.issued_at == at))
        known_at = from_micros(at.astype(np.int64))
        runs.append(production.issue(loaded, of_issue, known_at=known_at, details={"by": "ai-hub demo"}))
    with connect(autocommit=True) as connection, connection.transaction():
        connection.execute("DELETE FROM forecasts WHERE tenant_id = %s", [TENANT])
        connection.execute("DELETE FROM forecast_runs WHERE tenant_id = %s", [TENANT])
        log.write_all(connection, runs)
        connection.execute(
            "CREATE TEMPORARY TABLE dated ON COMMIT DROP AS SELECT * FROM forecast_runs WHERE tenant_id = %s",
            [TENANT],
        )
        connection.execute("UPDATE dated SET recorded_at = issued_at")
        connection.execute("DELETE FROM forecast_runs WHERE tenant_id = %s", [TENANT])
        connection.execute("INSERT INTO forecast_runs SELECT * FROM dated")
    return len(runs)
