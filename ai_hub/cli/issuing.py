"""`ai-hub forecast run` and `ai-hub check models`: forecasts are issued, and models in production checked."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ai_hub.cli import common
from ai_hub.cli.common import (
    LOOPBACK,
    AsJson,
    MetricsHost,
    MetricsPort,
    check_metrics_port,
    say,
    served_metrics,
)
from ai_hub.cli.features import check_app
from ai_hub.cli.main import app

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from ai_hub.forecasting.accuracy import LeadErrors
    from ai_hub.forecasting.findings import Outcome
    from ai_hub.forecasting.log import Run
    from ai_hub.forecasting.production import Issuer
    from ai_hub.forecasting.retraining import Proposals
    from ai_hub.registry import ModelVersion
    from ai_hub.settings import Settings

forecast_app = typer.Typer(name="forecast", no_args_is_help=True, help="Forecasts, and the log of them.")
app.add_typer(forecast_app)
#: Seconds between two checks of models by a follower that issues nothing.
_CHECK_S = 3600


@forecast_app.command("run")
def run_command(
    *,
    tenant: Annotated[list[str], typer.Option("--tenant", help="tenant of the meters; may be repeated")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="registered model; may be repeated [default: all with a horizon in production]"
        ),
    ] = None,
    asset: Annotated[
        list[str] | None,
        typer.Option("--asset", help="only this meter; may be repeated [default: the trained ones]"),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="forecast at each time of issue, until stopped")
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow/--no-shadow",
            help="also forecast with all versions in Staging of these models, for the log alone, which "
            "serves nobody with it",
        ),
    ] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="with --follow: seconds between looks at the clock")
    ] = 30,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    as_json: AsJson = False,
) -> None:
    """Forecast from now on with the models in production, and write it to the log.

    With --follow at each time of issue: as the model was trained for, else every step; then, and at least
    once an hour, models are checked as by `ai-hub check models`. Without --asset, meters that are gone or
    have another unit now are left out. Fails when a model cannot forecast, or no meter at all has a forecast;
    what fails in shadow is said.
    """
    from ai_hub.cli.errors import explain
    from ai_hub.imports import without

    with without("sklearn"):  # a second, for nothing that a booster needs
        from ai_hub.forecasting.production import Issuer

    check_metrics_port(metrics_port, follow=follow)
    issuer = Issuer(common.settings(), tenant, model or (), asset or (), shadow)
    if follow:
        from prometheus_client import REGISTRY

        from ai_hub.forecasting.accuracy import LeadErrors

        REGISTRY.register(errors_by_lead := LeadErrors())
        with served_metrics(REGISTRY, metrics_host, metrics_port):
            try:
                _follow(issuer, interval, errors_by_lead)
            finally:
                REGISTRY.unregister(errors_by_lead)
        return
    runs, errors, notes = issuer.issue_now()
    if as_json:
        typer.echo(json.dumps([run_as_dict(run) for run in runs], indent=2))
    else:
        for run in runs:
            typer.echo(_line(run))
    for note in (*notes, *(str(explain(error)) for error in errors[:-1])):
        typer.echo(note, err=True)
    if errors:
        raise errors[-1]
    if all(run.status == "failed" for run in runs if run.role == "live"):
        raise typer.Exit(1)


def _follow(issuer: Issuer, interval: float, errors_by_lead: LeadErrors) -> None:
    """Forecast whenever it is time, until stopped; errors are said, and tried again.

    Forecasts in shadow are made one at a time between looks at the clock.
    """
    from ai_hub.cli.errors import explain
    from ai_hub.cli.jobs import interruptible

    said: list[str] = []
    waiting: dict[str, list[str]] = {}
    next_check = 0.0
    with interruptible() as stop:
        while not stop.is_set():
            runs, errors, notes = issuer.catch_up()
            for run in runs:
                say(_line(run))
            if runs or time.monotonic() >= next_check:
                next_check = time.monotonic() + _CHECK_S
                outcomes, proposals, failures = _check(
                    issuer.settings, issuer.tenants, partial(errors_by_lead.read, issuer.settings)
                )
                errors += failures
                _say_checked(outcomes, proposals, waiting)
            problems = [*notes, *(" ".join(str(explain(error)).split()) for error in errors)]
            for problem in problems:
                if problem not in said:
                    say(problem)
            said = problems
            _issue_shadows(issuer, stop, time.monotonic() + interval)
    say("stopped")


def _say_checked(
    outcomes: Sequence[Outcome], proposals: Sequence[Proposals], waiting: dict[str, list[str]]
) -> None:
    """Say what is new; `waiting` has by tenant what waited at its last check that did not fail."""
    for outcome in outcomes:  # what the registry does not tell, the issuer has said
        for finding in outcome.new:
            say(f"{outcome.tenant}: {finding}")
        for finding in outcome.resolved:
            say(f"{outcome.tenant}: resolved: {finding}")
    for line in _proposal_lines(proposals):
        say(line)
    for each in proposals:
        waited, waiting[each.tenant] = waiting.get(each.tenant, []), [str(waits) for waits in each.waiting]
        for line in waiting[each.tenant]:
            if line not in waited:
                say(f"{each.tenant}: {line}")


def _issue_shadows(issuer: Issuer, stop: threading.Event, until: float) -> None:
    """Make forecasts in shadow, and wait until the monotonic time `until`; the last one may take longer."""
    while issuer.waiting_shadows and not stop.is_set() and time.monotonic() < until:
        runs, _, notes = issuer.issue_shadow()
        for text in (*map(_line, runs), *notes):
            say(text)
    stop.wait(max(until - time.monotonic(), 0))
    if stop.is_set() and issuer.waiting_shadows:
        say(f"{issuer.waiting_shadows:,} forecasts in shadow are not made")


def _check(
    settings: Settings, tenants: Sequence[str], *more: Callable[[str], object]
) -> tuple[list[Outcome], list[Proposals], list[Exception]]:
    """Check the models of tenants, and propose to train them anew where the rules say it.

    Also writes their scores of whole weeks to MLflow, and does what `more` there is to do for each tenant.

    What has come of it, and why others were not checked.
    """
    from ai_hub.cli.retrain import notify_receivers
    from ai_hub.forecasting.findings import check_models
    from ai_hub.forecasting.production import card_of, production_versions, staging_versions
    from ai_hub.forecasting.retraining import propose
    from ai_hub.forecasting.weekly_scores import log_weekly_scores

    versions: dict[str, list[ModelVersion]] = {}

    def in_production(tenant: str) -> dict[str, int]:
        versions[tenant] = production_versions(tenant)
        return {version.model: version.version for version in versions[tenant]}

    outcomes: list[Outcome] = []
    proposals: list[Proposals] = []
    errors: list[Exception] = []
    for tenant in tenants:
        steps: tuple[Callable[[str], object], ...] = (
            lambda name: outcomes.append(check_models(settings, name, in_production=in_production)),
            lambda name: proposals.append(
                propose(
                    settings,
                    name,
                    versions[name],
                    card_of=card_of,
                    staging=staging_versions(name) if versions[name] else (),
                )
            ),
            lambda name: log_weekly_scores(settings, name),
            lambda name: notify_receivers(settings, name),
        )
        for number, step in enumerate((*more, *steps)):
            if number > len(more) and tenant not in versions:  # the registry does not tell
                break
            try:
                step(tenant)
            except Exception as error:  # noqa: BLE001  # the other steps and tenants go on all the same
                errors.append(error)
    return outcomes, proposals, errors


def _proposal_lines(proposals: Sequence[Proposals]) -> list[str]:
    """What is new, a line each."""
    return [
        *(f"{r.tenant_id}: train anew? {r} (request {r.request_id})" for p in proposals for r in p.proposed),
        *(f"{r.tenant_id}: {r.model} is trained anew by policy" for p in proposals for r in p.approved),
        *(
            f"{r.tenant_id}: {r.model} is not trained anew: {r.reason}"
            for p in proposals
            for r in p.withdrawn
        ),
    ]


@check_app.command("models")
def check_models_command(
    *,
    tenant: Annotated[
        list[str] | None,
        typer.Option(
            "--tenant", help="only this tenant; may be repeated [default: all with forecasts or findings]"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the live forecasts of the models in production; fails while a finding is open.

    Finds errors and biases unlike those of the weeks before, bands that do not hold what they say, and
    models that have issued nothing for longer than usual. What is well again is resolved. Where it is time to
    train a model anew, that is proposed (`ai-hub retrain list`).
    """
    from ai_hub.cli.errors import explain
    from ai_hub.db.transactions import transaction

    settings = common.settings()
    if not tenant:
        with transaction(settings) as connection:
            rows = connection.execute(
                "SELECT tenant_id FROM forecast_runs"
                " UNION SELECT tenant_id FROM model_findings WHERE resolved_at IS NULL ORDER BY 1"
            ).fetchall()
        tenant = [name for (name,) in rows]
    outcomes, proposals, errors = _check(settings, tenant)
    errors += [each.problem for each in outcomes if each.problem is not None]
    if as_json:
        changes = ("open", "new", "resolved")
        proposed = {each.tenant: [r.as_dict() for r in each.proposed] for each in proposals}
        waiting = {each.tenant: [w.as_dict() for w in each.waiting] for each in proposals}
        found = [
            {
                "tenant": each.tenant,
                **{k: [f.as_dict() for f in getattr(each, k)] for k in changes},
                "proposed": proposed.get(each.tenant, []),
                "waiting": waiting.get(each.tenant, []),
            }
            for each in outcomes
        ]
        typer.echo(json.dumps(found, indent=2))
    else:
        for each in outcomes:
            for finding in each.open:
                typer.echo(f"{each.tenant}: {finding}")
        for line in _proposal_lines(proposals):
            typer.echo(line)
        for waits in (waits for each in proposals for waits in each.waiting):
            typer.echo(f"{waits.tenant}: {waits}")
        new, resolved = (sum(len(getattr(each, k)) for each in outcomes) for k in ("new", "resolved"))
        typer.echo(f"{len(outcomes):,} tenants checked: {new:,} findings are new, {resolved:,} resolved")
    for error in errors[:-1]:
        typer.echo(str(explain(error)), err=True)
    if errors:
        raise errors[-1]
    if any(each.open for each in outcomes):
        raise typer.Exit(1)


def _line(run: Run) -> str:
    return (
        f"{run.tenant}: {run.model} {run.semantic_version or run.version}"
        f"{' in shadow' if run.role == 'shadow' else ''}, issued for "
        f"{run.issued_at:%Y-%m-%d %H:%MZ}: {len(run.assets):,} meters, {run.leads} steps of "
        f"{run.step.total_seconds() / 60:g} minutes, {run.status}; run {run.run_id}"
    )


def run_as_dict(run: Run) -> dict[str, Any]:
    """A run as `--json` prints it."""
    return {
        "run": str(run.run_id),
        "tenant": run.tenant,
        "model": run.model,
        "version": run.version,
        "semantic_version": run.semantic_version,
        "manifest_sha256": run.manifest_sha256,
        "role": run.role.value,
        "issued_at": run.issued_at.isoformat(),
        "known_at": run.known_at.isoformat(),
        "recorded_at": run.recorded_at.isoformat() if run.recorded_at else None,
        "step_minutes": run.step.total_seconds() / 60,
        "horizon_hours": run.horizon.total_seconds() / 3600,
        "status": run.status,
        "assets": list(run.assets),
        "unit": run.unit,
        "details": dict(run.details),
    }
