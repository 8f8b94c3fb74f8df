"""`ai-hub train` and `ai-hub backtest`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from ai_hub.cli import common
from ai_hub.cli.common import AsJson, parse_time
from ai_hub.cli.main import app
from ai_hub.errors import BadInputError
from ai_hub.forecasting import NAIVE_HOURS
from ai_hub.times import assume_utc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from feast import FeatureStore

    from ai_hub.errors import AiHubError
    from ai_hub.forecasting.backtest import Backtest, Comparison
    from ai_hub.forecasting.card import ModelCard
    from ai_hub.forecasting.day_ahead_training import Horizon, TrainedDayAhead
    from ai_hub.forecasting.tracking import Logged, Trained
    from ai_hub.forecasting.train import TrainingPlan


#: Exit status when some kinds of meters were trained and others were not.
_PARTLY = 4

#: Feature service of forecasts with a horizon.
DAY_AHEAD = "day_ahead"


class Point(StrEnum):
    """What a point forecast is."""

    MEDIAN = "median"
    MEAN = "mean"


Tenant = Annotated[str, typer.Option("--tenant", help="tenant of the data and models")]
HorizonOption = Annotated[
    str | None,
    typer.Option("--horizon", help="how far ahead to forecast, such as 48h [default: the next hour]"),
]
StepOption = Annotated[
    str | None,
    typer.Option("--step", help="of the forecasts, such as 1h or 15m [default: that of the features]"),
]
QuantilesOption = Annotated[
    str | None,
    typer.Option(
        "--quantiles",
        help="with a horizon: 0.1, 0.5 and 0.9, which the log of forecasts keeps, and others as you like "
        "[default: 0.1,0.5,0.9]",
    ),
]
PointOption = Annotated[
    Point | None,
    typer.Option(
        "--point",
        help="point forecast with a horizon: the median errs least, the mean has no bias in sums "
        "[default: median]",
        show_default=False,
    ),
]
IssueOption = Annotated[
    str | None,
    typer.Option(
        "--issue",
        help="when forecasts are issued, and so which day they are for, such as `D-1 10:00 Europe/Berlin` "
        "[default: once a day at changing hours, for all leads]",
    ),
]
MonotoneOption = Annotated[
    list[str] | None,
    typer.Option(
        "--monotone",
        help="feature with which forecasts never fall (temperature:+) or never rise (temperature:-); may be "
        "repeated. Bands are then as wide as past errors were",
    ),
]
EstimatorOption = Annotated[
    str | None,
    typer.Option(
        "--estimator",
        help="with a horizon: entry point `ai_hub.estimators` of what fits; its bands are as wide as past "
        "errors were [default: lightgbm]",
    ),
]


@app.command("train")
def train_command(
    *,
    tenant: Tenant,
    service: Annotated[
        str | None,
        typer.Option(
            "--service",
            help="feature service to train on [default: forecast_basic, with a horizon day_ahead]",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="only meters of this kind, such as electricity")
    ] = None,
    asset: Annotated[
        list[str] | None, typer.Option("--asset", help="only this meter; may be repeated")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="name [default: demand-forecast-KIND, with a horizon day-ahead-KIND]"),
    ] = None,
    weeks: Annotated[int, typer.Option("--weeks", min=3, help="history to use")] = 56,
    holdout_weeks: Annotated[
        int, typer.Option("--holdout-weeks", min=1, help="newest weeks, kept for testing")
    ] = 4,
    until: Annotated[
        datetime | None,
        typer.Option("--until", help="end of the history, in UTC [default: the newest reading]"),
    ] = None,
    known_at: Annotated[
        str | None,
        typer.Option(
            "--known-at", help="train with what was known at this ISO time, UTC if naive [default: now]"
        ),
    ] = None,
    horizon: HorizonOption = None,
    step: StepOption = None,
    quantiles: QuantilesOption = None,
    point: PointOption = None,
    issue: IssueOption = None,
    monotone: MonotoneOption = None,
    estimator: EstimatorOption = None,
    register: Annotated[bool, typer.Option("--register/--no-register", help="register the model")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a forecast for each kind of meter, compare it with naive forecasts, and register it.

    Without a horizon it is of the next hour; with one, of all steps ahead, with quantiles. A kind that cannot
    be trained is named with its meters; the others are trained, and the exit status is 4.
    """
    from ai_hub.cli.errors import explain
    from ai_hub.features.store import open_store
    from ai_hub.forecasting.train import plan

    ahead = _horizon(
        service,
        horizon=horizon,
        step=step,
        quantiles=quantiles,
        point=point,
        issue=issue,
        monotone=monotone,
        estimator=estimator,
    )
    service = service or (DAY_AHEAD if ahead else "forecast_basic")
    console = common.console(stderr=True)
    known_at_time = parse_time(known_at, "--known-at") if known_at else None
    if known_at_time is not None and known_at_time > datetime.now(UTC):
        raise BadInputError(f"--known-at {known_at} is in the future.", hint="Give a time in the past.")
    failures: dict[str, AiHubError] = {}
    summaries: list[dict[str, Any]] = []
    shown: list[Callable[[], None]] = []
    with console.status("planning") as status:
        plans = plan(
            tenant,
            service,
            kind=kind,
            assets=asset or (),
            model=model,
            prefix="day-ahead" if ahead else "demand-forecast",
            known_at=known_at_time,
        )
        store = open_store(known_at=known_at_time)
        for model_plan in plans:
            window = replace(
                model_plan,
                weeks=weeks,
                holdout_weeks=holdout_weeks,
                until=assume_utc(until) if until else None,
            )

            def on_step(step: str, name: str = model_plan.model) -> None:
                status.update(Text(f"{name}: {step}"))

            try:
                summary, show = _train(store, window, ahead, register=register, on_step=on_step)
                summaries.append(summary)
                shown.append(show)
            except Exception as error:  # noqa: BLE001  # one kind's data says nothing of the others
                failures[f"{model_plan.kind} ({', '.join(model_plan.assets)})"] = explain(error)
    if as_json:
        typer.echo(json.dumps(summaries, indent=2))
    else:
        for show in shown:
            show()
    for name, failure in failures.items():
        console.print(f"Not trained: {name}: {failure.message}", style="red", highlight=False, soft_wrap=True)
        if failure.hint:
            console.print(failure.hint, highlight=False, soft_wrap=True)
    if failures:
        raise typer.Exit(_PARTLY if summaries else next(iter(failures.values())).exit_code)


