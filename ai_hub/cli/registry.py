"""`ai-hub registry`: adoption, versions between servers and tenants, and who hears of promotions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app

if TYPE_CHECKING:
    from ai_hub.registry.adoption import ModelPlan, VersionPlan


registry_app = typer.Typer(
    name="registry",
    no_args_is_help=True,
    help="Adoption, versions between servers and tenants, receivers of notifications.",
)
app.add_typer(registry_app)


@registry_app.command("export")
def export_version(
    target: Annotated[Path, typer.Argument(help="FILE.zip, or a folder to make", show_default=False)],
    *,
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="tenant of the model", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="its name", show_default=False)],
    version: Annotated[
        str, typer.Option(help="a number, a semantic version, a stage, or latest: the newest in Staging")
    ] = "production",
    as_json: AsJson = False,
) -> None:
    """Write a version with its files, metrics, lineage and audit trail to a file or folder."""
    from ai_hub.registry import transfer

    exported = transfer.export_version(tenant, model, version, target)
    if as_json:
        fields = {"version": exported.version.version, "semantic_version": exported.version.semantic_version}
        counts = {"files": exported.files, "size_bytes": exported.size_bytes, "sha256": exported.sha256}
        typer.echo(json.dumps({"target": str(target), **fields, **counts}, indent=2))
        return
    typer.echo(
        f"{model} {exported.version.version} ({exported.version.semantic_version}) of {tenant}: "
        f"{exported.files} files, {exported.size_bytes:,} bytes → {target}"
    )
    typer.echo(f"sha256 {exported.sha256}")


@registry_app.command("import")
def import_version(
    source: Annotated[Path, typer.Argument(help="file or folder that `export` wrote", show_default=False)],
    *,
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="tenant that gets it", show_default=False)],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="new name of the model; default: unchanged")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="new semantic version, or next; default: unchanged")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="what `export` printed; another export is refused")
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", "-r", help="why; kept in the audit trail")] = None,
    as_json: AsJson = False,
) -> None:
    """Register an exported version in Staging after verifying its checksums. Safe to repeat."""
    from ai_hub.registry import transfer

    imported = transfer.import_version(
        source, tenant, model=model, version=version, sha256=sha256, reason=reason
    )
    if as_json:
        typer.echo(json.dumps({**asdict(imported), "origin": imported.origin.model_dump()}, indent=2))
        return
    label = f"{imported.model} {imported.version} ({imported.semantic_version}) of {imported.tenant}"
    if imported.is_new:
        typer.echo(f"{label} is in {imported.stage}. It was {imported.origin}.")
    else:
        typer.echo(f"{label} is this version already, in {imported.stage}. Nothing was imported.")


@registry_app.command("notifications")
def notifications(
    *,
    test: Annotated[bool, typer.Option("--test", help="send each receiver a test message")] = False,
    as_json: AsJson = False,
) -> None:
    """List who is notified of promotions, with undelivered messages; for the administrator."""
    from ai_hub.registry.discussions import receivers

    rows = receivers(test=test)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table("receiver", "tenant", "hears of", "waiting", "failed", "last error", box=SIMPLE_HEAD)
    for row in rows:
        kinds = ", ".join(row.kinds) if row.is_set else "nothing: it is set no longer"
        table.add_row(
            row.receiver, row.tenant or "all", kinds, str(row.waiting), str(row.failed), row.error or "-"
        )
    common.console().print(
        table if rows else "Nobody is notified of promotions: NOTIFY_RECEIVERS is not set."
    )


@registry_app.command("adopt")
def adopt(
    *,
    registry_store_uri: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_REGISTRY_STORE_URI",
            help="the registry's database; default: --backend-store-uri",
            show_default=False,
        ),
    ] = None,
    backend_store_uri: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_BACKEND_STORE_URI", help="database of runs and logged models", show_default=False
        ),
    ] = None,
    artifacts_destination: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_ARTIFACTS_DESTINATION",
            help="where the server is going to keep artifacts; default: minio://MODEL_STORAGE_BUCKET",
            show_default=False,
        ),
    ] = None,
    default_artifact_root: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_DEFAULT_ARTIFACT_ROOT",
            help="of a server with --no-serve-artifacts",
            show_default=False,
        ),
    ] = None,
    enable_workspaces: Annotated[
        bool,
        typer.Option(
            "--enable-workspaces/--disable-workspaces",
            envvar="MLFLOW_ENABLE_WORKSPACES",
            help="whether the server is going to have workspaces",
        ),
    ] = True,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="only the models of this one")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be done")] = False,
    as_json: AsJson = False,
) -> None:
    """Adopt versions of plain MLflow: one in production, files verified, every change in the audit trail.

    Takes what `mlflow server` takes. Run it while nobody changes the registry; models load throughout.
    After a kill, the same command resumes; where all is adopted, it changes nothing.
    """
    from ai_hub.errors import BadInputError
    from ai_hub.registry import adoption

    settings = common.settings()
    backend = backend_store_uri or settings.environment().get("MLFLOW_BACKEND_STORE_URI")
    registry = registry_store_uri or backend
    if registry is None:
        raise BadInputError(
            "No registry is given.",
            hint="Give --registry-store-uri, as `mlflow server` has it: postgresql://…",
        )
    if artifacts_destination is None and default_artifact_root is None:
        artifacts_destination = f"minio://{settings.model_storage_bucket}"
    plans = adoption.adopt(
        registry,
        backend,
        artifacts_destination=artifacts_destination,
        default_artifact_root=default_artifact_root,
        workspaces=enable_workspaces,
        tenant=tenant,
        dry_run=dry_run,
    )
    if as_json:
        models = [{**asdict(plan), "changes": plan.changes} for plan in plans]
        typer.echo(json.dumps({"adopted": not dry_run, "models": models}, indent=2))
        return
    shown = []
    for plan in plans:
        shown.append(plan)
        _show(plan)
    typer.echo(_summary(shown, dry_run=dry_run))


def _show(model: ModelPlan) -> None:
    console = common.console(soft_wrap=True)
    console.print(f"{model.model} of {model.tenant}", highlight=False, markup=False)
    for version in model.versions:
        console.print(f"  {_line(version)}", highlight=False, markup=False)
        if version.problem:
            console.print(f"    no manifest: {version.problem}", highlight=False, markup=False)
    for alias, (before, after) in model.aliases.items():
        moved = " → ".join("none" if target is None else str(target) for target in (before, after))
        console.print(f"  @{alias}: {moved}", highlight=False, markup=False)


def _line(version: VersionPlan) -> str:
    stage = version.from_stage
    if version.to_stage != version.from_stage:
        stage += f" → {version.to_stage}"
    number = version.number
    if version.from_number not in {None, number, number.removeprefix("v")}:
        number += f" (was {version.from_number})"
    files = f", {version.files} files, {version.size_bytes:,} bytes" if version.files else ""
    return f"version {version.version}: {stage}, {number}{files}"


def _summary(models: list[ModelPlan], *, dry_run: bool) -> str:
    from mlflow_plugins.adoption.unadopted import counted

    versions = [version for model in models for version in model.versions]
    todo = [version for version in versions if not version.is_known or version.problem is None]
    unverified = sum(version.problem is not None for version in versions)
    rest = f" {unverified} without a manifest, loading as before." if unverified else ""
    if not todo:
        return f"There is nothing to adopt.{rest}"
    changed = sum(model.changes for model in models)
    count = counted(len(todo), changed)
    if dry_run:
        return f"To adopt: {count}.{rest} Nothing was changed. Leave --dry-run out to do it."
    return f"Adopted: {count}.{rest}"
