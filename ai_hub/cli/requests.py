"""`ai-hub request | requests | comment | comments`: asking for a promotion, and talking about a version."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ai_hub.cli import plain
from ai_hub.cli.main import app
from ai_hub.cli.registry import AsJson, Model, Tenant

if TYPE_CHECKING:
    from ai_hub.registry.discussions import Comment

Version = Annotated[str, typer.Option(help="a number, a semantic version, or latest: the newest in Staging")]


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
    """Ask the tenant's approvers to promote a version in Staging."""
    from ai_hub.registry import discussions

    ask = discussions.withdraw_request if withdraw else discussions.request_promotion
    said = ask(tenant, model, reason, version)
    done = "withdrawn" if withdraw else "requested"
    plain.console(soft_wrap=True).print(f"{model} {_label(said)}: promotion {done}", highlight=False)


@app.command("requests")
def requests_command(*, tenant: Tenant, as_json: AsJson = False) -> None:
    """List the requests that wait for the tenant's approvers, the oldest first."""
    from ai_hub.registry import discussions

    waiting = discussions.requests(tenant)
    if as_json:
        _print_json(waiting)
        return
    table = Table(
        Column("when (UTC)", no_wrap=True), Column("model", overflow="fold"), "version", "who", "why",
        box=SIMPLE_HEAD,
    )  # fmt: skip
    for said in waiting:
        table.add_row(f"{said.at:%Y-%m-%d %H:%M:%S}", said.model, _label(said), _who(said), said.text)
    plain.console().print(table if waiting else f"Nobody asks for a promotion in {tenant}.")


@app.command("comment")
def comment_command(
    model: Model,
    text: Annotated[str, typer.Argument(help="what to say", show_default=False)],
    *,
    tenant: Tenant,
    version: Version = "latest",
) -> None:
    """Add a comment to a version's thread."""
    from ai_hub.registry import discussions

    said = discussions.comment(tenant, model, text, version)
    plain.console(soft_wrap=True).print(f"{model} {_label(said)}: comment added", highlight=False)


@app.command("comments")
def comments_command(
    model: Model, *, tenant: Tenant, version: Version = "latest", as_json: AsJson = False
) -> None:
    """Show what was said about a version, the oldest first, requests for promotion included."""
    from ai_hub.registry import discussions

    thread = discussions.comments(tenant, model, version)
    if as_json:
        _print_json(thread)
        return
    table = Table(Column("when (UTC)", no_wrap=True), "who", "what", "text", box=SIMPLE_HEAD)
    for said in thread:
        table.add_row(f"{said.at:%Y-%m-%d %H:%M:%S}", _who(said), said.kind, said.text)
    plain.console().print(table if thread else f"Nothing is said about this version of {model}.")


def _who(said: Comment) -> str:
    return said.actor if said.actor_source != "claimed" else f"{said.actor} (claimed)"


def _label(said: Comment) -> str:
    return f"{said.version} ({said.semantic_version})" if said.semantic_version else str(said.version)


def _print_json(found: list[Comment]) -> None:
    rows = [{**asdict(said), "at": said.at.isoformat()} for said in found]
    typer.echo(json.dumps(rows, indent=2))
