"""`ai-hub retrain`: requests to train models anew, and the policy that says when."""

from __future__ import annotations

import getpass
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app
from ai_hub.errors import BadInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.forecasting.retraining import RetrainRequest
    from ai_hub.settings import Settings

retrain_app = typer.Typer(
    name="retrain", no_args_is_help=True, help="Requests to train models anew: proposed, decided, done."
)
app.add_typer(retrain_app)
Tenant = Annotated[str, typer.Option("--tenant", help="tenant of the models")]
RequestId = Annotated[UUID, typer.Argument(metavar="REQUEST", help="as `ai-hub retrain list` shows it")]


class RequestStatus(StrEnum):
    """See `ai_hub.forecasting.retraining.Status`, which takes long to import."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    COMPLETED = "completed"
    FAILED = "failed"


class Approval(StrEnum):
    """Who approves what is proposed."""

    MANUAL = "manual"
    AUTOMATIC = "automatic"


@retrain_app.command("list")
def list_command(
    *,
    tenant: Tenant,
    model: Annotated[str | None, typer.Option("--model", help="only of this model")] = None,
    status: Annotated[RequestStatus | None, typer.Option("--status", help="only of this status")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="show at most this many")] = 20,
    as_json: AsJson = False,
) -> None:
    """List a tenant's requests to train models anew, newest first."""
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting import retraining

    with transaction(common.settings(), tenant) as connection:
        requests = retraining.find_all(connection, tenant, model=model, status=status, limit=limit)
    if as_json:
        typer.echo(json.dumps([request.as_dict() for request in requests], indent=2))
        return
    if not requests:
        typer.echo("There are no such requests.")
    for request in requests:
        typer.echo(f"{request.request_id}  {request.proposed_at:%Y-%m-%d %H:%M}  {request}")
        typer.echo(f"  {request.outcome}")


@retrain_app.command("show")
def show_command(request_id: RequestId, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Show a request with all its evidence, and what has become of it."""
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting import retraining

    with transaction(common.settings(), tenant) as connection:
        request = retraining.find(connection, tenant, request_id)
    if as_json:
        typer.echo(json.dumps(request.as_dict(), indent=2))
        return
    for name, value in request.as_dict().items():
        if value is not None:
            typer.echo(f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}")


@retrain_app.command("propose")
def propose_command(
    model: Annotated[
        str | None,
        typer.Argument(help="model in production to train anew whatever the rules say", show_default=False),
    ] = None,
    *,
    tenant: Tenant,
    reason: Annotated[str | None, typer.Option("--reason", help="with a model: why")] = None,
    as_json: AsJson = False,
) -> None:
    """Propose what the rules say of the models in production, or to train one because you say so."""
    from ai_hub.forecasting import retraining
    from ai_hub.forecasting.production import (
        card_of,
        how_to_train,
        production_versions,
        staging_versions,
    )

    settings = common.settings()
    if (model is None) != (reason is None):
        raise BadInputError("A model and --reason belong together.", hint="Without both, the rules decide.")
    versions = {version.model: version for version in production_versions(tenant)}
    if model is not None and reason is not None:
        if model not in versions:
            raise NotFoundError(
                f"Tenant {tenant} has no model {model} with a horizon in production.",
                hint=how_to_train(tenant),
            )
        by = getpass.getuser()
        requests = [retraining.propose_by_hand(settings, versions[model], by=by, reason=reason)]
    else:
        outcome = retraining.propose(
            settings,
            tenant,
            list(versions.values()),
            card_of=card_of,
            staging=staging_versions(tenant) if versions else (),
        )
        requests = outcome.proposed
        for each in outcome.waiting:
            typer.echo(str(each), err=as_json)
    if as_json:
        typer.echo(json.dumps([request.as_dict() for request in requests], indent=2))
    else:
        _show_proposed(requests, len(versions))
    notify_receivers(settings, tenant)


def _show_proposed(requests: Sequence[RetrainRequest], models: int) -> None:
    for request in requests:
        typer.echo(f"{request.request_id}  {request}")
    if not requests:
        typer.echo(f"{models} models in production: nothing is proposed.")


def notify_receivers(settings: Settings, tenant: str) -> None:
    """Tell the receivers of the registry's notifications of new requests."""
    from ai_hub.forecasting import retraining
    from ai_hub.registry.discussions import propose_retraining

    def tell(request: RetrainRequest) -> None:
        propose_retraining(tenant, request.model, f"Train anew: {request.why}", request.version)

    retraining.notify(settings, tenant, tell)


@retrain_app.command("approve")
def approve_command(
    request_id: RequestId,
    *,
    tenant: Tenant,
    reason: Annotated[str | None, typer.Option("--reason", help="why")] = None,
    as_json: AsJson = False,
) -> None:
    """Approve a proposal: a worker trains the model anew and registers a version in Staging."""
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting import retraining

    with transaction(common.settings(), tenant) as connection:
        request = retraining.approve(connection, tenant, request_id, by=getpass.getuser(), reason=reason)
    _show_decision(retraining.Status.APPROVED, request, as_json=as_json)


@retrain_app.command("reject")
def reject_command(
    request_id: RequestId,
    *,
    tenant: Tenant,
    reason: Annotated[str, typer.Option("--reason", help="why")],
    as_json: AsJson = False,
) -> None:
    """Reject a proposal; for the time of the cool-down no other is made."""
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting import retraining

    with transaction(common.settings(), tenant) as connection:
        request = retraining.reject(connection, tenant, request_id, by=getpass.getuser(), reason=reason)
    _show_decision(retraining.Status.REJECTED, request, as_json=as_json)


def _show_decision(change: StrEnum, request: RetrainRequest, *, as_json: bool) -> None:
    from ai_hub.forecasting import retraining

    retraining.announce(retraining.Status(change), request)
    typer.echo(json.dumps(request.as_dict(), indent=2) if as_json else f"{request.model}: {request.outcome}")


@retrain_app.command("policy")
def policy_command(
    *,
    tenant: Tenant,
    model: Annotated[
        str, typer.Option("--model", help="only of this model [default: of all without an own one]")
    ] = "",
    approval: Annotated[Approval | None, typer.Option("--approval", help="who approves proposals")] = None,
    max_age_days: Annotated[
        int | None, typer.Option("--max-age-days", min=1, help="age from which to train anew [default: 180]")
    ] = None,
    cooldown_days: Annotated[
        int | None,
        typer.Option("--cooldown-days", min=0, help="days without a proposal after one [default: 14]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show when the models of a tenant are trained anew and who approves it, or change it.

    Automatic approval gets a version as far as Staging. What goes to production is decided there.
    """
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting import retraining
    from ai_hub.names import check_tenant

    with transaction(common.settings()) as connection:
        if approval is not None or max_age_days is not None or cooldown_days is not None:
            policy = retraining.save_policy(
                connection,
                check_tenant(tenant),
                model,
                automatic=None if approval is None else approval is Approval.AUTOMATIC,
                max_age_days=max_age_days,
                cooldown_days=cooldown_days,
            )
        else:
            policy = retraining.find_policy(connection, tenant, model)
    if as_json:
        typer.echo(json.dumps(policy.as_dict()))
    else:
        for name, value in policy.as_dict().items():
            typer.echo(f"{name}: {value}")
