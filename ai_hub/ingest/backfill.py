"""Bring in a whole history: many files, then every feature they touch; killed midway, it goes on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ai_hub.database import connect
from ai_hub.database.refresh import Refreshed, refresh
from ai_hub.errors import NotFoundError
from ai_hub.ingest.files import ingest_readings, ingest_weather
from ai_hub.ingest.report import Options, Report
from ai_hub.ingest.terms import TemperatureUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_KNOWN = "SELECT FROM backfill_files WHERE tenant_id = %s AND fingerprint = %s"
_DONE = (
    "INSERT INTO backfill_files (tenant_id, fingerprint, file_name, row_count) VALUES (%s, %s, %s, %s)"
    " ON CONFLICT DO NOTHING"
)


class Watcher(Protocol):
    """Is told how far a backfill is."""

    def file(self, path: Path, fraction: float, rows: int) -> None:
        """So much (0 to 1) of a file is stored, `rows` of them."""

    def aggregates(self, done: int, total: int) -> None:
        """Weeks of aggregates that are up to date."""

    def features(self, done: int, total: int) -> None:
        """Feature rows that are computed."""


@dataclass
class Backfilled:
    """What became of each file, and the features computed after them."""

    reports: dict[str, Report] = field(default_factory=dict)
    #: names of files that an earlier backfill had finished
    skipped: list[str] = field(default_factory=list)
    refreshed: Refreshed | None = None


def backfill(
    readings: Sequence[Path],
    weather: Sequence[Path],
    options: Options,
    watcher: Watcher,
    *,
    temperature_unit: TemperatureUnit = TemperatureUnit.CELSIUS,
) -> Backfilled:
    """Ingest `weather` and `readings`, then compute every feature they touch, in bounded memory.

    Every file that is done is noted. Called again with the same files, a backfill goes on with the first that
    is not, whose stored rows change nothing, and with the features still to compute.

    Raises:
        NotFoundError: a file is missing; nothing was written.
        BadInputError: a file or an option is not usable; the files before it are stored.
    """
    if missing := [str(path) for path in (*weather, *readings) if not path.is_file()]:
        raise NotFoundError(f"There is no file {', '.join(missing)}.", hint="Nothing was written.")
    done = Backfilled()
    read_weather = partial(ingest_weather, temperature_unit=temperature_unit)
    # what readings are is not said of the weather
    weather_options = replace(options, unit=None, reading=None, interval=None, digits=None)
    steps: list[tuple[Path, str, Callable[..., Report], Options]] = [
        (path, f"weather {temperature_unit}", read_weather, weather_options) for path in weather
    ]
    steps += [(path, "readings", ingest_readings, options) for path in readings]
    for path, how, ingest, reading in steps:
        fingerprint = _fingerprint(path, how, reading)
        if _is_done(options.tenant, fingerprint):
            done.skipped.append(path.name)
            watcher.file(path, 1.0, 0)
            continue
        report = ingest(path, reading, on_progress=partial(_tell, watcher, path))
        done.reports[path.name] = report
        with connect() as connection:
            connection.execute(_DONE, [options.tenant, fingerprint, path.name, report.rows])
    done.refreshed = refresh(aggregating=watcher.aggregates, progress=watcher.features)
    return done


def _tell(watcher: Watcher, path: Path, fraction: float, report: Report) -> None:
    watcher.file(path, fraction, report.rows)


def _is_done(tenant: str, fingerprint: str) -> bool:
    with connect() as connection:
        return connection.execute(_KNOWN, [tenant, fingerprint]).fetchone() is not None


def _fingerprint(path: Path, how: str, options: Options) -> str:
    """Of the file's bytes and of everything that decides what they mean."""
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"{how}\n{content}\n{options!r}".encode()).hexdigest()
