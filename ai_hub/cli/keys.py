"""`ai-hub keys`: who may use the REST service."""

from __future__ import annotations

import getpass
import json
import re
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from ai_hub.access.principal import (
    SCOPES,
    Scope,
)
from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app
from ai_hub.errors import BadInputError
from mlflow_plugins.users.roles import Role

if TYPE_CHECKING:
    from ai_hub.access.api_keys import ApiKey

keys_app = typer.Typer(
    name="keys", no_args_is_help=True, help="Keys of the REST service, each of some tenants."
)
app.add_typer(keys_app)

_PERIOD = re.compile(r"(\d{1,5})([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


@keys_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="name of its user, for logs and lists", show_default=False)],
    *,
    tenant: Annotated[list[str], typer.Option("--tenant", "-t", help="tenant it opens; may be repeated")],
    role: Annotated[
        Role | None, typer.Option("--role", help="the scopes of viewers, engineers or approvers")
    ] = None,
    scope: Annotated[
        list[Scope] | None, typer.Option("--scope", help="a single scope; may be repeated")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="in 90d, 12h or 30m; default: never")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and show it, this once."""
    from ai_hub.access import api_keys

    scopes = {*(scope or ()), *(SCOPES[role] if role else ())}
    key, text = api_keys.create(
        name, tenant, scopes, expires_in=_period(expires), created_by=getpass.getuser()
    )
    if as_json:
        typer.echo(json.dumps({"key": str(text), **_plain(key)}))
        return
    typer.echo(text)
    # apart from the key, so that `KEY=$(ai-hub keys create …)` holds nothing else
    console = common.console(stderr=True, soft_wrap=True, highlight=False)
    until = f"until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "until it is revoked"
    console.print(f"{key.name} may {', '.join(key.scopes)} in {', '.join(key.tenants)}, {until}.")
    console.print("Keep it now: only its SHA-256 is stored, and it cannot be shown again.")


@keys_app.command("list")
def list_keys(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="only those of this tenant")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="show at most this many")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Show the keys, newest first, without their secrets."""
    from ai_hub.access import api_keys

    keys = api_keys.keys(tenant, limit=limit + 1)
    if len(keys) > limit:
        keys = keys[:limit]
        typer.echo(f"These are the newest {limit}; --limit shows more.", err=True)
    if as_json:
        typer.echo(json.dumps([_plain(key) for key in keys], indent=2))
        return
    wide = (Column(title, overflow="fold") for title in ("tenants", "scopes"))
    table = Table("id", "name", *wide, "state", "expires", box=SIMPLE_HEAD)
    for key in keys:
        expires = f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "never"
        table.add_row(key.key_id, key.name, ", ".join(key.tenants), ", ".join(key.scopes), key.state, expires)
    common.console().print(table if keys else "There are no keys.")


@keys_app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="id of the key, as `list` shows it", show_default=False)],
) -> None:
    """Revoke a key; a running service refuses it within seconds (AI_HUB_API_KEYS_REFRESH_S)."""
    from ai_hub.access import api_keys

    pasted = api_keys.parse(key_id)
    key, was_active = api_keys.revoke(pasted.key_id if pasted else key_id)
    typer.echo(f"{key.key_id} ({key.name}): {'revoked' if was_active else f'was {key.state} already'}")


@keys_app.command("sql-login")
def sql_login(
    tenant: Annotated[str, typer.Argument(help="tenant whose rows it reads", show_default=False)],
    *,
    revoke_it: Annotated[bool, typer.Option("--revoke", help="delete the tenant's login")] = False,
) -> None:
    """Give a tenant a login that reads its own rows by SQL; prints its address with a new password."""
    from ai_hub.access import sql_logins

    dsn = common.settings().require("timescale_dsn")

    if revoke_it:
        revoked = sql_logins.revoke(tenant, dsn=dsn)
        state = f"shut out, but not deleted: {revoked.left}" if revoked.left else "deleted"
        typer.echo(f"{revoked.login}: {state}")
        return
    granted = sql_logins.grant(tenant, dsn=dsn)
    typer.echo(granted.dsn)
    if granted.left_open:
        typer.echo(
            f"{', '.join(granted.left_open)}: open to {granted.login}, and not ours to close", err=True
        )


def _period(text: str | None) -> timedelta | None:
    if text is None:
        return None
    match = _PERIOD.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise BadInputError(f"{text!r} is not a period.", hint="Write 90d, 12h or 30m.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _plain(key: ApiKey) -> dict[str, object]:
    plain = asdict(key)
    times = ("created_at", "expires_at", "revoked_at")
    return plain | {name: plain[name].isoformat() if plain[name] else None for name in times}
