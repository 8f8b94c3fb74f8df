"""Live scores of whole weeks as metrics of their version in MLflow, by logged model and dataset."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ai_hub.db.connection import connect
from ai_hub.db.transactions import transaction
from ai_hub.errors import NotFoundError
from ai_hub.forecasting.accuracy import settled_before
from ai_hub.forecasting.log import Role
from ai_hub.registry.server import API, call
from ai_hub.registry.versions import get_version
from ai_hub.times import to_millis

if TYPE_CHECKING:
    from ai_hub.settings import Settings

#: Weeks that are looked at: what corrects older ones is not written any more.
WEEKS: Final = 26
SOURCE_TYPE: Final = "ai_hub_forecast_scores"
_WEEK: Final = timedelta(weeks=1)
#: Sums of floats differ in their last digits from one query to the next.
_TOLERANCE: Final = 1e-9
_SCORES: Final = """
SELECT model, version, date_trunc('week', day::timestamp)::date AS week,
    sum(hours)::float8 AS hours, sum(absolute) / sum(hours) AS mae, sqrt(sum(squared) / sum(hours)) AS rmse,
    sum(error) / sum(hours) AS bias, sum(absolute) / nullif(sum(actual), 0) AS mae_over_mean,
    sum(covered)::float8 / nullif(sum(banded), 0) AS coverage,
    sum(pinball) / nullif(sum(quantiles), 0) AS pinball,
    1 - sum(compared_absolute) / nullif(least(sum(naive_day), sum(naive_week)), 0) AS skill
FROM forecast_scores AS scores JOIN assets USING (tenant_id, asset_id)
WHERE tenant_id = %(tenant)s AND role = %(role)s AND scores.unit = coalesce(feature_unit, '')
    AND version > 0 AND day >= %(start)s AND day < %(end)s
GROUP BY model, version, week ORDER BY model, version, week
"""
#: Ends with the connection.
_LOCK: Final = "SELECT pg_try_advisory_lock(hashtextextended('weekly_scores ' || %s, 0))"
_NAMES: Final = ("hours", "mae", "rmse", "bias", "mae_over_mean", "coverage", "pinball", "skill")


@dataclass(frozen=True)
class _Week:
    """Scores of the week that begins on a Monday (UTC)."""

    start: date
    is_settled: bool
    values: dict[str, float]

    @property
    def step(self) -> int:
        """Year and number of the week (ISO 8601), such as 202649."""
        year, week, _ = self.start.isocalendar()
        return year * 100 + week

    @property
    def prefix(self) -> str:
        """Of the names of its metrics."""
        return "live." if self.is_settled else "live.provisional."


def log_weekly_scores(settings: Settings, tenant: str, *, now: datetime | None = None) -> int:
    """Write what is new to MLflow; returns how many weeks of versions that were.

    One call of a tenant writes at a time; another one meanwhile writes nothing.
    A week is written when it is over, as provisional, and when its readings are taken for complete; after
    that only if corrected readings have changed it. What was written is read from MLflow, so a call that was
    killed may be repeated.

    Args:
        settings: of the database, and when readings are taken for complete.
        tenant: whose.
        now: default: the present time.
    """
    with connect(settings.require("timescale_dsn"), autocommit=True) as lock:
        (is_ours,) = lock.execute(_LOCK, [tenant]).fetchone() or (False,)
        return _log_weekly_scores(settings, tenant, now or datetime.now(UTC)) if is_ours else 0


def _log_weekly_scores(settings: Settings, tenant: str, now: datetime) -> int:
    today = now.astimezone(UTC).date()
    monday = today - timedelta(days=today.weekday())
    settled = settled_before(settings, now)
    weeks: dict[tuple[str, int], list[_Week]] = defaultdict(list)
    values = {"tenant": tenant, "role": Role.LIVE, "start": monday - WEEKS * _WEEK, "end": monday}
    with transaction(settings) as connection:
        for model, version, start, *scores in connection.execute(_SCORES, values):
            found = {name: each for name, each in zip(_NAMES, scores, strict=True) if each is not None}
            weeks[model, version].append(_Week(start, start + _WEEK <= settled, found))
    return sum(_log(tenant, model, version, found, now) for (model, version), found in weeks.items())


def _log(tenant: str, model: str, version: int, weeks: list[_Week], now: datetime) -> int:
    try:
        run_id = get_version(tenant, model, str(version)).run_id
        answer = call("GET", f"{API}/runs/get", tenant=tenant, params={"run_id": run_id}) if run_id else None
    except NotFoundError:
        answer = None
    if answer is None or answer["run"]["info"].get("lifecycle_stage") != "active":
        return 0  # the version or its run is gone, or deleted in MLflow; its scores stay in the database
    keys = {f"{week.prefix}{name}" for week in weeks for name in week.values}
    logged = {key: _history(tenant, str(run_id), key) for key in sorted(keys)}
    new = [week for week in weeks if _is_new(week, logged)]
    if not new:
        return 0
    dataset = _dataset(tenant, model, version)
    tags = [{"key": "mlflow.data.context", "value": "live"}]
    parameters: dict[str, Any] = {"run_id": run_id, "datasets": [{"dataset": dataset, "tags": tags}]}
    call("POST", f"{API}/runs/log-inputs", tenant=tenant, json=parameters)
    models = answer["run"].get("outputs", {}).get("model_outputs", ())
    which = {"dataset_name": dataset["name"], "dataset_digest": dataset["digest"]}
    which |= {"model_id": models[0]["model_id"]} if len(models) == 1 else {}
    metrics = [
        {
            "key": f"{week.prefix}{name}",
            "value": value,
            "timestamp": to_millis(now),
            "step": week.step,
            **which,
        }
        for week in new
        for name, value in week.values.items()
    ]
    call("POST", f"{API}/runs/log-batch", tenant=tenant, json={"run_id": run_id, "metrics": metrics})
    return len(new)


def _history(tenant: str, run_id: str, key: str) -> dict[int, float]:
    """The last value of each step."""
    found: dict[int, tuple[int, float]] = {}
    parameters: dict[str, Any] = {"run_id": run_id, "metric_key": key}
    while True:
        page = call("GET", f"{API}/metrics/get-history", tenant=tenant, params=parameters)
        for each in page.get("metrics", ()):
            step, entry = int(each.get("step", 0)), (int(each["timestamp"]), float(each["value"]))
            found[step] = max(found.get(step, entry), entry)
        if not (token := page.get("next_page_token")):
            return {step: value for step, (_, value) in found.items()}
        parameters["page_token"] = token


def _is_new(week: _Week, logged: dict[str, dict[int, float]]) -> bool:
    """Whether a week was not written, or is settled and another one than was written."""
    before = {name: logged[f"{week.prefix}{name}"].get(week.step) for name in week.values}
    if not week.is_settled:
        return all(each is None for each in before.values())
    return any(
        each is None or not math.isclose(each, week.values[name], rel_tol=_TOLERANCE, abs_tol=1e-12)
        for name, each in before.items()
    )


def _dataset(tenant: str, model: str, version: int) -> dict[str, str]:
    source = json.dumps(
        {"table": "forecast_scores", "tenant": tenant, "model": model, "version": version, "role": "live"}
    )
    digest = hashlib.sha256(source.encode()).hexdigest()[:8]
    return {"name": f"{model}-live", "digest": digest, "source_type": SOURCE_TYPE, "source": source}
