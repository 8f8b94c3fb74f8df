"""`ai-hub people`: users of the registry and their roles by tenant."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app
from ai_hub.cli.models import Tenant
from mlflow_plugins.users.roles import DESCRIPTIONS, Role

people_app = typer.Typer(
    name="people",
    no_args_is_help=True,
    help="Users of the registry and their roles by tenant. You log in as the administrator by "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
)
app.add_typer(people_app)

_PASSWORD = "AI_HUB_NEW_PASSWORD"  # noqa: S105 - the name of a variable
_ROLES = "; ".join(f"{role}: {text.rstrip('.').lower()}" for role, text in DESCRIPTIONS.items())
User = Annotated[str, typer.Argument(help="the name they log in with", show_default=False)]


@people_app.command("add")
def add(user: User) -> None:
    """Create a user, or set a new password for one. Asks for it, or takes AI_HUB_NEW_PASSWORD."""
    from ai_hub.registry import users

    password = os.environ.get(_PASSWORD) or typer.prompt(
        f"Password of {user}", hide_input=True, confirmation_prompt=True
    )
    typer.echo(f"{user}: {'added' if users.add(user, password) else 'was there; the password is new'}")


@people_app.command("remove")
def remove(user: User) -> None:
    """Delete a user with all their roles; what they did stays in the audit trail."""
    from ai_hub.registry import users

    typer.echo(f"{user}: {'removed' if users.remove(user) else 'there was nobody by that name'}")


@people_app.command("grant")
def grant(
    user: User,
    *,
    tenant: Tenant,
    role: Annotated[Role, typer.Option("--role", help=_ROLES, show_default=False)],
    new_tenant: Annotated[
        bool, typer.Option("--new-tenant", help="create the tenant if it is missing")
    ] = False,
) -> None:
    """Give a user a role in a tenant, in place of the one they had there."""
    from ai_hub import registry
    from ai_hub.registry import users

    if new_tenant:
        registry.ensure_tenant(tenant)
    users.grant(user, tenant, role)
    typer.echo(f"{user}: {role} of {tenant}")


@people_app.command("revoke")
def revoke(user: User, *, tenant: Tenant) -> None:
    """Take a user's role in a tenant away."""
    from ai_hub.registry import users

    had = users.revoke(user, tenant)
    typer.echo(
        f"{user}: no longer {' and '.join(had)} of {tenant}" if had else f"{user}: had no role in {tenant}"
    )


@people_app.command("list")
def list_people(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="only those with a role in it")] = None,
    as_json: AsJson = False,
) -> None:
    """Show every user and their roles."""
    from ai_hub.registry import users

    found = users.list_users(tenant)
    if as_json:
        typer.echo(json.dumps([asdict(user) for user in found], indent=2))
        return
    table = Table("user", Column("roles", overflow="fold"), box=SIMPLE_HEAD)
    for user in found:
        roles = [f"{name} of {place}" for place, names in sorted(user.roles.items()) for name in names]
        table.add_row(user.name, ", ".join(["administrator"] * user.is_admin + roles) or "-")
    common.console().print(table if found else f"Nobody has a role in {tenant}.")


@people_app.command("s3-policy")
def s3_policy(
    tenant: Annotated[str, typer.Argument(help="tenant of the folder", show_default=False)],
) -> None:
    """Print the S3 policy of a key that reads one tenant's folder and nothing else."""
    from ai_hub.registry.tenants import read_policy

    typer.echo(json.dumps(read_policy(tenant, common.settings().model_storage_bucket), indent=2))
