"""Findings about models in production: scores worse than their own history, forecasts that stopped."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence  # of dataclasses
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import compress, pairwise
from math import ceil
from operator import itemgetter
from statistics import NormalDist, fmean, median, stdev
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import numpy as np
import structlog
from prometheus_client import Counter
from psycopg.types.json import Jsonb

from ai_hub.db.transactions import transaction
from ai_hub.forecasting.accuracy import settled_before
from ai_hub.forecasting.log import ALL_METERS, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    import psycopg

    from ai_hub.settings import Settings

#: Without the tenant: a name in a metric is readable by all who read metrics.
_CHANGES: Final = Counter(
    "ai_hub_model_findings", "Findings about models that were opened or resolved", ["kind", "change"]
)
_DAYS: Final = 7
_DAY: Final = timedelta(days=1)
#: Share of values that should be between the 10 % and the 90 % quantile.
_NOMINAL: Final = 0.8
#: Weeks that the coverage is that of.
_COVERAGE_WEEKS: Final = 4
#: Meters without which nothing is said of single ones, and how many a finding names.
_FEWEST_METERS: Final = 6
_NAMED: Final = 20
_SAID: Final = 3
#: Of more meters than these the limit is higher, so that not more of them are found by chance.
_FEW_METERS: Final = 20
#: Issues whose distances are the usual one, and the fewest that tell it.
_ISSUES: Final = 30
_FEWEST_ISSUES: Final = 4


class Kind(StrEnum):
    """What a finding says."""

    #: the week's MAE is above that of the weeks before
    ERROR = "error"
    #: the week's bias is outside that of the weeks before
    BIAS = "bias"
    #: of four weeks, the share within the band from the 10 % to the 90 % quantile is far from 80 %
    COVERAGE = "coverage"
    #: nothing was issued for longer than usual
    STALE = "stale"
    #: error or bias of single meters is unlike their own weeks before, and unlike that of the others
    METERS = "meters"


@dataclass(frozen=True)
class Thresholds:
    """From when on something is a finding."""

    #: standard deviations of the weeks before, above or around their mean
    sigmas: float = 4
    #: weeks before that are compared with, and the fewest that say what is usual
    weeks: int = 26
    fewest_weeks: int = 8
    #: standard deviations of a single meter's weeks before, of which a model has twenty, or fewer
    meter_sigmas: float = 2.5
    #: how far the coverage may be from 80 %
    coverage: float = 0.15
    #: usual times between two issues without one
    late: float = 1.5

    @classmethod
    def of(cls, settings: Settings) -> Thresholds:
        """Those that the settings say."""
        return cls(
            sigmas=settings.forecast_alarm_sigmas,
            meter_sigmas=settings.forecast_alarm_meter_sigmas,
            coverage=settings.forecast_alarm_coverage,
        )


class Sums(NamedTuple):
    """Scores of a model's live forecasts of one or more days, as sums."""

    hours: float = 0
    absolute: float = 0
    error: float = 0
    banded: float = 0
    covered: float = 0
    #: sum of the absolute values that were measured
    actual: float = 0


