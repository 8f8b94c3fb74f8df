"""`ai-hub demo`: the whole product end to end."""

from __future__ import annotations

from ai_hub.cli import plain
from ai_hub.cli.main import app


@app.command()
def demo() -> None:
    """Run the whole product on sample meters: servers, ingest, features, training, promotion, prediction."""
    from ai_hub.dev.demo.run import run  # reads sample files; other commands never need it

    run(plain.console())
