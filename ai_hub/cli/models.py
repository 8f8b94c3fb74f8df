"""`ai-hub promote | rollback | delete | compare | history | production | models | request | comment`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from ai_hub.cli import common
from ai_hub.cli.common import AsJson, parse_time
from ai_hub.cli.main import app
from ai_hub.errors import NotFoundError

if TYPE_CHECKING:
    from ai_hub.registry import Assessment
    from ai_hub.registry.discussions import Comment
    from ai_hub.registry.versions import Move, Transition


Model = Annotated[str, typer.Argument(help="name of the registered model", show_default=False)]
Tenant = Annotated[str, typer.Option("--tenant", "-t", help="tenant of the model", show_default=False)]
Version = Annotated[str, typer.Option(help="a number, a semantic version, or latest: the newest in Staging")]
Reason = Annotated[str | None, typer.Option("--reason", "-r", help="why; kept in the audit trail")]
#: Versions in a table, unless `--limit` says how many.
_LISTED = 50


@app.command()
def promote(
    model: Model,
    *,
    tenant: Tenant,
    version: Version = "latest",
    stage: Annotated[str, typer.Option(help="production, archived or staging")] = "production",
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Move a version to another stage; what was in Production before is archived with it."""
    from ai_hub.registry import versions

    _print_move(versions.promote(tenant, model, version, stage=stage, reason=reason), as_json=as_json)


