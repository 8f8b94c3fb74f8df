"""`ai-hub registry adopt`: bring a registry that plain MLflow made into one consistent state."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ai_hub.cli import context, plain
from ai_hub.cli.registry_group import registry_app

if TYPE_CHECKING:
    from ai_hub.registry.adoption import ModelPlan, VersionPlan


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
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Adopt versions of plain MLflow: one in production, files verified, every change in the audit trail.

    Takes what `mlflow server` takes. Run it while nobody changes the registry; models load throughout.
    Killed midway, the same command goes on; where all is adopted, it changes nothing.
    """
    from ai_hub.errors import BadInputError
    from ai_hub.registry import adoption

    settings = context.settings()
    backend = backend_store_uri or settings.environment().get("MLFLOW_BACKEND_STORE_URI")
    registry = registry_store_uri or backend
    if registry is None:
        raise BadInputError(
            "Which registry?", hint="Give --registry-store-uri, as `mlflow server` has it: postgresql://…"
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
        models = [{**asdict(each), "changes": each.changes} for each in plans]
        typer.echo(json.dumps({"adopted": not dry_run, "models": models}, indent=2))
        return
    found = []
    for each in plans:
        found.append(each)
        _show(each)
    typer.echo(_summary(found, dry_run=dry_run))


def _show(model: ModelPlan) -> None:
    console = plain.console(soft_wrap=True)
    console.print(f"{model.model} of {model.tenant}", highlight=False, markup=False)
    for version in model.versions:
        console.print(f"  {_line(version)}", highlight=False, markup=False)
        if version.problem:
            console.print(f"    no manifest: {version.problem}", highlight=False, markup=False)
    for alias, (before, after) in model.aliases.items():
        moved = " → ".join("none" if each is None else str(each) for each in (before, after))
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
    todo = [each for each in versions if not each.is_known or each.problem is None]
    unverified = sum(each.problem is not None for each in versions)
    rest = f" {unverified} without a manifest, loading as before." if unverified else ""
    if not todo:
        return f"There is nothing to adopt.{rest}"
    changed = sum(model.changes for model in models)
    count = counted(len(todo), changed)
    if dry_run:
        return f"To adopt: {count}.{rest} Nothing was changed. Leave --dry-run out to do it."
    return f"Adopted: {count}.{rest}"