@dataclass(frozen=True)
class ModelFinding:
    """What is wrong with a model of a tenant."""

    model: str
    kind: Kind
    #: begin of the week, or of the weeks, or of the last issue
    since: datetime
    #: `value`, what is `usual`, and the `limit` that the value is beyond; in hours of a model that is stale;
    #: of meters how many they are, zero and standard deviations, and `meters`, those that are farthest off
    detail: Mapping[str, Any] = field(hash=False)
    detected_at: datetime | None = None
    resolved_at: datetime | None = None
    finding_id: UUID | None = None
    #: that was judged; None: of no version, as of a model that is stale
    version: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The finding for JSON."""
        times = {name: getattr(self, name) for name in ("since", "detected_at", "resolved_at")}
        return {
            "finding_id": self.finding_id and str(self.finding_id),
            "model": self.model,
            "version": self.version,
            "kind": self.kind.value,
            **self.detail,
            **{name: time and time.isoformat() for name, time in times.items()},
        }

    def __str__(self) -> str:
        """One line."""
        value, usual, limit = (self.detail[name] for name in ("value", "usual", "limit"))
        if self.kind is Kind.STALE:
            return (
                f"{self.model}: nothing issued for {value:.3g} hours, since {self.since:%Y-%m-%d %H:%MZ}; "
                f"usually every {usual:.3g}"
            )
        of_version = "" if self.version is None else f"version {self.version}, "
        since = f"({of_version}since {self.since:%Y-%m-%d})"
        if self.kind is Kind.METERS:
            named = "; ".join(map(_meter_text, self.detail["meters"][:_SAID]))
            more = f"; and {value - _SAID} more" if value > _SAID else ""
            err = "meter errs" if value == 1 else "meters err"
            return f"{self.model}: {value} {err} unlike the others: {named}{more} {since}"
        text = {
            Kind.ERROR: f"error above its own history: MAE {value:.3g}, usually {usual:.3g} and at most "
            f"{limit:.3g}",
            Kind.BIAS: f"bias unlike its own history: {value:.3g}, usually {usual:.3g} ± {limit:.3g}",
            Kind.COVERAGE: f"band lost: {value:.0%} of the values are within it instead of {usual:.0%}",
        }[self.kind]
        return f"{self.model}: {text} {since}"


def _meter_text(of: Mapping[str, Any]) -> str:
    bounds = f"at most {of['high']:.0%}" if of["low"] is None else f"{of['low']:.0%} to {of['high']:.0%}"
    return f"{of['asset_id']} ({of['kind']} {of['value']:.0%} of its load, expected {bounds})"


@dataclass
class Outcome:
    """What a check of a tenant's models has come to."""

    tenant: str
    #: all that are open now
    open: list[ModelFinding]
    new: list[ModelFinding]
    resolved: list[ModelFinding]
    #: why models in production are not known, so that none is called stale
    problem: Exception | None = None


def judge(
    model: str,
    meters: Mapping[str, Mapping[date, Sums]],
    thresholds: Thresholds,
    *,
    today: date,
    settled_before: date,
    opened: Mapping[Kind, date] | None = None,
    named: Collection[str] = (),
    own: Mapping[str, Mapping[date, Sums]] | None = None,
    version: int | None = None,
) -> dict[Kind, ModelFinding | None]:
    """Whether the last seven days are unlike the weeks before; a kind that cannot be told is left out.

    Args:
        model: its name.
        meters: its scores by meter and day (UTC).
        thresholds: what a finding is.
        today: the seven days before it are judged.
        settled_before: of the weeks before only those that end by then count.
        opened: begin of the findings that are open: what is usual is what was before them, so that a
            fault does not become usual. After as many weeks as are compared it does. One that can be told
            no more, as nothing that was before it is left, or no band, is resolved.
        named: the meters that an open finding about meters names: what is usual of the others goes on.
        own: the part of `meters` that is of the version in production: of the days that are judged no other
            counts. Default: all.
        version: which it is.
    """
    opened, own = opened or {}, meters if own is None else own
    start = today - _DAYS * _DAY
    found: dict[Kind, ModelFinding | None] = {}
    for kind in (Kind.ERROR, Kind.BIAS):
        end = max(opened.get(kind, start), start - thresholds.weeks * _DAYS * _DAY)
        weeks, weeks_before = _weeks(meters, own, today, min(start, settled_before, end), thresholds.weeks)
        if len(weeks_before) < thresholds.fewest_weeks:
            found |= {kind: None} if kind in opened else {}
            continue
        # the same meters in all weeks: those that are late, or new, have other errors
        hours = [_usual_hours(of_meter) for of_meter in zip(*weeks_before, strict=True)]
        is_judged = [0 < usual <= 2 * each.hours for usual, each in zip(hours, weeks, strict=True)]
        week, *usual = (_total(compress(each, is_judged)) for each in (weeks, *weeks_before))
        # a week of which little was measured says little
        if week.hours < _usual_hours([_total(each) for each in weeks_before]) / 2:
            continue
        usual = [each for each in usual if each.hours >= _usual_hours(usual) / 2]
        if len(usual) < thresholds.fewest_weeks:
            continue
        values = [_value(kind, each) for each in usual]
        value, mean = _value(kind, week), fmean(values)
        # more than rounding
        spread = max(thresholds.sigmas * stdev(values), 1e-9 * abs(mean))
        beyond = value > mean + spread if kind is Kind.ERROR else abs(value - mean) > spread
        detail = {"value": value, "usual": mean, "limit": mean + spread if kind is Kind.ERROR else spread}
        found[kind] = ModelFinding(model, kind, _midnight(start), detail, version=version) if beyond else None
    since = today - _COVERAGE_WEEKS * _DAYS * _DAY
    banded = _total(_sums(days, since, today) for days in own.values())
    if not banded.banded and Kind.COVERAGE in opened:
        found[Kind.COVERAGE] = None
    # of a week of hours, issued once, or more
    if banded.banded >= _DAYS * 24:
        coverage = banded.covered / banded.banded
        detail = {"value": coverage, "usual": _NOMINAL, "limit": thresholds.coverage}
        lost = abs(coverage - _NOMINAL) > thresholds.coverage
        finding = ModelFinding(model, Kind.COVERAGE, _midnight(since), detail, version=version)
        found[Kind.COVERAGE] = finding if lost else None
    open_weeks = min(ceil((start - opened.get(Kind.METERS, start)) / _DAY / _DAYS), thresholds.weeks)
    count = thresholds.weeks + open_weeks
    weeks, weeks_before = _weeks(meters, own, today, min(start, settled_before), count)
    if len(meters) < _FEWEST_METERS or len(weeks_before) < thresholds.fewest_weeks:
        found |= {Kind.METERS: None} if Kind.METERS in opened else {}
    else:
        skipped = [open_weeks if meter in named else 0 for meter in meters]
        unlike = _meters_beyond(list(meters), weeks, weeks_before, skipped, thresholds)
        if unlike is not None:
            finding = ModelFinding(model, Kind.METERS, _midnight(start), unlike, version=version)
            found[Kind.METERS] = finding if unlike["value"] else None
    return found


