"""Training and backtests of forecasts with a horizon: from a tenant's readings to a registered model."""

from __future__ import annotations

from collections.abc import Mapping  # of a dataclass
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError
from ai_hub.features.store import feature_references, get_service
from ai_hub.forecasting import backtest
from ai_hub.forecasting.backtest import Backtest, Meters
from ai_hub.forecasting.card import ModelCard
from ai_hub.forecasting.dataset import Window, end_of_data
from ai_hub.forecasting.day_ahead import DayAheadModel, Recipe, fit
from ai_hub.forecasting.issue_history import issue_features, read_issues, read_meters, with_actual
from ai_hub.forecasting.issues import HOUR, Flags, IssueRows, IssueRule, instant, issue_times
from ai_hub.forecasting.log import QUANTILES
from ai_hub.forecasting.train import source_of, unit_of
from ai_hub.forecasting.training_rows import FeatureRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast import FeatureStore

    from ai_hub.forecasting.train import TrainingPlan


@dataclass(frozen=True)
class Horizon:
    """What is forecast at each issue.

    Raises:
        BadInputError: a quantile of the log is missing.
    """

    #: how far ahead; None: as far as the features do
    length: timedelta | None = None
    #: None: that of the features
    step: timedelta | None = None
    #: rising, with those of the log
    levels: tuple[float, ...] = QUANTILES
    #: the point forecast, see `day_ahead.Recipe`
    point: str = "median"
    #: when forecasts are issued, and for which day; None: once a day at changing hours, for all leads
    issue: IssueRule | None = None
    #: see `day_ahead.Recipe`
    monotone: Mapping[str, int] = field(default_factory=dict)
    estimator: str | None = None

    def __post_init__(self) -> None:
        """Refuse levels whose bands would not be kept."""
        if not set(QUANTILES) <= set(self.levels):
            levels = ",".join(map(str, self.levels))
            raise BadInputError(
                f"--quantiles {levels} lacks some of 0.1, 0.5 and 0.9, which the log of forecasts keeps.",
                hint="Give these three, and others as you like.",
            )


@dataclass(frozen=True)
class IssueSet:
    """Issues with what came of them."""

    rows: IssueRows
    meters: Meters
    recipe: Recipe
    #: (n, leads), targets in the day of delivery of their issue; None: all count
    delivered: Flags | None
    card: ModelCard
    #: the features by view, as Feast names them
    references: list[str]
    source: FeatureRows

    @property
    def start(self) -> datetime:
        """First time of issue there can be."""
        return self.source.start

    @property
    def end(self) -> datetime:
        """Issues and values are of times before it."""
        return self.source.end


@dataclass(frozen=True)
class TrainedDayAhead:
    """A fitted model with its data and its backtest."""

    name: str
    card: ModelCard
    references: list[str]
    window: Window
    source: FeatureRows
    model: DayAheadModel
    #: issues that it was fitted to
    issues: int
    backtest: Backtest


