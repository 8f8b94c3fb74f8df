"""`ai-hub serve`: the REST service."""

from __future__ import annotations

from typing import Annotated

import typer

from ai_hub.cli.main import app


@app.command()
def serve(
    *,
    host: Annotated[str, typer.Option("--host", help="address to serve on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="port to serve on")] = 8003,
    workers: Annotated[int, typer.Option("--workers", min=1, help="processes that answer")] = 1,
    export_worker: Annotated[
        bool, typer.Option("--export-worker/--no-export-worker", help="write exports beside them")
    ] = True,
) -> None:
    """Serve features, exports and the model registry over HTTP; what there is, is at /docs."""
    from ai_hub.api import server
    from ai_hub.api.server import check_development_mode
    from ai_hub.settings import ServiceSettings

    check_development_mode(ServiceSettings(), host)
    server.serve(host, port, workers=workers, export_worker=export_worker)
