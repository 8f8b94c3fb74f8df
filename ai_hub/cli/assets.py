"""`ai-hub asset` and `ai-hub readings`: the register of assets, and the removal of assets and readings."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ai_hub.cli import common
from ai_hub.cli.common import AsJson, parse_time
from ai_hub.cli.ingest_options import Digits, ReadingOption, Tenant, duration_option, whole_interval
from ai_hub.cli.main import app
from ai_hub.errors import BadInputError
from ai_hub.ingest.options import AssetKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.ingest.removal import Preview


asset_app = typer.Typer(no_args_is_help=True, help="The register of meters and weather stations.")
readings_app = typer.Typer(no_args_is_help=True, help="Remove readings, and see what was removed.")
app.add_typer(asset_app, name="asset")
app.add_typer(readings_app, name="readings")

Reason = Annotated[str, typer.Option("--reason", help="why; kept with who and when")]
Yes = Annotated[bool, typer.Option("--yes", help="do it; without it, only show what would be deleted")]


@asset_app.command("add")
def asset_add(
    asset: Annotated[str, typer.Argument(help="id of the meter or weather station", show_default=False)],
    *,
    tenant: Tenant,
    kind: Annotated[AssetKind | None, typer.Option("--kind", help="what it measures")] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="unit of its values, such as kWh")] = None,
    reading: ReadingOption = None,
    digits: Digits = None,
    interval: Annotated[
        str | None,
        typer.Option("--interval", metavar="15m", help="that a reading covers, if it does not say so"),
    ] = None,
    timezone: Annotated[str | None, typer.Option("--timezone", help="such as Europe/London")] = None,
    weather_from: Annotated[
        str | None, typer.Option("--weather-from", help="asset whose weather it uses")
    ] = None,
    price_zone: Annotated[
        str | None, typer.Option("--price-zone", help="such as DE-LU: whose prices it uses ('': none)")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="portfolio or site it is a member of ('': none)")
    ] = None,
    weather_station: Annotated[
        str | None, typer.Option("--weather-station", help="key of own tables by station ('': none)")
    ] = None,
    latitude: Annotated[float | None, typer.Option("--latitude", help="degrees north")] = None,
    longitude: Annotated[float | None, typer.Option("--longitude", help="degrees east")] = None,
    capacity: Annotated[
        float | None, typer.Option("--capacity", help="largest magnitude of one reading, in its unit")
    ] = None,
    available_after: Annotated[
        str | None,
        typer.Option(
            "--available-after", metavar="48h", help="when its readings arrive: forecasts use no later ones"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register an asset, or change the given attributes of a registered one."""
    from ai_hub.db import connect
    from ai_hub.ingest import assets

    values = {
        "kind": kind and kind.value,
        "unit": unit,
        "reading": reading and reading.value,
        "register_digits": digits,
        "interval_seconds": interval and round(whole_interval(interval).total_seconds()),
        "timezone": timezone,
        "weather_asset_id": weather_from,
        "latitude": latitude,
        "longitude": longitude,
        "capacity": capacity,
        "available_after": available_after and duration_option(available_after, "--available-after"),
    }
    changes: dict[str, object] = {name: value for name, value in values.items() if value is not None}
    keys = {"price_zone": price_zone, "group": group, "weather_station": weather_station}
    changes |= {name: value or None for name, value in keys.items() if value is not None}
    with connect() as connection:
        stored = assets.save(connection, assets.validate_asset(tenant_id=tenant, asset_id=asset, **changes))
    if as_json:
        typer.echo(json.dumps(stored.model_dump(mode="json")))
    else:
        parts = [stored.kind, stored.unit or "no unit", stored.timezone]
        parts += [stored.reading.value] if stored.reading else []
        parts += [f"{stored.register_digits} digits"] if stored.register_digits else []
        parts += [f"every {stored.interval_seconds / 60:g} min"] if stored.interval_seconds else []
        parts += [f"available after {_hours(stored.available_after)}"] if stored.available_after else []
        parts += [f"{name.replace('_', ' ')} {key}" for name in keys if (key := getattr(stored, name))]
        typer.echo(f"{tenant}/{asset}: {', '.join(parts)}")


def _hours(duration: timedelta) -> str:
    return f"{duration / timedelta(hours=1):g} h"


@asset_app.command("list")
def asset_list(tenant: Tenant, as_json: AsJson = False) -> None:
    """List a tenant's assets."""
    from ai_hub.db import connect
    from ai_hub.ingest import assets

    with connect() as connection:
        registered, invalid = assets.find_all(connection, tenant)
    for asset_id, reason in invalid.items():
        typer.echo(f"Asset {asset_id!r} is invalid, correct its row by SQL: {reason}", err=True)
    if as_json:
        typer.echo(json.dumps([asset.model_dump(mode="json") for asset in registered.values()]))
        return
    table = Table(
        *("asset", "kind", "unit", "reading", "interval", "available after", "capacity", "timezone"),
        *("weather from", "keys"),
        title=f"Assets of {tenant}",
    )
    for asset in registered.values():
        capacity = "" if asset.capacity is None else f"{asset.capacity:g}"
        weather_from = asset.weather_asset_id or "itself"
        interval = f"{asset.interval_seconds / 60:g} min" if asset.interval_seconds else ""
        keys = (asset.price_zone, asset.group, asset.weather_station)
        available_after = _hours(asset.available_after) if asset.available_after else ""
        table.add_row(
            *(asset.asset_id, asset.kind, asset.unit or "", asset.reading or "", interval, available_after),
            *(capacity, asset.timezone, weather_from, ", ".join(filter(None, keys))),
        )
    common.console().print(table)


