"""Challengers: a version in Staging beside the one in production, over weeks that neither was trained on.

A version that was trained before the weeks forecasts them as it is. Any other has seen them, so its recipe is
fitted anew to what was known when they began, over as long a time as it was trained on. There is one look at
each pair of versions, which the registry keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from psycopg.types.json import Jsonb

from ai_hub.db.transactions import transaction
from ai_hub.errors import BadInputError, ConflictError
from ai_hub.features.store import open_store
from ai_hub.forecasting import log
from ai_hub.forecasting.calibration import bucket_names, buckets_of
from ai_hub.forecasting.comparison import (
    CONFIDENCE,
    FEWEST_WEEKS,
    LEAST_SHARE,
    PairedComparison,
    compare,
    known_shares,
)
from ai_hub.forecasting.dataset import end_of_data, hours_by_week
from ai_hub.forecasting.day_ahead import fit
from ai_hub.forecasting.day_ahead_training import Horizon, IssueSet, read
from ai_hub.forecasting.issues import DAY, HOUR, WEEK, IssueRule, instant
from ai_hub.forecasting.log import ALL_METERS
from ai_hub.forecasting.production import LoadedDayAhead, assets_of, load
from ai_hub.forecasting.replay import replay
from ai_hub.forecasting.train import TrainingPlan
from ai_hub.registry.metadata import model_metadata
from ai_hub.registry.versions import find_version, production_version, set_tag
from ai_hub.times import EPOCH, assume_utc, from_micros
from mlflow_plugins.gates.comparison import (
    Pair,
    Plan,
    Record,
    Shadow,
    StandIn,
    plan_tag,
    read_plan,
    read_record,
    record_tag,
)
from mlflow_plugins.lifecycle.rules import STAGING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from feast import FeatureStore

    from ai_hub.forecasting.issues import Flags, Floats, Ints, IssueRows
    from ai_hub.registry import ModelVersion
    from ai_hub.settings import Settings

#: So many weeks are enough, however many are asked for.
_ENOUGH_WEEKS: Final = 26
#: Weeks that count are looked for in a time that is so many times as long.
_REACH: Final = 2
#: Part of production's meters, and of its targets, that a challenger need not forecast.
_MOST_MISSED: Final = 0.01
#: Weeks that are suggested where only those count that neither has seen.
_UNSEEN_WEEKS: Final = 8
#: Meters that an error names.
_NAMED: Final = 5
#: So many meters are groups by themselves; more are put into quarters by size.
_MOST_METERS: Final = 8
_QUARTERS: Final = ("the smallest quarter", "the second quarter", "the third quarter", "the largest quarter")


@dataclass(frozen=True)
class _Version:
    """One of the two."""

    loaded: LoadedDayAhead
    #: what it was trained on
    trained_from: datetime
    trained_until: datetime
    #: that it was trained on, without those that are gone or have another unit now
    assets: list[str]

    @property
    def trained(self) -> timedelta:
        """How long."""
        return self.trained_until - self.trained_from

    @property
    def recipe(self) -> tuple[Any, ...]:
        """What decides what it is when it is fitted anew."""
        weeks = round(self.trained / WEEK)
        loaded = self.loaded
        return loaded.card.feature_service, loaded.model.recipe, loaded.horizon, self.assets, weeks

    def lacks(self, other: _Version) -> list[str]:
        """Meters of another version that it does not forecast."""
        return sorted(set(other.assets) - set(self.assets))


def compare_with_production(
    settings: Settings,
    tenant: str,
    model: str,
    version: str,
    *,
    weeks: int,
    shadow_days: int = 0,
    now: datetime | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Record | Plan:
    """Look at a version in Staging and the one in production, once, and keep what is found.

    With `shadow_days` the first call fixes the time of the look and returns its plan, as calls before that
    time do.

    Args:
        settings: of the database and the registry.
        tenant: whose model.
        model: its name.
        version: as of `find_version`.
        weeks: that are replayed: the newest ones that were measured.
        shadow_days: days before the look of which the challenger has forecasts in shadow.
        now: default: the present time.
        on_step: told what is being done.

    Returns:
        What was found, also by an earlier call.

    Raises:
        BadInputError: too little is known of the weeks, or of what is before them.
        ConflictError: the version is not in Staging, the two forecast different things, or the look was
            planned otherwise.
        NotFoundError: there is no such version, or none in production.
    """
    now = now or datetime.now(UTC)
    challenger, production = find_version(tenant, model, version), production_version(tenant, model)
    if text := challenger.tags.get(record_tag(production.version)):
        found = read_record(text, Pair(tenant, challenger.model, challenger.version, production.version))
        if isinstance(found, str):
            raise ConflictError(
                f"What was noted of {_label(challenger)} beside {_label(production)} does not count. {found}",
                hint="Register the model anew, and compare that version.",
            )
        return found
    if challenger.stage != STAGING:
        raise ConflictError(
            f"{_label(challenger)} is in {challenger.stage}; what is compared is in {STAGING}.",
            hint=f"`ai-hub models --tenant {tenant} --model {model}` shows what is there.",
        )
    both = _versions(challenger, production)
    plan = _planned(challenger, both[1], weeks, shadow_days, now)
    if plan is None:
        plan = Plan(
            planned_at=now, look_at=now + timedelta(days=shadow_days), weeks=weeks, shadow_days=shadow_days
        )
        if shadow_days:
            _check_recipes(both, *_span(both[1], plan, now))
            _note(challenger, production, plan_tag(production.version), plan.model_dump_json())
    if now < plan.look_at:
        return plan
    start, end = _span(both[1], plan, now)
    _check_recipes(both, start, end)
    replayed = _replay(settings, both, (start, end), on_step)
    paired, left_out, missed = _paired(replayed, both, weeks)
    shadow = None
    if shadow_days:
        on_step("replaying forecasts in shadow")
        shadow = _shadow(settings, challenger, plan)
    record = Record(
        tenant=tenant,
        model=challenger.model,
        challenger=replayed.stand_ins[0],
        production=replayed.stand_ins[1],
        looked_at=now,
        planned_at=plan.planned_at,
        start=start,
        end=end,
        weeks=paired.weeks,
        targets=paired.targets,
        assets=len(both[1].assets) - len(both[0].lacks(both[1])),
        left_out=left_out,
        missed=missed,
        missed_assets=len(both[0].lacks(both[1])),
        unit=both[1].loaded.card.unit,
        challenger_mae=paired.challenger_mae,
        production_mae=paired.production_mae,
        gain_percent=100 * paired.gain,
        interval_percent=(100 * paired.interval[0], 100 * paired.interval[1]),
        interval_confidence=CONFIDENCE,
        statistic=paired.statistic if np.isfinite(paired.statistic) else None,
        p=paired.p,
        groups={name: 100 * gain for name, gain in paired.groups.items()},
        shadow=shadow,
    )
    # before anybody sees it
    _note(challenger, production, record_tag(production.version), record.model_dump_json())
    return record


def _label(version: ModelVersion) -> str:
    number = f" ({version.semantic_version})" if version.semantic_version else ""
    return f"version {version.version}{number} of {version.model}"


def _note(challenger: ModelVersion, production: ModelVersion, tag: str, text: str) -> None:
    """Write what is written once."""
    try:
        set_tag(challenger, tag, text)
    except ConflictError as error:
        raise ConflictError(
            f"Another look at {_label(challenger)} and {_label(production)}, or its plan, was noted "
            "meanwhile: there is one, and this one is not kept.",
            hint="Run the command again: it shows what was noted.",
        ) from error


def _planned(
    challenger: ModelVersion, production: _Version, weeks: int, shadow_days: int, now: datetime
) -> Plan | None:
    """The plan that was noted; with as many weeks as there are, if so many were not measured in time."""
    text = challenger.tags.get(plan_tag(production.loaded.version.version))
    if not text:
        return None
    plan = read_plan(text)
    if plan is not None and plan.shadow_days == shadow_days:
        if plan.weeks == weeks:
            return plan
        # whoever could choose would choose by what was seen in shadow
        if now >= plan.look_at and weeks == len(_measured(production, plan, now)[1]) < _needed(plan.weeks):
            return plan.model_copy(update={"weeks": weeks})
    noted = f"--weeks {plan.weeks} --shadow-days {plan.shadow_days}" if plan else "something unreadable"
    raise ConflictError(
        f"The look at {_label(challenger)} and {_label(production.loaded.version)} was planned with {noted}.",
        hint="It is fixed before anybody knows what comes of it: give the same options. From the time of "
        "the look on --weeks are as many as were measured, if these are too few.",
    )


def _versions(challenger: ModelVersion, production: ModelVersion) -> tuple[_Version, _Version]:
    both = _version(challenger), _version(production)
    ours, theirs = (each.loaded.card for each in both)
    for name, one, other in (
        ("units", ours.unit, theirs.unit),
        ("steps", ours.step_minutes, theirs.step_minutes),
        ("times of issue", ours.issue or "any", theirs.issue or "any"),
    ):
        if one != other:
            raise ConflictError(
                f"{_label(challenger)} and the one in production have different {name}: {one} and {other}.",
                hint="Only forecasts of the same targets can be compared; promote it for other reasons.",
            )
    _check_coverage(*both)
    return both


def _check_coverage(challenger: _Version, production: _Version) -> None:
    """Refuse a challenger that would forecast less."""
    hint = "Train a version for what the one in production forecasts, and compare that."
    ours, theirs = (each.loaded.horizon / HOUR for each in (challenger, production))
    if ours < theirs:
        raise ConflictError(
            f"{_label(challenger.loaded.version)} looks {ours:g} h ahead, that in production {theirs:g} h.",
            hint=hint,
        )
    absent, meters = challenger.lacks(production), len(production.assets)
    if len(absent) > _MOST_MISSED * meters:
        more = " and others" if len(absent) > _NAMED else ""
        raise ConflictError(
            f"Of {meters:,} meters of the version in production {_label(challenger.loaded.version)} does not "
            f"forecast {len(absent):,} ({', '.join(absent[:_NAMED])}{more}); {_MOST_MISSED:.0%} is allowed.",
            hint=hint,
        )


def _version(version: ModelVersion) -> _Version:
    loaded = load(version)
    parameters = model_metadata(version).metadata.get("hyperparameters", {})
    try:
        trained_from, trained_until = (
            assume_utc(datetime.fromisoformat(parameters[name])) for name in ("window_start", "window_end")
        )
    except (KeyError, TypeError, ValueError):
        raise ConflictError(
            f"{_label(version)} does not say what it was trained on, so any week may be among it.",
            hint=f"Train a version with `ai-hub train --tenant {version.tenant} --horizon 48h`.",
        ) from None
    return _Version(loaded, trained_from, trained_until, assets_of(loaded))


def _span(production: _Version, plan: Plan, now: datetime) -> tuple[datetime, datetime]:
    """Start and end of the targets: as far back as there are the weeks of the plan, without those with gaps.

    A planned look ends when it was planned for, so that it takes the same weeks whenever it is made. Before
    that time, hours that are still to come count as if they were measured.
    """
    end, counted = _measured(production, plan, now)
    if len(counted) < _needed(plan.weeks):
        what = "measured" if now >= plan.look_at else "measured or still to come"
        of = f"{_REACH * plan.weeks} weeks before {end:%Y-%m-%d}"
        raise _too_few(plan.weeks, len(counted), of, what)
    return end - (counted[-1] + 1) * WEEK, end


def _measured(production: _Version, plan: Plan, now: datetime) -> tuple[datetime, list[int]]:
    """End of the targets, and the weeks of the plan that have enough hours, by their number before it."""
    end = plan.look_at - (plan.look_at - EPOCH) % HOUR
    if now >= plan.look_at:
        measured_until = end_of_data(production.loaded.version.tenant, production.assets)
        end = min(end, measured_until) if plan.shadow_days else measured_until
    return end, _counted(production, end, _REACH * plan.weeks)[: plan.weeks]


def _counted(production: _Version, end: datetime, weeks: int) -> list[int]:
    """Which of the weeks before `end` have enough hours; 0 is the last. Hours to come count as measured."""
    tenant, assets = production.loaded.version.tenant, production.assets
    to_come, enough = end - end_of_data(tenant, assets), LEAST_SHARE * len(assets) * (WEEK // HOUR)
    return [
        week
        for week, hours in enumerate(hours_by_week(tenant, assets, end, weeks))
        if hours + len(assets) * (min(max(to_come - week * WEEK, timedelta()), WEEK) // HOUR) >= enough
    ]


def _needed(weeks: int) -> int:
    return min(weeks, _ENOUGH_WEEKS)


def _too_few(weeks: int, found: int, of: str, what: str) -> BadInputError:
    return BadInputError(
        f"Of the {of}, {found} have at least {LEAST_SHARE:.0%} of their hours {what}; it takes "
        f"{_needed(weeks)}.",
        hint="Ingest what was measured, or compare fewer --weeks (of more than "
        f"{_ENOUGH_WEEKS}, so many are enough).",
    )


def _check_recipes(both: tuple[_Version, _Version], start: datetime, end: datetime) -> None:
    """Refuse a look at one recipe that would be fitted anew for both: it cannot show anything."""
    challenger, production = both
    first = start - production.loaded.horizon
    if min(each.trained_until for each in both) > first and challenger.recipe == production.recipe:
        raise ConflictError(
            f"{_label(challenger.loaded.version)} has the recipe of the one in production, and both were "
            f"trained on some of the weeks from {first:%Y-%m-%d} on: fitted anew to what was known before "
            "them, they are the same.",
            hint=_ways_out(both, end),
        )


def _ways_out(both: tuple[_Version, _Version], end: datetime) -> str:
    """Which weeks tell two versions of one recipe apart."""
    horizon = both[1].loaded.horizon
    later = len(_counted(both[1], end, max((end - both[1].trained_until - horizon) // WEEK, 0)))
    known = (
        f"Take --weeks {later}, all after the training of the one in production. "
        if later >= FEWEST_WEEKS
        else ""
    )
    # a day for what comes late
    unseen = max(each.trained_until for each in both) + horizon + _UNSEEN_WEEKS * WEEK + DAY
    return (
        f"{known}Weeks that neither has seen tell them apart: from {unseen:%Y-%m-%d} on take --weeks "
        f"{_UNSEEN_WEEKS}; --shadow-days plans that look now. The gate beats_production then must ask for no "
        "more `weeks`. Nothing was looked at."
    )


class _Replay(NamedTuple):
    """The weeks, forecast by challenger and production."""

    start: datetime
    end: datetime
    #: issues in order, with actual values
    rows: IssueRows
    #: (n, leads), number of each target's week; -1: it is in none, or nobody asks for it
    week: Ints
    #: (n, leads), absolute; NaN where there is nothing to compare
    challenger: Floats
    production: Floats
    #: of both, in this order
    stand_ins: list[StandIn]


def _replay(
    settings: Settings,
    both: tuple[_Version, _Version],
    span: tuple[datetime, datetime],
    on_step: Callable[[str], None],
) -> _Replay:
    """Forecast the targets of a span with both, for the meters of the version in production."""
    production = both[1].loaded
    store, assets = open_store(settings), both[1].assets
    start, end = span
    # the first targets are forecast at all leads, too
    first = start - production.horizon
    data: dict[str, IssueSet] = {}
    replays: list[tuple[IssueRows, Floats]] = []
    stand_ins = []
    for each in both:
        service = each.loaded.card.feature_service
        if service not in data:
            sharing = [one for one in both if one.loaded.card.feature_service == service]
            data[service] = _read(store, sharing, assets, (first, end), on_step)
        on_step(f"forecasting with {each.loaded.label}")
        rows, errors, stand_in = _forecast(each, data[service], assets, first)
        replays.append((rows, errors))
        stand_ins.append(stand_in)
    (rows, ours), (others, theirs) = replays
    # as Feast answers each of them
    if not ((rows.assets == others.assets).all() and (rows.issued_at == others.issued_at).all()):
        raise ValueError("two feature services have different issues")
    leads = others.leads
    rows = rows.first(leads)
    rule = IssueRule.parse(production.card.issue) if production.card.issue else None
    return _Replay(start, end, rows, _weeks(rows, start, end, rule), ours[:, :leads], theirs, stand_ins)


def _weeks(rows: IssueRows, start: datetime, end: datetime, rule: IssueRule | None) -> Ints:
    """(n, leads): number of each target's week since `start`; -1 of those that do not count."""
    counts = (rows.starts >= instant(start)) & (rows.ends <= instant(end))
    if rule is not None:
        counts &= rule.delivered(rows)
    week = ((rows.starts - instant(start)) // np.timedelta64(WEEK)).astype(np.int64)
    return np.where(counts, week, -1)


def _read(
    store: FeatureStore,
    sharing: Sequence[_Version],
    assets: Sequence[str],
    span: tuple[datetime, datetime],
    on_step: Callable[[str], None],
) -> IssueSet:
    """Issues for versions of one feature service: those of the weeks, and those that they are fitted to."""
    start, end = span
    loaded = sharing[0].loaded
    before = max(-(-each.trained // WEEK) if each.trained_until > start else 0 for each in sharing)
    plan = TrainingPlan(
        loaded.version.tenant,
        loaded.card.feature_service,
        loaded.card.kind,
        tuple(sorted({*assets, *(name for each in sharing for name in each.assets)})),
        loaded.version.model,
        weeks=-(-(end - start) // WEEK) + before,
        until=end,
    )
    horizon = Horizon(
        length=max(each.loaded.horizon for each in sharing),
        issue=IssueRule.parse(loaded.card.issue) if loaded.card.issue else None,
    )
    return read(store, plan, horizon, on_step)


def _forecast(
    version: _Version, data: IssueSet, assets: Sequence[str], start: datetime
) -> tuple[IssueRows, Floats, StandIn]:
    """Issues of the weeks from `start` on, absolute errors of a version or its recipe, and which it was."""
    loaded, model = version.loaded, version.loaded.model
    inputs = model.recipe.inputs
    if absent := sorted({*inputs.scalars, *inputs.arrays} - {*data.rows.scalars, *data.rows.arrays}):
        raise ConflictError(
            f"Feature service {loaded.card.feature_service} no longer has {', '.join(absent)}, which "
            f"{loaded.label} was trained with.",
            hint="Restore the features and run `feast apply`, or train the model anew.",
        )
    rows, first = data.rows.first(model.leads), instant(start)
    trained_from, trained_until = version.trained_from, version.trained_until
    is_registered = trained_until <= start
    if not is_registered:
        trained_from, trained_until = start - version.trained, start
        before = rows.take((rows.issued_at >= instant(trained_from)) & np.isin(rows.assets, version.assets))
        before = before.known_by(first, data.meters.delays(before))
        model = fit(before, model.recipe)
        trained_from = _first_known(before)
    rows = rows.take((rows.issued_at >= first) & np.isin(rows.assets, assets))
    rows = rows.take(np.lexsort((rows.assets, rows.issued_at)))
    assert rows.actual is not None  # noqa: S101  # of `read`
    errors = np.abs(model.forecast(rows).values - rows.actual)  # no pandas
    # live, it forecasts those that it was trained on
    errors[~np.isin(rows.assets, version.assets)] = np.nan
    stand_in = StandIn(
        version=loaded.version.version,
        semantic_version=loaded.version.semantic_version,
        is_registered=is_registered,
        trained_from=trained_from,
        trained_until=trained_until,
    )
    return rows, errors, stand_in


def _first_known(rows: IssueRows) -> datetime:
    """The first issue of which something was measured: there may be less history than a recipe takes."""
    assert rows.actual is not None  # noqa: S101  # of `read`
    first = rows.issued_at[np.isfinite(rows.actual).any(axis=1)].min()
    return from_micros(first.astype(np.int64))


def _paired(
    found: _Replay, both: tuple[_Version, _Version], weeks: int
) -> tuple[PairedComparison, dict[str, str], int]:
    """The comparison, by its first day why a week is left out, and how many targets the challenger lacks.

    All that is refused is refused before anybody has looked at an error.
    """
    rows, (row, lead) = found.rows, np.nonzero(found.week >= 0)
    # of the target: what an hour brings all its forecasts share
    week = found.week[row, lead]
    ours, theirs = found.challenger[row, lead], found.production[row, lead]
    is_known, is_theirs = np.isfinite(ours) & np.isfinite(theirs), np.isfinite(theirs)
    missed, targets = int((is_theirs & ~is_known).sum()), int(is_theirs.sum())
    if missed > _MOST_MISSED * targets:
        raise ConflictError(
            f"Of {targets:,} targets that the version in production forecasts, "
            f"{_label(both[0].loaded.version)} does not forecast {missed:,} ({missed / targets:.1%}); "
            f"{_MOST_MISSED:.0%} is allowed.",
            hint="Train a version on features that are there as often as those of the one in production.",
        )
    assert rows.actual is not None  # noqa: S101  # of `read`
    measured = known_shares(week, np.isfinite(rows.actual[row, lead]))
    shares = known_shares(week, is_known)
    left_out = {
        f"{found.start + int(number) * WEEK:%Y-%m-%d}": f"{shares[number]:.0%} of its targets can be "
        f"compared, {measured[number]:.0%} were measured"
        for number in np.flatnonzero(shares < LEAST_SHARE)
    }
    if len(shares) - len(left_out) < _needed(weeks):
        of = f"{len(shares)} weeks from {found.start:%Y-%m-%d} on"
        raise _too_few(weeks, len(shares) - len(left_out), of, "measured and forecast by both")
    if np.array_equal(ours, theirs, equal_nan=True):
        raise ConflictError(
            f"{_label(both[0].loaded.version)} and the one in production forecast the same for every target: "
            "fitted anew to what was known before these weeks, they are the same.",
            hint=_ways_out(both, found.end),
        )
    return compare(week, theirs, ours, _groups(rows, row, lead)), left_out, missed


def _groups(rows: IssueRows, row: Ints, lead: Ints) -> dict[str, Flags]:
    """Targets by lead, and by meter or size of meters."""
    bucket = buckets_of(rows.leads, rows.step)[lead]
    groups = {f"lead {name}": bucket == at for at, name in enumerate(bucket_names(rows.leads, rows.step))}
    names, meter = np.unique(rows.assets[row], return_inverse=True)
    if len(names) <= _MOST_METERS:
        return groups | {f"meter {name}": meter == at for at, name in enumerate(names)}
    assert rows.actual is not None  # noqa: S101  # of `read`
    actual = rows.actual[row, lead]
    known = np.bincount(meter, np.isfinite(actual))
    sizes = np.bincount(meter, np.abs(np.nan_to_num(actual))) / np.maximum(known, 1)
    quarter = np.empty(len(names), np.int64)
    for at, part in enumerate(np.array_split(np.argsort(sizes, kind="stable"), len(_QUARTERS))):
        quarter[part] = at
    return groups | {f"{name} of the meters": quarter[meter] == at for at, name in enumerate(_QUARTERS)}


_RUNS: Final = """
SELECT run_id, issued_at, role FROM forecast_runs
WHERE tenant_id = %(tenant)s AND model = %(model)s AND status <> 'failed' AND details @> %(details)s
    AND issued_at >= %(start)s AND issued_at < %(end)s
    AND (role = 'live' OR role = 'shadow' AND version = %(version)s)
ORDER BY issued_at, recorded_at
"""


def _shadow(settings: Settings, challenger: ModelVersion, plan: Plan) -> Shadow:
    """What the challenger has forecast in the days before the look; one forecast a day is made again."""
    tenant = challenger.tenant
    values: dict[str, Any] = {
        "tenant": tenant,
        "model": challenger.model,
        "version": challenger.version,
        "details": Jsonb(ALL_METERS),
        "start": plan.look_at - timedelta(days=plan.shadow_days),
        "end": plan.look_at,
    }
    with transaction(settings, tenant) as connection:
        runs = connection.execute(_RUNS, values).fetchall()
    live = {issued_at for _, issued_at, role in runs if role == "live"}
    of_challenger = {issued_at: run_id for run_id, issued_at, role in runs if role == "shadow"}
    one_a_day = {at.astimezone(UTC).date(): run_id for at, run_id in of_challenger.items()}
    differing = changed = 0
    for run_id in one_a_day.values():
        with transaction(settings, tenant) as connection:
            logged = log.find_run(connection, tenant, run_id)
            rows, features = log.read_rows(connection, logged), log.read_features(connection, logged)
        again = replay(settings, logged, rows, features)
        if again.differing and again.same_features:
            differing += 1
        elif again.differing:
            changed += 1
    return Shadow(
        days=plan.shadow_days,
        issues=len(live),
        shadowed=len(live & of_challenger.keys()),
        replayed=len(one_a_day),
        differing=differing,
        changed=changed,
    )
