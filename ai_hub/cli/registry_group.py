"""`ai-hub registry`: versions between servers and tenants, and who hears of promotions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ai_hub.cli import plain
from ai_hub.cli.main import app

registry_app = typer.Typer(
    name="registry",
    no_args_is_help=True,
    help="The registry as a whole: adoption, versions between servers and tenants, who hears of promotions.",
)
app.add_typer(registry_app)

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@registry_app.command("export")
def export_version(
    target: Annotated[Path, typer.Argument(help="FILE.zip, or a folder to make", show_default=False)],
    *,
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="whose model", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="its name", show_default=False)],
    version: Annotated[
        str, typer.Option(help="a number, a semantic version, a stage, or latest: the newest in Staging")
    ] = "production",
    as_json: AsJson = False,
) -> None:
    """Write a version with its files, metrics, lineage and audit trail to a file or folder."""
    from ai_hub.registry import transfer

    done = transfer.export_version(tenant, model, version, target)
    if as_json:
        told = {"version": done.version.version, "semantic_version": done.version.semantic_version}
        counts = {"files": done.files, "size_bytes": done.size_bytes, "sha256": done.sha256}
        typer.echo(json.dumps({"target": str(target), **told, **counts}, indent=2))
        return
    typer.echo(
        f"{model} {done.version.version} ({done.version.semantic_version}) of {tenant}: "
        f"{done.files} files, {done.size_bytes:,} bytes → {target}"
    )
    typer.echo(f"sha256 {done.sha256}")


@registry_app.command("import")
def import_version(
    source: Annotated[Path, typer.Argument(help="what `export` wrote", show_default=False)],
    *,
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="who gets it", show_default=False)],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="its name there; default: as it was")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="its semantic version there, or next; default: as it was")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="what `export` printed; another export is refused")
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", "-r", help="why; kept in the audit trail")] = None,
    as_json: AsJson = False,
) -> None:
    """Register an exported version in Staging, every byte of it checked; again, it does nothing."""
    from ai_hub.registry import transfer

    done = transfer.import_version(source, tenant, model=model, version=version, sha256=sha256, reason=reason)
    if as_json:
        typer.echo(json.dumps({**asdict(done), "origin": done.origin.model_dump()}, indent=2))
        return
    label = f"{done.model} {done.version} ({done.semantic_version}) of {done.tenant}"
    if done.is_new:
        typer.echo(f"{label} is in {done.stage}. It was {done.origin}.")
    else:
        typer.echo(f"{label} is this version already, in {done.stage}. Nothing was imported.")


@registry_app.command("notifications")
def notifications(
    *,
    test: Annotated[
        bool, typer.Option("--test", help="send each receiver a message that says nothing")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show who hears of promotions, and what has not arrived; for the administrator."""
    from ai_hub.registry.discussions import receivers

    found = receivers(test=test)
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in found], indent=2))
        return
    table = Table("receiver", "tenant", "hears of", "waiting", "failed", "last error", box=SIMPLE_HEAD)
    for item in found:
        kinds = ", ".join(item.kinds) if item.is_set else "nothing: it is set no longer"
        table.add_row(
            item.receiver, item.tenant or "all", kinds, str(item.waiting), str(item.failed), item.error or "-"
        )
    plain.console().print(table if found else "Nobody hears of promotions: NOTIFY_RECEIVERS is not set.")
