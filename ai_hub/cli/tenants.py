"""`ai-hub tenants`: create, list, rename and remove tenants."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app

if TYPE_CHECKING:
    from ai_hub.tenants.removal import Contents

tenants_app = typer.Typer(
    name="tenants",
    no_args_is_help=True,
    help="Tenants: create, list, rename and remove them.",
)
app.add_typer(tenants_app)

Name = Annotated[str, typer.Argument(help="name of the tenant", show_default=False)]
RegistryOnly = Annotated[
    bool,
    typer.Option("--registry-only", help="for a registry without TimescaleDB, Redis and exports beside it"),
]


@tenants_app.command("list")
def list_tenants(*, as_json: AsJson = False) -> None:
    """Show the tenants of the registry and of TimescaleDB, and names that removed ones still hold."""
    from ai_hub.db import connect
    from ai_hub.db.retired import data_tenants
    from ai_hub.errors import ForbiddenError, SettingMissingError
    from ai_hub.registry import tenants as registry

    registered = registry.list_tenants()
    try:
        with connect() as connection:
            with_data = data_tenants(connection)
    except SettingMissingError:
        with_data = []
    try:
        removals = {row["workspace"]: row for row in registry.removed_tenants() if row["reserved"]}
    except ForbiddenError:  # of the administrator alone
        removals = {}
    rows = [
        {
            "tenant": name,
            "in_registry": name in registered,
            "has_data": name in with_data,
            "removal": removals.get(name),
        }
        for name in sorted({*registered, *with_data, *removals})
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("tenant", "registry", "data", Column("removal", overflow="fold"), box=SIMPLE_HEAD)
    for name in sorted({*registered, *with_data, *removals}):
        removal = removals.get(name)
        state = f"{removal['step']} by {removal['actor']}: {removal['reason'] or '-'}" if removal else ""
        table.add_row(name, "yes" if name in registered else "-", "yes" if name in with_data else "-", state)
    common.console().print(table if rows else "There are no tenants.")


@tenants_app.command("create")
def create(name: Name) -> None:
    """Create a tenant in the registry; a name that was used before starts empty."""
    from ai_hub.registry import tenants as registry

    registry.create_tenant(name)
    typer.echo(
        f"{name}: created. Give people a role in it: `ai-hub people grant USER --tenant {name} --role …`"
    )


@tenants_app.command("remove")
def remove(
    name: Name,
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", help="why; kept with who and when")],
    force: Annotated[bool, typer.Option("--force", help="also when a version is in Production")] = False,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="shut everybody out, and keep files, readings, features and exports"),
    ] = False,
    registry_only: RegistryOnly = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="do it; without it, only show what would be deleted")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a tenant: models, runs, files, roles, keys, SQL login, readings, features, exports and Redis.

    Without --yes only shows what would be removed. After a kill, the same command resumes.
    """
    from ai_hub.tenants import removal

    settings = common.settings()
    if not yes:
        _show(name, removal.contents(settings, name, registry_only=registry_only), as_json=as_json)
        return
    removed = removal.remove(
        settings,
        name,
        reason=reason,
        force=force,
        keep=keep,
        registry_only=registry_only,
        on_step=lambda step: typer.echo(f"  {step}", err=True),
    )
    if as_json:
        typer.echo(json.dumps({"tenant": name, "removed": not keep, "kept": keep, "counts": removed.counts}))
        return
    outcome = "is shut out; its data stays, and nobody gets its name" if keep else "is gone; its name is free"
    typer.echo(f"{name} {outcome}. It had: {_text(removed.counts)}")


@tenants_app.command("rename")
def rename(name: Name, new_name: Annotated[str, typer.Argument(help="new name")]) -> None:
    """Rename a tenant that has nothing yet; anything else carries its name for good, and says so."""
    from ai_hub.tenants import removal

    removal.rename(common.settings(), name, new_name)
    typer.echo(f"{name}: is {new_name} now. Roles of people were not moved.")


def _show(name: str, contents: Contents, *, as_json: bool) -> None:
    if as_json:
        typer.echo(
            json.dumps({"tenant": name, "removed": False, "counts": contents.counts, **asdict(contents)})
        )
        return
    for title, counts in (
        ("registry", contents.registry.counts),
        ("TimescaleDB", contents.database),
        ("exports and Redis", contents.elsewhere),
    ):
        typer.echo(f"  {title}: {_text(counts)}")
    if contents.registry.in_production:
        typer.echo(f"  in Production: {', '.join(contents.registry.in_production)} (needs --force)")
    if step := contents.registry.step:
        typer.echo(f"  its removal has begun: {step}")
    typer.echo("Nothing was removed. Add --yes to do it.")


def _text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in counts.items()) or "nothing"