@app.command("backtest")
def backtest_command(
    *,
    model: Annotated[
        str | None,
        typer.Argument(help="registered model with a horizon, whose recipe is tested", show_default=False),
    ] = None,
    tenant: Tenant,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            help="number, semantic version or stage of the model [default: production, else the newest]",
            show_default=False,
        ),
    ] = None,
    service: Annotated[str, typer.Option("--service", help="feature service, without a model")] = DAY_AHEAD,
    kind: Annotated[str | None, typer.Option("--kind", help="only meters of this kind")] = None,
    asset: Annotated[
        list[str] | None, typer.Option("--asset", help="only this meter; may be repeated")
    ] = None,
    weeks: Annotated[int, typer.Option("--weeks", min=3, help="history to use")] = 104,
    test_weeks: Annotated[
        int, typer.Option("--test-weeks", min=1, help="newest weeks, whose issues are forecast")
    ] = 26,
    refit_weeks: Annotated[int, typer.Option("--refit-weeks", min=1, help="between two fits")] = 4,
    until: Annotated[
        datetime | None,
        typer.Option("--until", help="end of the history, in UTC [default: the newest reading]"),
    ] = None,
    horizon: HorizonOption = None,
    step: StepOption = None,
    quantiles: QuantilesOption = None,
    point: PointOption = None,
    issue: IssueOption = None,
    monotone: MonotoneOption = None,
    estimator: EstimatorOption = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="write a picture to this PNG file")] = None,
    log: Annotated[bool, typer.Option("--log/--no-log", help="log the scores to MLflow")] = True,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="also write the forecasts to the forecast log, as runs of role backtest"
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Forecast past issues, each by a model that knows what was known then, and score the forecasts.

    The model is fitted anew every few weeks. Scores are by lead, beside those of naive forecasts that could
    be made at issue.
    """
    from ai_hub.features.store import open_store
    from ai_hub.forecasting.day_ahead_tracking import (
        backtest_plot,
        find_model,
        log_backtest,
        monotone_text,
    )
    from ai_hub.forecasting.day_ahead_training import backtest_day_ahead
    from ai_hub.forecasting.train import plan

    console = common.console(stderr=True)
    found = find_model(tenant, model, version) if model else None
    if found is not None:
        card = found.card
        service, kind, asset = card.feature_service, card.kind, asset or card.assets
        horizon = horizon or _horizon_of(card)
        quantiles = quantiles or ",".join(map(str, card.quantiles or ()))
        issue, point = issue or card.issue, point or Point(card.point or Point.MEDIAN)
        monotone = monotone or (monotone_text(card.monotone).split(",") if card.monotone else None)
        estimator = estimator or card.estimator
    ahead = _horizon(
        DAY_AHEAD,
        horizon=horizon,
        step=step,
        quantiles=quantiles,
        point=point,
        issue=issue,
        monotone=monotone,
        estimator=estimator,
    )
    assert ahead is not None  # noqa: S101  # of a service with a horizon
    plans = plan(tenant, service, kind=kind, assets=asset or (), model=model, prefix="day-ahead")
    if plot is not None and len(plans) > 1:
        kinds = " and ".join(each.kind for each in plans)
        raise BadInputError(
            f"--plot {plot} names one file, but there are meters of {kinds}.",
            hint="Choose one with --kind.",
        )
    store = open_store()
    summaries = []
    with console.status("planning") as status:
        for each in plans:
            window = replace(each, weeks=weeks, until=assume_utc(until) if until else None)
            card, backtest = backtest_day_ahead(
                store,
                window,
                ahead,
                test_weeks=test_weeks,
                refit_weeks=refit_weeks,
                on_step=lambda text, name=each.model: status.update(Text(f"{name}: {text}")),  # type: ignore[misc]
            )
            logged = None
            if log:
                logged = log_backtest(tenant, each.model, card, backtest, found.model_id if found else None)
            if plot is not None:
                backtest_plot(backtest, title=f"{each.model}, tenant {tenant}").savefig(plot)
            summaries.append({"tenant": tenant, "model": each.model, **asdict(card), **backtest.as_dict()})
            summaries[-1] |= {"run_id": logged.run_id, "run_url": logged.run_url} if logged else {}
            if record:
                status.update(Text(f"{each.model}: writing to the forecast log"))
                summaries[-1]["recorded"] = _record(tenant, each.model, card, backtest, logged)
            if not as_json:
                show_backtest(f"{each.model} of {tenant} on {service}", card, backtest)
                if logged:
                    common.console().print(f"Run: {logged.run_url}", highlight=False, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(summaries, indent=2))


def _record(tenant: str, name: str, card: ModelCard, backtest: Backtest, logged: Logged | None) -> int:
    """Write the forecasts of a backtest to the forecast log, all or none; returns of how many issues."""
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting.day_ahead_tracking import backtest_runs
    from ai_hub.forecasting.log import write_all

    details = {"by": "ai-hub backtest", **({"mlflow_run": logged.run_id} if logged else {})}
    with transaction(common.settings(), tenant) as connection:
        return write_all(connection, backtest_runs(tenant, name, card, backtest, details))


def _horizon(
    service: str | None,
    *,
    horizon: str | None,
    step: str | None,
    quantiles: str | None,
    point: Point | None,
    issue: str | None,
    monotone: Sequence[str] | None,
    estimator: str | None,
) -> Horizon | None:
    """What is forecast at each issue; None: the next hour."""
    if service != DAY_AHEAD and not any((horizon, step, quantiles, point, issue, monotone, estimator)):
        return None
    from ai_hub.forecasting.day_ahead import as_levels, as_monotone
    from ai_hub.forecasting.day_ahead_training import Horizon
    from ai_hub.forecasting.estimators import DEFAULT
    from ai_hub.forecasting.issues import IssueRule, parse_duration

    return Horizon(
        length=parse_duration(horizon, "--horizon") if horizon else None,
        step=parse_duration(step, "--step") if step else None,
        levels=as_levels(quantiles or "0.1,0.5,0.9"),
        point=(point or Point.MEDIAN).value,
        issue=IssueRule.parse(issue) if issue else None,
        monotone=as_monotone(monotone or ()),
        estimator=None if estimator in {None, DEFAULT} else estimator,
    )


def _horizon_of(card: ModelCard) -> str:
    """As `--horizon` takes it; steps may be of minutes."""
    return f"{round((card.horizon_hours or 0) * 60)}m"


def _train(
    store: FeatureStore,
    plan: TrainingPlan,
    horizon: Horizon | None,
    *,
    register: bool,
    on_step: Callable[[str], None],
) -> tuple[dict[str, Any], Callable[[], None]]:
    """Train and log one model; returns its summary, and what shows it."""
    from ai_hub.forecasting.tracking import describe_training
    from mlflow_plugins.lineage_events import lineage_run

    with lineage_run(plan.tenant, f"train/{plan.model}") as lineage:
        if horizon is None:
            from ai_hub.forecasting.train import train_and_log

            trained, logged = train_and_log(store, plan, register=register, on_step=on_step)
            describe_training(lineage, plan.model, trained.source, logged)
            return _summary(plan.tenant, trained, logged), partial(
                _show_training, plan.tenant, trained, logged
            )
        from ai_hub.forecasting.day_ahead_tracking import log_day_ahead
        from ai_hub.forecasting.day_ahead_training import train_day_ahead

        ahead = train_day_ahead(store, plan, horizon, on_step)
        on_step("logging to MLflow")
        logged = log_day_ahead(plan.tenant, ahead, register=register)
        describe_training(lineage, plan.model, ahead.source, logged)
    return _ahead_summary(plan.tenant, ahead, logged), partial(_show_ahead, plan.tenant, ahead, logged)


def _summary(tenant: str, trained: Trained, logged: Logged) -> dict[str, Any]:
    evaluation = trained.evaluation
    return {
        "tenant": tenant,
        "model": trained.name,
        **asdict(logged),
        **asdict(trained.card),
        "window": {name: at.isoformat() for name, at in vars(trained.window).items()},
        "rounds": trained.rounds,
        "rows_without_features": trained.without_features,
        "warnings": trained.warnings,
        "overall": evaluation.overall.as_dict(),
        "by_asset": {asset: errors.as_dict() for asset, errors in evaluation.by_asset.items()},
    }


def _ahead_summary(tenant: str, trained: TrainedDayAhead, logged: Logged) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "model": trained.name,
        **asdict(logged),
        **asdict(trained.card),
        "window": {name: at.isoformat() for name, at in vars(trained.window).items()},
        **trained.backtest.as_dict(),
    }


#: Width of tables that no terminal shows.
_WIDE = 130
_LEAD_COLUMNS = ("targets", "MAE", "RMSE", "bias", "MAE/mean", "MASE", "pinball", "covered", "width", "peaks")


def show_backtest(title: str, card: ModelCard, backtest: Backtest) -> None:
    """Print the scores by lead, beside those of naive forecasts."""
    console = common.console()
    if not console.is_terminal:
        console = common.console(width=_WIDE)
    unit = f" ({card.unit})" if card.unit else ""
    nominal = f"{(backtest.forecasts.levels[-1] - backtest.forecasts.levels[0]):.0%}"
    table = Table(
        Column("lead", no_wrap=True),
        "forecast",
        *(Column(heading, justify="right") for heading in _LEAD_COLUMNS),
        box=SIMPLE_HEAD,
    )
    for name, comparison in {**backtest.by_lead, "all": backtest.overall}.items():
        _add_scores(table, name, comparison)
    first, last = backtest.rows.issued_at.min(), backtest.rows.issued_at.max()
    console.print(
        f"\n{title}: {len(backtest.rows):,} issues, {str(first)[:10]} to {str(last)[:10]}, scores{unit}",
        highlight=False,
    )
    console.print(table)
    console.print(
        "last known day, last known week: the value at the same hour of the last one known at issue\n"
        f"covered: part within the band, which should be {nominal}; peaks: precision and recall of values "
        "above the 95 % quantile of earlier ones",
        highlight=False,
        soft_wrap=True,
    )
    if math.isfinite(backtest.overall.model.mae_over_capacity):
        console.print(f"MAE over capacity: {backtest.overall.model.mae_over_capacity:.1%}", highlight=False)
    if backtest.not_compared:
        console.print(
            f"{backtest.not_compared} targets were left out, because a forecast of them is missing.",
            highlight=False,
        )


def _add_scores(table: Table, lead: str, comparison: Comparison) -> None:
    for name, scores in comparison.scores.items():
        peaks = f"{scores.peak_precision:.0%} {scores.peak_recall:.0%}" if scores.n else "-"
        row = (
            f"{scores.n:,}",
            *(f"{each:.3f}" for each in (scores.mae, scores.rmse, scores.bias)),
            f"{scores.mae_over_mean:.1%}",
            f"{scores.mase:.2f}",
            f"{scores.pinball:.3f}",
            f"{scores.coverage:.0%}",
            f"{scores.width:.3f}",
            peaks,
        )
        table.add_row(lead, name, *(cell.replace("nan%", "-").replace("nan", "-") for cell in row))
        lead = ""


def _show_ahead(tenant: str, trained: TrainedDayAhead, logged: Logged) -> None:
    show_backtest(
        f"{trained.name} of {tenant} on {trained.card.feature_service}", trained.card, trained.backtest
    )
    console = common.console()
    console.print(f"Fitted anew to all {trained.issues:,} issues.", highlight=False)
    if trained.card.known_at:
        console.print(f"Trained with what was known at {trained.card.known_at}.", highlight=False)
    _show_logged(trained.name, logged)


def _show_logged(name: str, logged: Logged) -> None:
    console = common.console()
    if logged.version:
        registered = f"{name} {logged.semantic_version} (version {logged.version})"
        console.print(f"Registered {registered} in staging.", highlight=False)
    console.print(f"Run: {logged.run_url}", highlight=False, soft_wrap=True)


_ERROR_COLUMNS = ("MAE", "naive MAE", "better by", "RMSE", "WAPE", "MASE")


def _show_training(tenant: str, trained: Trained, logged: Logged) -> None:
    console = common.console()
    window, unit = trained.window, f" ({trained.card.unit})" if trained.card.unit else ""
    table = Table(
        Column("meter", overflow="fold"),
        *(Column(heading, justify="right") for heading in _ERROR_COLUMNS),
        box=SIMPLE_HEAD,
    )
    rows = dict(trained.evaluation.by_asset)
    if len(rows) > 1:
        rows["all"] = trained.evaluation.overall
    for name, errors in rows.items():
        table.add_row(
            name,
            f"{errors.model.mae:.3f}",
            f"{errors.naive[errors.best_naive].mae:.3f} ({NAIVE_HOURS[errors.best_naive]} h)",
            f"{errors.improvement:+.1%}",
            f"{errors.model.rmse:.3f}",
            f"{errors.model.wape:.1%}",
            f"{errors.model.mase:.2f}",
        )
    console.print(
        f"\n{trained.name} of {tenant} on {trained.card.feature_service}: "
        f"errors{unit} from {window.holdout:%Y-%m-%d} to {window.end:%Y-%m-%d}",
        highlight=False,
    )
    console.print(table)
    if trained.card.known_at:
        console.print(f"Trained with what was known at {trained.card.known_at}.", highlight=False)
    console.print("naive: the value 1, 24 or 168 hours before, whichever is best", highlight=False)
    if trained.without_features:
        console.print(f"{trained.without_features} hours had no feature row of their own and were left out.")
    for line in trained.warnings:
        console.print(line, highlight=False, soft_wrap=True)
    _show_logged(trained.name, logged)
