"""Ingest of a file of readings, weather or an external series, and backfill of many files."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import time, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pandas as pd
import psycopg

from ai_hub.db import connect
from ai_hub.db.refresh import Refreshed, refresh
from ai_hub.errors import AiHubError, NotFoundError
from ai_hub.ingest import policies
from ai_hub.ingest.datasets import Readings, Series, Weather
from ai_hub.ingest.options import TemperatureUnit
from ai_hub.ingest.pipeline import OnProgress, Preview, ingest, no_progress, preview
from ai_hub.ingest.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai_hub.ingest.datasets import Dataset
    from ai_hub.ingest.options import Options


def ingest_readings(
    path: Path,
    options: Options,
    *,
    reject_file: Path | None = None,
    on_progress: OnProgress = no_progress,
) -> Report:
    """Ingest meter readings (columns timestamp, value, asset_id, quality); see `pipeline.ingest`."""
    readings = Readings(
        now=pd.Timestamp.now("UTC"), form=options.timestamp_format, qualities=options.quality_map
    )
    return _ingest(path, readings, options, reject_file, on_progress)


def ingest_weather(
    path: Path,
    options: Options,
    *,
    temperature_unit: TemperatureUnit = TemperatureUnit.CELSIUS,
    available_after: timedelta = timedelta(hours=1),
    reject_file: Path | None = None,
    on_progress: OnProgress = no_progress,
) -> Report:
    """Ingest weather (columns timestamp, available_at, temperature, …); see `pipeline.ingest`.

    Args:
        path: The file.
        options: What the file does not say itself.
        temperature_unit: Of the file; the table holds °C.
        available_after: Delay at which an observation without an issue time becomes available: an hour's mean
            once the hour has ended.
        reject_file: Default `<name>.rejected.csv` in the current folder.
        on_progress: Called with the share of the file done and the counts so far.
    """
    weather = _weather(options, temperature_unit, available_after)
    return _ingest(path, weather, options, reject_file, on_progress)


def _weather(options: Options, temperature_unit: TemperatureUnit, available_after: timedelta) -> Weather:
    return Weather(
        now=pd.Timestamp.now("UTC"),
        form=options.timestamp_format,
        temperature_unit=temperature_unit,
        available_after=pd.Timedelta(available_after),
    )


def ingest_series(
    path: Path,
    options: Options,
    *,
    name: str | None = None,
    unit: str | None = None,
    available_after: timedelta = timedelta(hours=1),
    day_ahead: time | None = None,
    reject_file: Path | None = None,
    on_progress: OnProgress = no_progress,
) -> Report:
    """Ingest an external series (columns timestamp, value, zone, available_at); see `pipeline.ingest`.

    Args:
        path: The file.
        options: What the file does not say itself; `asset` is the zone of every row.
        name: Of the series; None: the file has a column `series`.
        unit: Of the values; a series keeps its first one.
        available_after: Delay at which a value without an issue time becomes available.
        day_ahead: Local time on the day before at which it is available instead.
        reject_file: Default `<name>.rejected.csv` in the current folder.
        on_progress: Called with the share of the file done and the counts so far.
    """
    series = _series(options, name, unit, available_after, day_ahead)
    return _ingest(path, series, options, reject_file, on_progress)


def _series(
    options: Options, name: str | None, unit: str | None, available_after: timedelta, day_ahead: time | None
) -> Series:
    return Series(
        now=pd.Timestamp.now("UTC"),
        form=options.timestamp_format,
        name=name,
        unit=unit,
        available_after=pd.Timedelta(available_after),
        day_ahead=day_ahead,
    )


def _ingest(
    path: Path,
    dataset: Dataset,
    options: Options,
    reject_file: Path | None,
    on_progress: OnProgress,
) -> Report:
    with connect(autocommit=True) as connection:
        if isinstance(dataset, Readings):
            dataset = replace(dataset, bounds=policies.find_bounds(connection, options.tenant))
        return ingest(
            connection,
            path,
            dataset,
            options,
            reject_file=reject_file or Path.cwd() / f"{path.name}.rejected.csv",
            on_progress=on_progress,
        )


def preview_readings(path: Path, options: Options) -> Preview:
    """Dry run of `ingest_readings`; see `pipeline.preview`."""
    return _preview(path, Readings(now=pd.Timestamp.now("UTC"), form=options.timestamp_format), options)


def preview_weather(
    path: Path, options: Options, *, temperature_unit: TemperatureUnit, available_after: timedelta
) -> Preview:
    """Dry run of `ingest_weather`; see `pipeline.preview`."""
    return _preview(path, _weather(options, temperature_unit, available_after), options)


def preview_series(
    path: Path,
    options: Options,
    *,
    name: str | None = None,
    unit: str | None = None,
    available_after: timedelta = timedelta(hours=1),
    day_ahead: time | None = None,
) -> Preview:
    """Dry run of `ingest_series`; see `pipeline.preview`."""
    return _preview(path, _series(options, name, unit, available_after, day_ahead), options)


def _preview(path: Path, dataset: Dataset, options: Options) -> Preview:
    """Preview with the registered assets, or without if the database is unreachable."""
    with ExitStack() as stack:
        connection = None
        try:
            connection = stack.enter_context(connect(autocommit=True))
            connection.execute("SELECT FROM assets LIMIT 0")
        except (AiHubError, psycopg.Error):
            connection = None
        if connection is not None and isinstance(dataset, Readings):
            dataset = replace(dataset, bounds=policies.find_bounds(connection, options.tenant))
        result = preview(connection, path, dataset, options)
    if connection is None:
        result.report.understood.append(
            "no asset is looked up: the database cannot be reached or is not migrated"
        )
    return result


_SELECT_FILE = "SELECT FROM backfill_files WHERE tenant_id = %s AND fingerprint = %s"
_INSERT_FILE = (
    "INSERT INTO backfill_files (tenant_id, fingerprint, file_name, row_count) VALUES (%s, %s, %s, %s)"
    " ON CONFLICT DO NOTHING"
)


class BackfillProgress(Protocol):
    """Receives the progress of a backfill."""

    def file(self, path: Path, fraction: float, rows: int) -> None:
        """Share of the file that is stored (0 to 1), and its rows so far."""

    def aggregates(self, done: int, total: int) -> None:
        """Number of refreshed weeks of aggregates, of `total`."""

    def features(self, done: int, total: int) -> None:
        """Number of computed feature rows, of `total`."""


@dataclass
class BackfillResult:
    """Report by file name, and the refresh of features after them."""

    reports: dict[str, Report] = field(default_factory=dict)
    #: Names of files that an earlier backfill has ingested.
    skipped: list[str] = field(default_factory=list)
    refreshed: Refreshed | None = None


def backfill(
    readings: Sequence[Path],
    weather: Sequence[Path],
    options: Options,
    watcher: BackfillProgress,
    *,
    temperature_unit: TemperatureUnit = TemperatureUnit.CELSIUS,
) -> BackfillResult:
    """Ingest `weather` and `readings`, then compute every feature they change, in bounded memory.

    Ingested files are recorded. A repeated call with the same files skips those, resumes with the next file
    and computes the remaining features.

    Raises:
        NotFoundError: a file is missing; nothing was written.
        BadInputError: a file or an option is not usable; the files before it are stored.
    """
    if missing := [str(path) for path in (*weather, *readings) if not path.is_file()]:
        raise NotFoundError(f"There is no file {', '.join(missing)}.", hint="Nothing was written.")
    result = BackfillResult()
    read_weather = partial(ingest_weather, temperature_unit=temperature_unit)
    # these options apply to readings only
    weather_options = replace(options, unit=None, reading=None, interval=None, digits=None)
    steps: list[tuple[Path, str, Callable[..., Report], Options]] = [
        (path, f"weather {temperature_unit}", read_weather, weather_options) for path in weather
    ]
    steps += [(path, "readings", ingest_readings, options) for path in readings]
    for path, reader, read_file, file_options in steps:
        fingerprint = _fingerprint(path, reader, file_options)
        if _is_ingested(options.tenant, fingerprint):
            result.skipped.append(path.name)
            watcher.file(path, 1.0, 0)
            continue
        report = read_file(path, file_options, on_progress=partial(_forward, watcher, path))
        result.reports[path.name] = report
        with connect() as connection:
            connection.execute(_INSERT_FILE, [options.tenant, fingerprint, path.name, report.rows])
    result.refreshed = refresh(aggregating=watcher.aggregates, progress=watcher.features)
    return result


def _forward(watcher: BackfillProgress, path: Path, fraction: float, report: Report) -> None:
    watcher.file(path, fraction, report.rows)


def _is_ingested(tenant: str, fingerprint: str) -> bool:
    with connect() as connection:
        return connection.execute(_SELECT_FILE, [tenant, fingerprint]).fetchone() is not None


def _fingerprint(path: Path, reader: str, options: Options) -> str:
    """SHA-256 of the file's bytes and of the reader and options that interpret them."""
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"{reader}\n{content}\n{options!r}".encode()).hexdigest()
