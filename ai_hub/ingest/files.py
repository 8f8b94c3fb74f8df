"""Ingest a file of readings or of weather."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import psycopg

from ai_hub.database import connect
from ai_hub.errors import AiHubError
from ai_hub.ingest import bounds
from ai_hub.ingest.datasets import Readings, Weather
from ai_hub.ingest.pipeline import OnProgress, Preview, ingest, no_progress, preview
from ai_hub.ingest.terms import TemperatureUnit

if TYPE_CHECKING:
    from ai_hub.ingest.datasets import Dataset
    from ai_hub.ingest.report import Options, Report


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
        available_after: When an observation without an issue time could first be read: an hour's mean is
            known once the hour has ended.
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


def _ingest(
    path: Path,
    dataset: Dataset,
    options: Options,
    reject_file: Path | None,
    on_progress: OnProgress,
) -> Report:
    with connect(autocommit=True) as connection:
        if isinstance(dataset, Readings):
            dataset = replace(dataset, bounds=bounds.find(connection, options.tenant))
        return ingest(
            connection,
            path,
            dataset,
            options,
            reject_file=reject_file or Path.cwd() / f"{path.name}.rejected.csv",
            on_progress=on_progress,
        )


def preview_readings(path: Path, options: Options) -> Preview:
    """Show how a file of readings would be read; see `pipeline.preview`."""
    return _preview(path, Readings(now=pd.Timestamp.now("UTC"), form=options.timestamp_format), options)


def preview_weather(
    path: Path, options: Options, *, temperature_unit: TemperatureUnit, available_after: timedelta
) -> Preview:
    """Show how a file of weather would be read; see `ingest_weather`."""
    return _preview(path, _weather(options, temperature_unit, available_after), options)


def _preview(path: Path, dataset: Dataset, options: Options) -> Preview:
    """With what is registered, if the database can be reached."""
    with ExitStack() as stack:
        connection = None
        try:
            connection = stack.enter_context(connect(autocommit=True))
            connection.execute("SELECT FROM assets LIMIT 0")
        except (AiHubError, psycopg.Error):
            connection = None
        if connection is not None and isinstance(dataset, Readings):
            dataset = replace(dataset, bounds=bounds.find(connection, options.tenant))
        shown = preview(connection, path, dataset, options)
    if connection is None:
        shown.report.understood.append(
            "no asset is looked up: the database cannot be reached or is not migrated"
        )
    return shown
