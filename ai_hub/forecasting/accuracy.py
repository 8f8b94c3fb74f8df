"""Forecasts of the log beside what was measured, by hour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import md5
from math import nan
from typing import TYPE_CHECKING, Any, Final, LiteralString
from zoneinfo import ZoneInfo

from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ai_hub.db.transactions import transaction
from ai_hub.errors import NotFoundError
from ai_hub.forecasting import By
from ai_hub.forecasting.log import Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg
    from matplotlib.figure import Figure
    from prometheus_client.core import Metric

    from ai_hub.settings import Settings

#: Farthest forecast there can be.
HORIZON: Final = timedelta(days=7)


@dataclass(frozen=True)
class Hour:
    """What was forecast for an hour and what was measured; None: nothing was."""

    hour: datetime
    actual: float | None
    value: float | None
    q10: float | None
    q90: float | None
    issued_at: datetime | None
    model: str | None
    semantic_version: str | None


@dataclass(frozen=True)
class Accuracy:
    """Forecasts of an asset beside what was measured."""

    asset: str
    timezone: str
    unit: str | None
    hours: list[Hour]


_HOURS: Final[LiteralString] = """
WITH newest AS (
    SELECT DISTINCT ON (hour) *
    FROM counted_forecasts(%(tenant)s, ARRAY[%(asset)s], %(start)s, %(end)s)
    WHERE role = 'live' AND issued_at <= hour - %(lead)s::interval
        AND (%(model)s::text IS NULL OR model = %(model)s)
    ORDER BY hour, issued_at DESC, model
), measured AS (
    SELECT hour, value AS actual FROM hourly_values
    WHERE tenant_id = %(tenant)s AND asset_id = %(asset)s AND value IS NOT NULL
        AND hour >= %(start)s AND hour < least(%(end)s, date_trunc('hour', %(now)s::timestamptz))
)
SELECT hour, actual, value, q10, q90, issued_at, model, semantic_version
FROM newest FULL JOIN measured USING (hour) ORDER BY hour
"""


def accuracy(
    connection: psycopg.Connection[Any],
    tenant: str,
    asset: str,
    start: datetime,
    end: datetime,
    *,
    now: datetime,
    lead: timedelta = timedelta(0),
    model: str | None = None,
) -> Accuracy:
    """Live forecasts of the hours in [start, end), and what was measured.

    Args:
        connection: of the owner or inside the tenant scope.
        tenant: whose.
        asset: of which asset.
        start: first hour.
        end: hours from here on are left out.
        now: the hour under way then has not been measured yet.
        lead: of each hour the newest forecast that was issued so long before it.
        model: only forecasts of this model.

    Raises:
        NotFoundError: the tenant has no such asset.
    """
    values = {
        "tenant": tenant,
        "asset": asset,
        "start": start,
        "end": end,
        "now": now,
        "lead": lead,
        "model": model,
    }
    row = connection.execute(
        "SELECT timezone, feature_unit FROM assets WHERE tenant_id = %s AND asset_id = %s", [tenant, asset]
    ).fetchone()
    if row is None:
        raise NotFoundError(
            f"Tenant {tenant} has no asset {asset}.",
            hint=f"`ai-hub asset list --tenant {tenant}` names those it has.",
        )
    timezone, unit = row
    return Accuracy(
        asset,
        timezone,
        unit,
        [Hour(*each) for each in connection.execute(_HOURS, values).fetchall()],
    )


@dataclass(frozen=True)
class LiveScores:
    """Errors of forecasts of the log, in the unit of their values, over hours that were measured."""

    model: str
    #: version, asset, day (UTC) or first hour of lead, as asked for
    of: str
    #: hours with a forecast and a measured value, a forecast of each issue
    hours: int
    #: those of them that readings may still come for or correct
    provisional_hours: int
    mae: float
    rmse: float
    #: mean of forecast minus actual
    bias: float
    #: None: everything measured was zero
    mae_over_mean: float | None
    #: share within the band from the 10 % to the 90 % quantile, and its mean width; None: none has a band
    coverage: float | None
    width: float | None
    #: mean pinball loss of the 10 %, 50 % and 90 % quantiles; None: there are none
    pinball: float | None
    #: by which part the MAE is below that of the best naive forecast, over the hours that have them, as
    #: `Comparison.improvement` of a backtest; None: none has one
    skill: float | None


_OF: Final[dict[By, LiteralString]] = {
    By.VERSION: "version",
    By.ASSET: "asset_id",
    By.DAY: "day",
    By.LEAD: "lead_hours",
}
_SCORES: Final[LiteralString] = """
SELECT model, scores.{of}::text, sum(hours), coalesce(sum(hours) FILTER (WHERE day >= %(settled_before)s), 0),
    sum(absolute) / sum(hours), sqrt(sum(squared) / sum(hours)), sum(error) / sum(hours),
    sum(absolute) / nullif(sum(actual), 0), sum(covered)::float8 / nullif(sum(banded), 0),
    sum(width) / nullif(sum(banded), 0), sum(pinball) / nullif(sum(quantiles), 0),
    1 - sum(compared_absolute) / nullif(least(sum(naive_day), sum(naive_week)), 0)
