"""`ai-hub provision`: what outside servers must hold before anything can run on them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ai_hub.cli import context
from ai_hub.cli.main import app
from ai_hub.errors import ServiceDownError

if TYPE_CHECKING:
    from ai_hub.settings import Settings


@app.command()
def provision(
    *, as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False
) -> None:
    """Create the databases of MLflow and Feast and the bucket of models on your servers. Safe to repeat."""
    from ai_hub.database.provision import provision_databases
    from ai_hub.dev import status

    settings = context.settings()
    status.require("timescaledb", "s3", settings=settings)
    databases = provision_databases(settings)
    _ensure_bucket(settings)
    if as_json:
        found = {"databases": [asdict(each) for each in databases], "bucket": settings.model_storage_bucket}
        typer.echo(json.dumps(found))
        return
    for each in databases:
        where = "is on another server and left alone" if each.state == "outside" else each.state
        typer.echo(f"database {each.database} ({each.setting}): {where}")
    typer.echo(f"bucket {settings.model_storage_bucket}: present")


def _ensure_bucket(settings: Settings) -> None:
    from ai_hub import servers
    from ai_hub.servers import NotReadyError

    try:
        servers.ensure_bucket(settings.environment())
    except NotReadyError as error:
        hint = "Check MINIO_ACCESS_KEY, MINIO_SECRET_KEY and MODEL_STORAGE_BUCKET."
        raise ServiceDownError("S3", settings.require("minio_endpoint_url"), str(error), hint=hint) from error
