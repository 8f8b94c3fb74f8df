"""`ai-hub lineage`: from files over training sets and versions to forecasts and scores, and back."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ai_hub.cli import common
from ai_hub.cli.common import AsJson
from ai_hub.cli.main import app
from ai_hub.errors import BadInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai_hub.forecasting.lineage import Lineage, TrainedVersion


@app.command("lineage")
def lineage_command(
    model: Annotated[
        str | None, typer.Argument(help="registered model: files behind a version, and its forecasts")
    ] = None,
    *,
    tenant: Annotated[str, typer.Option("--tenant", help="tenant of the data and models")],
    version: Annotated[
        str, typer.Option("--version", help="number, semantic version or stage of the model")
    ] = "production",
    forecast: Annotated[
        UUID | None, typer.Option("--forecast", help="run of the forecast log: its version and files")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", help="name or SHA-256 of an ingested file, or import id: what was made of it"),
    ] = None,
    asset: Annotated[
        str | None, typer.Option("--asset", help="meter: its files and what was made of them")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where a version or a forecast comes from, or what was made of a file or a meter.

    Says where the chain is broken, such as readings that SQL has written.
    """
    if sum(each is not None for each in (model, forecast, file, asset)) != 1:
        raise BadInputError(
            "A lineage is of one thing.", hint="Give a model, or --forecast, or --file, or --asset."
        )
    found = _find(tenant, model, version, forecast=forecast, file=file, asset=asset)
    if as_json:
        from ai_hub.api.schemas.lineage import LineageOf

        typer.echo(json.dumps(LineageOf.of(tenant, found).model_dump(mode="json"), indent=2))
        return
    for line in _lines(found):
        typer.echo(line)


def _find(
    tenant: str,
    model: str | None,
    version: str,
    *,
    forecast: UUID | None,
    file: str | None,
    asset: str | None,
) -> Lineage:
    from ai_hub.db.transactions import transaction
    from ai_hub.forecasting import lineage

    settings = common.settings()
    if model is not None:
        trained = lineage.trained_version(tenant, model, version)
        with transaction(settings, tenant) as connection:
            return lineage.of_version(connection, trained)
    if forecast is not None:
        from ai_hub.forecasting import log

        with transaction(settings, tenant) as connection:
            run = log.find_run(connection, tenant, forecast)
        of_run: TrainedVersion | None = None
        if run.version is not None:
            with suppress(NotFoundError):  # the lineage says so
                of_run = lineage.trained_version(tenant, run.model, run.version)
        with transaction(settings, tenant) as connection:
            return lineage.of_forecast(connection, run, of_run)
    every = lineage.trained_versions(tenant)
    with transaction(settings, tenant) as connection:
        if file is not None:
            imported = lineage.find_import(connection, tenant, file)
            return lineage.of_import(connection, tenant, imported, every)
        return lineage.of_asset(connection, tenant, str(asset), every)


def _lines(found: Lineage) -> Iterator[str]:
    for imported in found.imports:
        rows = "not finished" if imported.row_count is None else f"{imported.row_count:,} rows"
        yield (
            f"file      {imported.file_name}, {rows} of {imported.table_name}, "
            f"{imported.started_at:%Y-%m-%d %H:%MZ}, sha256 {imported.sha256[:12]}, "
            f"import {imported.import_id}"
        )
    for trained in found.versions:
        version = trained.version
        yield (
            f"version   {version.model} {version.semantic_version or '-'} (version {version.version}), "
            f"{version.stage}, run {version.run_id or '-'}"
        )
        if training := trained.training_set:
            yield (
                f"  trained on {', '.join(training.tables)}: {training.rows:,} rows of "
                f"{len(training.assets):,} meters, {training.start:%Y-%m-%d %H:%MZ} to "
                f"{training.end:%Y-%m-%d %H:%MZ}, known at {training.known_at:%Y-%m-%d %H:%M:%SZ}"
            )
    for forecasts in found.forecasts:
        yield (
            f"forecasts {forecasts.model} version {forecasts.version or '-'}, {forecasts.role}: "
            f"{forecasts.runs:,} runs, {forecasts.first_issued_at:%Y-%m-%d %H:%MZ} to "
            f"{forecasts.last_issued_at:%Y-%m-%d %H:%MZ}"
        )
    for score in found.scores:
        yield (
            f"scores    {score.model} version {score.version or '-'}, {score.role}: MAE {score.mae:.3f} "
            f"over {score.hours:,} hours"
        )
    for gap in found.gaps:
        yield f"gap       {gap}"