def _meters_beyond(
    names: Sequence[str],
    week: Sequence[Sums],
    before: Sequence[Sequence[Sums]],
    skipped: Sequence[int],
    thresholds: Thresholds,
) -> dict[str, Any] | None:
    """Which meters err unlike their own weeks before, beyond what all meters of the week have in common.

    Errors are shares of what was measured. From each the median of all meters in the same week is taken
    off, as weather that is hard to forecast is so for all of them. None: too few were measured.

    Args:
        names: of the meters.
        week: the sums of each in the week that is judged.
        before: of the weeks before it, newest first.
        skipped: for each how many of the newest do not say what is usual.
        thresholds: what a finding is.
    """
    # a line a week, the first one is judged; a column a meter
    hours, absolute, error, actual = (
        np.array([[getattr(each, name) for each in line] for line in (week, *before)])
        for name in ("hours", "absolute", "error", "actual")
    )
    is_judged = (2 * hours >= np.median(hours[1:], axis=0)) & (actual > 0)
    count = int(is_judged[0].sum())
    if count < _FEWEST_METERS:
        return None
    tail = NormalDist().cdf(-thresholds.meter_sigmas) * _FEW_METERS / max(count, _FEW_METERS)
    limit = -NormalDist().inv_cdf(tail)
    found: dict[str, tuple[float, dict[str, Any]]] = {}
    for kind, sums in ((Kind.ERROR, absolute), (Kind.BIAS, error)):
        shares = sums / np.where(is_judged, actual, np.inf)
        common = [median(line[of] if of.any() else [0.0]) for line, of in zip(shares, is_judged, strict=True)]
        for name, own, of, skip in zip(names, shares.T, is_judged.T, skipped, strict=True):
            lines = slice(1 + skip, 1 + skip + thresholds.weeks)
            usual = (own - common)[lines][of[lines]]
            if not of[0] or usual.size < thresholds.fewest_weeks:
                continue
            middle, reach = common[0] + usual.mean(), max(limit * usual.std(ddof=1), 1e-9)
            away = float(own[0] - middle) / reach
            if (away if kind is Kind.ERROR else abs(away)) > max(1.0, found[name][0] if name in found else 0):
                low = float(middle - reach) if kind is Kind.BIAS else None
                of_meter = {"value": float(own[0]), "low": low, "high": float(middle + reach)}
                found[name] = abs(away), {"asset_id": name, "kind": kind.value, **of_meter}
    farthest = [of_meter for _, of_meter in sorted(found.values(), key=itemgetter(0), reverse=True)]
    return {"value": len(found), "usual": 0, "limit": limit, "meters": farthest[:_NAMED]}


def judge_issues(
    model: str, issues: Sequence[datetime], thresholds: Thresholds, *, now: datetime
) -> dict[Kind, ModelFinding | None]:
    """Whether nothing was issued for longer than usual; nothing, where few issues do not tell it.

    Args:
        model: its name.
        issues: times of its last issues, newest first.
        thresholds: what a finding is.
        now: until when one could have come.
    """
    if len(issues) < _FEWEST_ISSUES:
        return {}
    usual = median((later - earlier) / timedelta(hours=1) for later, earlier in pairwise(issues))
    hours, limit = (now - issues[0]) / timedelta(hours=1), thresholds.late * usual
    detail = {"value": hours, "usual": usual, "limit": limit}
    return {Kind.STALE: ModelFinding(model, Kind.STALE, issues[0], detail) if hours > limit else None}


