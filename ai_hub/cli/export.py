# ruff: noqa: PLC0415 - Feast and pyarrow load only in the commands that need them
"""`ai-hub export`, `ai-hub exports`, `ai-hub export-worker`: features as Parquet files."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Annotated

import typer

from ai_hub.cli.main import app


@app.command("export-worker")
def export_worker_command(
    *,
    once: Annotated[bool, typer.Option("--once", help="end when no job waits")] = False,
    while_stdin_open: Annotated[
        bool, typer.Option("--while-stdin-open", help="end with the process that holds standard input")
    ] = False,
) -> None:
    """Work through the export jobs of all tenants until stopped; SIGTERM gives a job under way back."""
    from ai_hub.exports.worker import run

    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    if while_stdin_open:
        threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    run(stop, once=once)


def _stop_at_end_of_input(stop: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    stop.set()
