# ruff: noqa: PLC0415 - pandas and pyarrow load only in the commands that need them
"""`ai-hub backfill`: a whole history in one command."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from ai_hub.cli import progress
from ai_hub.cli.ingest_options import (
    AsJson,
    ReadingOptions,
    SourceOptions,
    TemperatureOption,
    Tenant,
    TimestampOptions,
    ingest_options,
    with_options,
)
from ai_hub.cli.main import app
from ai_hub.errors import BadInputError
from ai_hub.ingest.enums import TemperatureUnit

if TYPE_CHECKING:
    from rich.progress import Progress

    from ai_hub.ingest.files import BackfillResult


class _Bars:
    """One bar for the files, one for the aggregates, one for the features."""

    def __init__(self, bar: Progress, sizes: dict[Path, int]) -> None:
        self._bar = bar
        self._sizes = sizes
        self._done = dict.fromkeys(sizes, 0.0)
        self._files = bar.add_task("files", total=max(sum(sizes.values()), 1))
        self._aggregates = bar.add_task("aggregates", total=None)
        self._features = bar.add_task("features", total=None)

    def file(self, path: Path, fraction: float, rows: int) -> None:
        self._done[path] = fraction
        bytes_done = sum(size * self._done[name] for name, size in self._sizes.items())
        self._bar.update(self._files, completed=bytes_done, description=f"{path.name}, {rows:,} rows")

    def aggregates(self, done: int, total: int) -> None:
        self._bar.update(self._aggregates, completed=done, total=total)

    def features(self, done: int, total: int) -> None:
        self._bar.update(self._features, completed=done, total=total, description=f"features, {done:,} rows")


@app.command("backfill")
@with_options
def backfill_command(
    files: Annotated[
        list[Path] | None, typer.Argument(help="readings: .csv, .csv.gz or .parquet", show_default=False)
    ] = None,
    *,
    tenant: Tenant,
    weather: Annotated[
        list[Path] | None, typer.Option("--weather", help="a file of weather; may be repeated")
    ] = None,
    source: SourceOptions,
    readings: ReadingOptions,
    times: TimestampOptions,
    temperature_unit: TemperatureOption = TemperatureUnit.CELSIUS,
    as_json: AsJson = False,
) -> None:
    """Ingest a history of files and compute all its features. Killed midway, the same command goes on."""
    from ai_hub.ingest.files import backfill
    from ai_hub.ingest.report import report_lines

    options = ingest_options(tenant, source, times, readings=readings)
    paths = [*(weather or []), *(files or [])]
    if not paths:
        raise BadInputError(
            "There is no file to bring in.", hint="Name files of readings, or --weather FILE."
        )
    began = time.monotonic()
    with progress.bar(quiet=as_json) as bar:
        sizes = {path: path.stat().st_size if path.is_file() else 0 for path in paths}
        done = backfill(
            files or [], weather or [], options, _Bars(bar, sizes), temperature_unit=temperature_unit
        )
    summary = _summary(done, time.monotonic() - began)
    if as_json:
        typer.echo(json.dumps(summary))
        return
    for name in done.skipped:
        typer.echo(f"{name}: finished earlier, skipped")
    for name, report in done.reports.items():
        typer.echo("\n  ".join([f"{name}:", *report_lines(report, options)]))
    typer.echo(
        f"{summary['feature_rows']:,} feature rows computed, {summary['seconds']:.0f} s in all,"
        f" {summary['peak_memory_mb']:.0f} MB at most"
    )


def _summary(done: BackfillResult, seconds: float) -> dict[str, object]:
    refreshed = done.refreshed
    return {
        "files": {name: report.as_dict() for name, report in done.reports.items()},
        "skipped": done.skipped,
        "feature_rows": refreshed.rows if refreshed else 0,
        "feature_rows_changed": refreshed.changed if refreshed else 0,
        "seconds": round(seconds, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