def _value(kind: Kind, sums: Sums) -> float:
    return (sums.absolute if kind is Kind.ERROR else sums.error) / sums.hours


def _sums(days: Mapping[date, Sums], start: date, end: date) -> Sums:
    return _total(days[day] for day in _range(start, end) if day in days)


def _total(sums: Iterable[Sums]) -> Sums:
    return Sums(*map(sum, zip(Sums(), *sums, strict=True)))


def _usual_hours(weeks: Sequence[Sums]) -> float:
    return median(each.hours for each in weeks)


def _weeks(
    meters: Mapping[str, Mapping[date, Sums]],
    own: Mapping[str, Mapping[date, Sums]],
    today: date,
    end: date,
    count: int,
) -> tuple[list[Sums], list[list[Sums]]]:
    """By meter, the last week of `own`, and of the weeks before `end` those of which something was scored."""
    week = [_sums(own.get(asset, {}), today - _DAYS * _DAY, today) for asset in meters]
    ends = (end - number * _DAYS * _DAY for number in range(count))
    before = ([_sums(days, each - _DAYS * _DAY, each) for days in meters.values()] for each in ends)
    return week, [each for each in before if _total(each).hours]


def _range(start: date, end: date) -> list[date]:
    return [start + number * _DAY for number in range((end - start).days)]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


_SUMS: Final = """
SELECT model, version, asset_id, day, sum(hours)::float8, sum(absolute), sum(error), sum(banded)::float8,
    sum(covered)::float8, sum(actual)
FROM forecast_scores AS scores JOIN assets USING (tenant_id, asset_id)
WHERE tenant_id = %(tenant)s AND role = %(role)s AND scores.unit = coalesce(feature_unit, '')
    AND day >= %(start)s AND day < %(today)s
GROUP BY model, version, asset_id, day
"""
_ISSUED: Final = """
SELECT DISTINCT issued_at
FROM (
    SELECT issued_at FROM forecast_runs
    WHERE tenant_id = %(tenant)s AND model = %(model)s AND role = %(role)s AND details @> %(details)s
        AND status <> 'failed'
    ORDER BY recorded_at DESC LIMIT %(count)s
) AS newest
ORDER BY issued_at DESC
"""
_COLUMNS: Final = "model, kind, since, detail, detected_at, resolved_at, finding_id, version"
_FIND: Final = f"""
SELECT {_COLUMNS} FROM model_findings
WHERE tenant_id = %(tenant)s AND (NOT %(only_open)s OR resolved_at IS NULL)
ORDER BY detected_at DESC, model, kind LIMIT %(limit)s
"""  # noqa: S608  # constants
# The first check that sees it says since when.
_OPEN: Final = f"""
INSERT INTO model_findings AS stored (tenant_id, model, kind, since, detail, version)
VALUES (%(tenant)s, %(model)s, %(kind)s, %(since)s, %(detail)s, %(version)s)
ON CONFLICT (tenant_id, model, kind) WHERE resolved_at IS NULL
DO UPDATE SET detail = excluded.detail, version = excluded.version
RETURNING {_COLUMNS}, xmax = 0
"""  # noqa: S608  # constants
_RESOLVE: Final = f"""
UPDATE model_findings SET resolved_at = now()
WHERE tenant_id = %(tenant)s AND model = %(model)s AND kind = %(kind)s AND resolved_at IS NULL
RETURNING {_COLUMNS}
"""  # noqa: S608  # constants


def find(
    connection: psycopg.Connection[Any], tenant: str, *, only_open: bool = False, limit: int | None = None
) -> list[ModelFinding]:
    """Findings about a tenant's models, newest first.

    Args:
        connection: of the owner or inside the tenant scope.
        tenant: whose.
        only_open: without those that are resolved.
        limit: at most so many.
    """
    rows = connection.execute(_FIND, {"tenant": tenant, "only_open": only_open, "limit": limit})
    return [_finding(row) for row in rows]