@readings_app.command("delete")
def readings_delete(
    *,
    tenant: Tenant,
    asset: Annotated[
        list[str] | None, typer.Option("--asset", help="only of this asset; may be repeated")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="first time, UTC if naive")] = None,
    end: Annotated[str | None, typer.Option("--to", help="not included, UTC if naive")] = None,
    reason: Reason,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete readings with what derives from them; earlier versions of features stay readable as of then."""
    from ai_hub.db import connect
    from ai_hub.ingest import removal

    if start is None and end is None:
        raise BadInputError("Give --from, --to or both.", hint="`ai-hub asset remove` removes a whole asset.")
    selection = removal.Selection(
        tenant,
        asset or None,
        None if start is None else parse_time(start, "--from"),
        None if end is None else parse_time(end, "--to"),
    )
    with connect(autocommit=True) as connection:
        if yes:
            result = removal.delete_readings(connection, selection, reason)
        else:
            result = removal.preview_readings(connection, selection)
    if yes:
        _renew(tenant, sorted({*result.readings, *(asset or ())}))
    _show(result, yes=yes, as_json=as_json)


@readings_app.command("log")
def readings_log(*, tenant: Tenant, as_json: AsJson = False) -> None:
    """List what was removed, by whom and why."""
    from ai_hub.db import connect
    from ai_hub.ingest import removal

    with connect() as connection:
        removals = removal.history(connection, tenant)
    if as_json:
        typer.echo(json.dumps(removals))
        return
    if not removals:
        typer.echo("Nothing was removed.")
        return
    table = Table("at", "what", "assets", "from", "to", "by", "reason", title=f"Removals of {tenant}")
    for removal_row in removals:
        assets = "all" if removal_row["assets"] is None else ", ".join(removal_row["assets"])
        what = f"{removal_row['kind']} {removal_row['step']}"
        table.add_row(
            removal_row["at"][:19],
            what,
            assets,
            removal_row["from"],
            removal_row["to"],
            removal_row["by"],
            removal_row["reason"],
        )
    common.console().print(table)


@asset_app.command("remove")
def asset_remove(
    *,
    tenant: Tenant,
    asset: Annotated[str, typer.Option("--asset", help="the asset")],
    reason: Reason,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove an asset with its readings, weather, features, versions, findings and rows in Redis.

    After a kill, the same command resumes.
    """
    from ai_hub.db import connect
    from ai_hub.errors import NotFoundError
    from ai_hub.ingest import removal

    with connect(autocommit=True) as connection:
        try:
            if yes:
                result = removal.remove_asset(connection, tenant, asset, reason)
            else:
                result = removal.preview_asset(connection, tenant, asset)
        except NotFoundError:
            # a call that was killed may have left rows in Redis
            if not yes or not removal.was_removed(connection, tenant, asset):
                raise
            result = removal.Preview({}, {})
    if yes:
        _renew(tenant, [asset], is_gone=True)
    _show(result, yes=yes, as_json=as_json)


def _renew(tenant: str, assets: Sequence[str], *, is_gone: bool = False) -> None:
    """Redis shows what is left."""
    from ai_hub.errors import NotFoundError, SettingMissingError
    from ai_hub.features.materialize import materialize
    from ai_hub.features.newest import Scope
    from ai_hub.features.store import delete_assets, open_store

    if not assets:
        return
    try:
        store = open_store()
        delete_assets(store, tenant, assets)
        if not is_gone:
            materialize(store, Scope([tenant], list(assets)))
    except (NotFoundError, SettingMissingError) as error:
        typer.echo(f"Redis was left alone: {error.message}", err=True)


def _show(result: Preview, *, yes: bool, as_json: bool) -> None:
    if as_json:
        readings = {
            asset: {"readings": rows, "hours": hours} for asset, (rows, hours) in result.readings.items()
        }
        counts = {
            "deleted": yes,
            "counts": dict(result.counts),
            "assets": readings,
            "exports": list(result.exports),
        }
        typer.echo(json.dumps(counts))
        return
    for asset, (rows, hours) in result.readings.items():
        typer.echo(f"  {asset}: {rows:,} readings in {hours:,} hours")
    what = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in result.counts.items() if count)
    typer.echo(f"{'Removed' if yes else 'Would remove'}: {what or 'nothing'}")
    for path in result.exports:
        typer.echo(f"Stays: export {path}")
    if not yes:
        typer.echo("Nothing was removed. Add --yes to do it.")