@app.command()
def rollback(
    model: Model,
    *,
    tenant: Tenant,
    version: Annotated[
        str | None, typer.Option(help="an archived version that was in Production; default: the last one")
    ] = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Put the version that was in Production before back into Production."""
    from ai_hub.registry import versions

    _print_move(versions.rollback(tenant, model, version=version, reason=reason), as_json=as_json)


@app.command()
def delete(
    model: Model,
    *,
    tenant: Tenant,
    version: Annotated[str, typer.Option(help="a number or a semantic version", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="also when it is not archived")] = False,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Delete an archived version and its files for good; its audit trail stays."""
    from ai_hub.registry import versions

    files = versions.delete(tenant, model, version, force=force, reason=reason)
    if as_json:
        _print_json({"files_deleted": files})
        return
    common.console(soft_wrap=True).print(
        f"Deleted {version} of {model} with {len(files)} files:", highlight=False
    )
    for path in files:
        typer.echo(f"  {path}")


@app.command("compare")
def compare_command(
    model: Annotated[str, typer.Argument(help="registered model with a horizon", show_default=False)],
    *,
    tenant: Tenant,
    version: Version = "latest",
    weeks: Annotated[int, typer.Option("--weeks", min=4, help="newest weeks, which both forecast")] = 26,
    shadow_days: Annotated[
        int,
        typer.Option(
            "--shadow-days",
            min=0,
            help="look after so many days of forecasts in shadow, and compare these with their replay",
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare a version in Staging with the one in production, over weeks that neither was trained on.

    A version that has seen the weeks is represented by its recipe, fitted anew to what was known before them.
    The registry keeps what is found, for the gate beats_production; there is one look at two versions.
    """
    from ai_hub.forecasting.challengers import compare_with_production
    from mlflow_plugins.gates.comparison import Plan

    with common.console(stderr=True).status("reading the versions") as status:
        found = compare_with_production(
            common.settings(),
            tenant,
            model,
            version,
            weeks=weeks,
            shadow_days=shadow_days,
            on_step=lambda step: status.update(Text(step)),
        )
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    if isinstance(found, Plan):
        typer.echo(
            f"Planned at {found.planned_at:%Y-%m-%d %H:%M} UTC: compare again at or after "
            f"{found.look_at:%Y-%m-%d %H:%M} UTC. Until then run `ai-hub forecast run --follow --shadow`."
        )
        return
    console = common.console()
    console.print(
        f"{model} of {tenant}: version {found.challenger.version} beside version {found.production.version} "
        f"in production, looked at {found.looked_at:%Y-%m-%d %H:%M} UTC",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(Column(no_wrap=True), Column(overflow="fold"), box=None, show_header=False, pad_edge=False)
    for name, fact in found.facts().items():
        table.add_row(name, fact)
    console.print(table)


@app.command()
def history(
    model: Model,
    *,
    tenant: Tenant,
    version: Annotated[str | None, typer.Option(help="only this version")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="at most this many rows")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show who moved which version when and why, newest first."""
    from ai_hub.registry import versions

    rows = versions.history(tenant, model, version=version, limit=limit)
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    table = Table(Column("when (UTC)", no_wrap=True), "version", "stage", "who", "why", box=SIMPLE_HEAD)
    for row in rows:
        moved = f"{row.from_stage} → {row.to_stage}" if row.from_stage else row.to_stage
        table.add_row(f"{row.at:%Y-%m-%d %H:%M:%S}", version_label(row), moved, _who(row), row.reason or "-")
    common.console().print(table if rows else f"Nothing is recorded about {model} of {tenant}.")


@app.command()
def production(
    model: Model,
    *,
    tenant: Tenant,
    at: Annotated[str | None, typer.Option(help="a time, in UTC if it names no zone; default: now")] = None,
    as_json: AsJson = False,
) -> None:
    """Show which version was in Production at a time, since when, and who put it there and why."""
    from ai_hub.registry import versions

    when = parse_time(at, "--at") if at else datetime.now(UTC)
    row = versions.production_at(tenant, model, when)
    if row is None:
        raise NotFoundError(
            f"No version of {model} of {tenant} was in Production at {_utc(when)}.",
            hint=f"`ai-hub history {model} --tenant {tenant}` shows every move.",
        )
    if as_json:
        _print_json(asdict(row))
        return
    console = common.console(soft_wrap=True)
    console.print(
        f"{model} {version_label(row)}, in Production since {row.at:%Y-%m-%d %H:%M:%S} UTC", highlight=False
    )
    console.print(f"by {_who(row)}: {row.reason or 'no reason given'}", highlight=False)


@app.command()
def models(
    *,
    tenant: Tenant,
    model: Annotated[str | None, typer.Option(help="only this model")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="at most this many, the newest [default: 50; with --json all]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the tenant's registered versions with stage, semantic version and metrics."""
    from ai_hub.registry import versions

    if as_json:
        _print_json([asdict(item) for item in versions.list_versions(tenant, model, limit=limit)])
        return
    limit = limit or _LISTED
    # one more tells whether there are more
    listed = versions.list_versions(tenant, model, limit=limit + 1)
    if has_more := len(listed) > limit:
        listed.remove(min(reversed(listed), key=lambda item: item.registered_at))
    fold = Column("model", overflow="fold")
    table = Table(fold, "version", "semantic", "stage", "metrics", "registered", box=SIMPLE_HEAD)
    styles = {"Production": "bold green", "Staging": "yellow", "Archived": "dim"}
    for item in listed:
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in sorted(item.metrics.items()))
        table.add_row(
            item.model,
            str(item.version),
            item.semantic_version or "-",
            item.stage,
            metrics or "-",
            f"{item.registered_at:%Y-%m-%d}",
            style=styles.get(item.stage),
        )
    common.console().print(table if listed else f"Tenant {tenant} has no registered models.")
    if has_more:
        typer.echo(f"These are the newest {limit} versions; --limit shows more.")


def _print_move(move: Move, *, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(move))
        return
    console = common.console(soft_wrap=True)
    for row in (move.own, *move.displaced):
        console.print(
            f"{move.model} {version_label(row)}: {row.from_stage} →",
            Text(row.to_stage, "bold"),
            highlight=False,
        )
    if not move.displaced and move.own.to_stage == "Production":
        console.print("Nothing was in Production before.")


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _who(row: Transition | Comment) -> str:
    return row.actor if row.actor_source != "claimed" else f"{row.actor} (claimed)"


def version_label(row: Transition | Comment | Assessment) -> str:
    """Number of a version, with its semantic version."""
    return f"{row.version} ({row.semantic_version})" if row.semantic_version else str(row.version)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


@app.command()
def request(
    model: Model,
    *,
    tenant: Tenant,
    reason: Annotated[str, typer.Option("--reason", "-r", help="why; approvers read it", show_default=False)],
    version: Version = "latest",
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="take the request back, or decline it as an approver")
    ] = False,
) -> None:
    """Request that the tenant's approvers promote a version in Staging."""
    from ai_hub.registry import discussions

    send = discussions.withdraw_request if withdraw else discussions.request_promotion
    comment = send(tenant, model, reason, version)
    outcome = "withdrawn" if withdraw else "requested"
    typer.echo(f"{model} {version_label(comment)}: promotion {outcome}")


@app.command("requests")
def requests_command(*, tenant: Tenant, as_json: AsJson = False) -> None:
    """List open requests for promotion, oldest first."""
    from ai_hub.registry import discussions

    requests = discussions.requests(tenant)
    if as_json:
        _print_json([asdict(row) for row in requests])
        return
    table = Table(
        Column("when (UTC)", no_wrap=True), Column("model", overflow="fold"), "version", "who", "why",
        box=SIMPLE_HEAD,
    )  # fmt: skip
    for request in requests:
        at = f"{request.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(at, request.model, version_label(request), _who(request), request.text)
    common.console().print(table if requests else f"No promotion is requested in {tenant}.")


@app.command("comment")
def comment_command(
    model: Model,
    text: Annotated[str, typer.Argument(help="text of the comment", show_default=False)],
    *,
    tenant: Tenant,
    version: Version = "latest",
) -> None:
    """Add a comment to a version's thread."""
    from ai_hub.registry import discussions

    comment = discussions.comment(tenant, model, text, version)
    typer.echo(f"{model} {version_label(comment)}: comment added")


@app.command("comments")
def comments_command(
    model: Model, *, tenant: Tenant, version: Version = "latest", as_json: AsJson = False
) -> None:
    """Show the comments on a version, oldest first, with requests for promotion."""
    from ai_hub.registry import discussions

    thread = discussions.comments(tenant, model, version)
    if as_json:
        _print_json([asdict(row) for row in thread])
        return
    table = Table(Column("when (UTC)", no_wrap=True), "who", "what", "text", box=SIMPLE_HEAD)
    for comment in thread:
        table.add_row(f"{comment.at:%Y-%m-%d %H:%M:%S}", _who(comment), comment.kind, comment.text)
    common.console().print(table if thread else f"There are no comments on this version of {model}.")