def check_models(
    settings: Settings,
    tenant: str,
    *,
    in_production: Callable[[str], Mapping[str, int]],
    now: datetime | None = None,
) -> Outcome:
    """Check the models of a tenant, and store what is found; what is well again is resolved.

    Each change is counted, and an event in JSON on standard error.

    Args:
        settings: of the database, and the thresholds.
        tenant: whose.
        in_production: the versions in production of a tenant's models with a horizon, by name. Only these
            are judged; where it fails, only those with an open finding.
        now: default: the present time.
    """
    now = now or datetime.now(UTC)
    problem, models = None, None
    try:
        models = in_production(tenant)
    except Exception as error:  # noqa: BLE001  # scores are judged all the same
        problem = error
    with transaction(settings) as connection:
        judged = _judge_all(connection, settings, tenant, models, now)
        outcome = Outcome(tenant, [], [], [], problem)
        # in one order: checks at the same time wait for each other's rows
        for (model, kind), finding in sorted(judged.items(), key=itemgetter(0)):
            key = {"tenant": tenant, "model": model, "kind": kind}
            if finding is not None:
                values = {"since": finding.since, "detail": Jsonb(dict(finding.detail))}
                values |= {"version": finding.version}
                *row, is_new = connection.execute(_OPEN, key | values).fetchone() or ()
                outcome.new += [_finding(row)] if is_new else []
            else:
                outcome.resolved += [_finding(row) for row in connection.execute(_RESOLVE, key)]
        outcome.open = find(connection, tenant, only_open=True)
    log = event_log()
    for each in outcome.new:
        _CHANGES.labels(each.kind.value, "opened").inc()
        log.warning("model.finding_opened", tenant=tenant, **each.as_dict())
    for each in outcome.resolved:
        _CHANGES.labels(each.kind.value, "resolved").inc()
        log.info("model.finding_resolved", tenant=tenant, **each.as_dict())
    return outcome


def event_log() -> structlog.BoundLogger:
    """A log of events in JSON on standard error."""
    log: structlog.BoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.BoundLogger,
    )
    return log


def _judge_all(
    connection: psycopg.Connection[Any],
    settings: Settings,
    tenant: str,
    models: Mapping[str, int] | None,
    now: datetime,
) -> dict[tuple[str, Kind], ModelFinding | None]:
    """What is found of each model and kind, None: it is well; what cannot be told is left out."""
    thresholds, today = Thresholds.of(settings), now.astimezone(UTC).date()
    settled = settled_before(settings, now)
    stored = find(connection, tenant, only_open=True)
    opened: dict[str, dict[Kind, date]] = defaultdict(dict)
    named: dict[str, set[str]] = defaultdict(set)
    # while the registry does not tell, that of the newest finding that has one
    versions = (
        {each.model: each.version for each in stored[::-1] if each.version is not None}
        if models is None
        else models
    )
    judged: dict[tuple[str, Kind], ModelFinding | None] = {}
    for each in stored:
        opened[each.model][each.kind] = each.since.date()
        named[each.model] |= {meter["asset_id"] for meter in each.detail.get("meters", ())}
        if models is not None and each.model not in models:
            judged[each.model, each.kind] = None
    values = {"tenant": tenant, "role": Role.LIVE, "today": today}
    # of an open finding, the weeks before it
    weeks = (2 if stored else 1) * thresholds.weeks + 1
    start = min(settled, today) - weeks * _DAYS * _DAY
    meters: dict[str, dict[str, dict[date, Sums]]] = defaultdict(lambda: defaultdict(dict))
    own: dict[str, dict[str, dict[date, Sums]]] = defaultdict(lambda: defaultdict(dict))
    for model, version, asset, day, *sums in connection.execute(_SUMS, values | {"start": start}):
        days = meters[model][asset]
        days[day] = _total([days.get(day, Sums()), Sums(*sums)])
        if version == versions.get(model):
            own[model][asset][day] = Sums(*sums)
    # also models of whose scores none is left
    for model in {*meters, *opened}:
        if model in (opened if models is None else models):
            found = judge(
                model,
                meters[model],
                thresholds,
                today=today,
                settled_before=settled,
                opened=opened.get(model),
                named=named[model],
                own=own[model] if (version := versions.get(model)) is not None else None,
                version=version,
            )
            judged |= {(model, kind): finding for kind, finding in found.items()}
    # of all its meters: others are issued when somebody asks
    details = Jsonb(ALL_METERS)
    for model in models or ():
        query = values | {"model": model, "details": details, "count": _ISSUES}
        issues = [at for (at,) in connection.execute(_ISSUED, query)]
        found = judge_issues(model, issues, thresholds, now=now)
        judged |= {(model, kind): finding for kind, finding in found.items()}
    return judged


def _finding(row: Sequence[Any]) -> ModelFinding:
    model, kind, *rest = row
    return ModelFinding(model, Kind(kind), *rest)