def read(
    store: FeatureStore, plan: TrainingPlan, horizon: Horizon, on_step: Callable[[str], None]
) -> IssueSet:
    """Issues of the plan's meters and weeks, with features as known at issue.

    Raises:
        BadInputError: horizon, step and time of issue do not fit the features, or there are no values.
        NotFoundError: no such feature service or no readings.
    """
    service = get_service(store, plan.service)
    features = issue_features(store, service, horizon.levels)
    step, reach = features.declaration.step, features.declaration.horizon
    assert reach is not None  # noqa: S101  # of `issue_features`
    length = horizon.length or reach
    if horizon.step not in {None, step}:
        raise BadInputError(
            f"Feature service {plan.service} has steps of {step / HOUR:g} h.",
            hint="Leave --step out, or declare a view with that step.",
        )
    if length > reach or length % step:
        raise BadInputError(
            f"Feature service {plan.service} looks {reach / HOUR:g} h ahead in steps of {step / HOUR:g} h.",
            hint="Take a shorter --horizon of whole steps, or declare a view with a longer horizon.",
        )
    if horizon.issue is not None:
        horizon.issue.check_horizon(length)
    recipe = replace(
        features.recipe, point=horizon.point, monotone=horizon.monotone, estimator=horizon.estimator
    )
    unit = unit_of(plan)
    known_at = store.config.offline_store.known_at
    end = plan.until or end_of_data(plan.tenant, plan.assets, known_at)
    start = end - timedelta(weeks=plan.weeks)
    issues = issue_times(start, end, step, horizon.issue)
    if not issues:
        raise BadInputError(
            f"There are no issues from {start:%Y-%m-%d} to {end:%Y-%m-%d}.", hint="Take more --weeks."
        )
    on_step(f"reading features of {len(issues) * len(plan.assets):,} issues")
    rows = read_issues(store, features, plan.tenant, plan.assets, issues, leads=length // step)
    meters = read_meters(store, features, plan.tenant, plan.assets, (start, end))
    rows = with_actual(rows, meters)
    inputs = features.recipe.inputs
    card = ModelCard(
        feature_service=plan.service,
        features=[*inputs.scalars, *inputs.arrays],
        # trees know what to do without any of them
        optional=[*inputs.scalars, *inputs.arrays],
        kind=plan.kind,
        assets=sorted(plan.assets),
        unit=unit,
        known_at=known_at.isoformat() if known_at else None,
        horizon_hours=length / HOUR,
        step_minutes=round(step / timedelta(minutes=1)),
        quantiles=list(horizon.levels),
        point=horizon.point if horizon.estimator is None else None,
        issue=str(horizon.issue) if horizon.issue else None,
        monotone=dict(horizon.monotone) or None,
        estimator=horizon.estimator,
    )
    return IssueSet(
        rows=rows,
        meters=meters,
        recipe=recipe,
        delivered=horizon.issue.delivered(rows) if horizon.issue else None,
        card=card,
        references=feature_references(service),
        source=source_of(store, service, plan.tenant, start, end),
    )


def train_day_ahead(
    store: FeatureStore, plan: TrainingPlan, horizon: Horizon, on_step: Callable[[str], None]
) -> TrainedDayAhead:
    """Test on the held-out weeks, then fit to all of them; nothing is written.

    Raises:
        BadInputError: see `read`; or no weeks are left to fit to.
        NotFoundError: no such feature service or no readings.
    """
    if plan.weeks <= plan.holdout_weeks:
        raise _nothing_left(plan.weeks, plan.holdout_weeks, "--holdout-weeks")
    data = read(store, plan, horizon, on_step)
    holdout = data.end - timedelta(weeks=plan.holdout_weeks)
    # nothing is kept to validate with
    window = Window(data.start, holdout, holdout, data.end)
    tested = backtest.run(
        data.rows, data.meters, data.recipe, start=window.holdout, delivered=data.delivered, on_step=on_step
    )
    on_step("fitting to all issues")
    model = fit(data.rows, data.recipe)
    past = tested.past
    # by now the values that were read are known
    known_at = instant(data.end) + past.rows.usual_lateness(past.delay)
    return TrainedDayAhead(
        name=plan.model,
        card=data.card,
        references=data.references,
        window=window,
        source=data.source,
        model=replace(model, calibration=past.calibration(known_at, model.is_turbine(past.rows))),
        issues=len(data.rows),
        backtest=tested,
    )


def backtest_day_ahead(
    store: FeatureStore,
    plan: TrainingPlan,
    horizon: Horizon,
    *,
    test_weeks: int,
    refit_weeks: int,
    on_step: Callable[[str], None],
) -> tuple[ModelCard, Backtest]:
    """Backtest of the last `test_weeks` weeks, fitted anew every `refit_weeks`; nothing is written.

    Raises:
        BadInputError: see `read`; or no weeks are left to fit to.
        NotFoundError: no such feature service or no readings.
    """
    if plan.weeks <= test_weeks:
        raise _nothing_left(plan.weeks, test_weeks, "--test-weeks")
    data = read(store, plan, horizon, on_step)
    found = backtest.run(
        data.rows,
        data.meters,
        data.recipe,
        start=data.end - timedelta(weeks=test_weeks),
        refit=timedelta(weeks=refit_weeks),
        delivered=data.delivered,
        on_step=on_step,
    )
    return data.card, found


def _nothing_left(weeks: int, tested: int, option: str) -> BadInputError:
    return BadInputError(
        f"{weeks} weeks of which {tested} are tested leave nothing to fit to.",
        hint=f"Take more --weeks, or fewer {option}.",
    )