FROM forecast_scores AS scores JOIN assets USING (tenant_id, asset_id)
WHERE tenant_id = %(tenant)s AND scores.unit = coalesce(feature_unit, '') AND role = %(role)s
    AND (%(asset)s::text IS NULL OR asset_id = %(asset)s) AND (%(model)s::text IS NULL OR model = %(model)s)
    AND (%(start)s::date IS NULL OR day >= %(start)s) AND (%(end)s::date IS NULL OR day < %(end)s)
    AND (NOT %(is_settled)s OR day < %(settled_before)s)
GROUP BY model, scores.{of} ORDER BY model, scores.{of}
"""


def settled_before(settings: Settings, now: datetime) -> date:
    """The day (UTC) before which readings are taken for complete."""
    return (now - timedelta(days=settings.forecast_settled_days)).astimezone(UTC).date()


def live_scores(
    connection: psycopg.Connection[Any],
    tenant: str,
    by: By,
    *,
    settled_before: date,
    is_settled: bool = False,
    role: Role = Role.LIVE,
    asset: str | None = None,
    model: str | None = None,
    start: date | None = None,
    end: date | None = None,
) -> list[LiveScores]:
    """Scores of a tenant's forecasts as of the last refresh, by model and `by`.

    Args:
        connection: of the owner or inside the tenant scope.
        tenant: whose.
        by: what they are told apart by.
        settled_before: readings of earlier days (UTC) are taken for complete.
        is_settled: only of these days.
        role: of the runs.
        asset: only of this asset.
        model: only of this model.
        start: first day (UTC).
        end: days from here on are left out.
    """
    rows = connection.execute(
        _SCORES.format(of=_OF[by]),
        {
            "tenant": tenant,
            "settled_before": settled_before,
            "is_settled": is_settled,
            "role": role,
            "asset": asset,
            "model": model,
            "start": start,
            "end": end,
        },
    )
    return [LiveScores(*row) for row in rows]


class LeadErrors(Collector):
    """Scores of live forecasts by lead, for Prometheus, over the days of four weeks until they were read.

    A number stands for each tenant, the one that monitoring/prometheus has Prometheus make of its name.
    """

    _WINDOW: Final = timedelta(days=28)

    def __init__(self) -> None:
        """Start with nothing known."""
        self._scores: dict[str, list[LiveScores]] = {}

    def read(self, settings: Settings, tenant: str) -> None:
        """Read the scores of a tenant; where that fails, there are none."""
        now = datetime.now(UTC)
        try:
            with transaction(settings, tenant) as connection:
                self._scores[tenant] = live_scores(
                    connection,
                    tenant,
                    By.LEAD,
                    settled_before=settled_before(settings, now),
                    start=(now - self._WINDOW).date(),
                )
        except BaseException:
            self._scores.pop(tenant, None)
            raise

    def collect(self) -> Iterable[Metric]:
        """The scores that were read last."""
        labels = ["tenant", "model", "lead_hours"]
        error = GaugeMetricFamily(
            "ai_hub_forecast_error_share",
            "Mean absolute error over the mean of what was measured",
            labels=labels,
        )
        skill = GaugeMetricFamily(
            "ai_hub_forecast_skill",
            "Part by which the error is below that of the best naive forecast",
            labels=labels,
        )
        for tenant, scores in self._scores.copy().items():
            number = int.from_bytes(md5(tenant.encode(), usedforsecurity=False).digest()[8:]) % 2**32
            for each in scores:
                of = [str(number), each.model, each.of]
                if each.mae_over_mean is not None:
                    error.add_metric(of, each.mae_over_mean)
                if each.skill is not None:
                    skill.add_metric(of, each.skill)
        return error, skill


def picture(found: Accuracy, now: datetime) -> Figure:
    """Actual values, the forecast with its band from the 10 % to the 90 % quantile, and the time `now`."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415  # takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415  # the same

    zone = ZoneInfo(found.timezone)
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    # Matplotlib takes times, its types do not
    times: Any = [each.hour for each in found.hours]
    present: Any = now
    columns = {
        name: [nan if value is None else value for value in (getattr(each, name) for each in found.hours)]
        for name in ("actual", "value", "q10", "q90")
    }
    axes.fill_between(times, columns["q10"], columns["q90"], color="#b9d2f3", label="10 % to 90 % quantile")
    axes.plot(times, columns["value"], color="#0a4fa3", linestyle="--", label="forecast")
    axes.plot(times, columns["actual"], color="#1c1e21", label="actual")
    axes.axvline(present, color="#55595f", linestyle=":", label="now")
    locator = AutoDateLocator(tz=zone)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=zone))  # type: ignore[no-untyped-call]
    axes.set_xlabel(f"time of {found.timezone}")
    axes.set_ylabel(found.unit or "value")
    axes.set_title(f"Forecast of {found.asset}")
    axes.grid(alpha=0.3)
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)
    return figure
