"""Sample meters of the `eemeter` package, moved in time so that they end at the present hour.

docs/demo-data.md says where they come from, which are simulated and what the shift does.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal, NamedTuple

from ai_hub import paths
from ai_hub.errors import NotFoundError
from ai_hub.times import assume_utc

HOUR = timedelta(hours=1)
_DAYS_A_YEAR = 365.2425


class _Sample(NamedTuple):
    tenant: str
    asset: str
    kind: str
    unit: str
    name: str


@dataclass(frozen=True)
class DemoSeries:
    """One prepared file, and everything `ai-hub asset add` and `ai-hub ingest` need to know about it."""

    tenant: str
    asset: str
    kind: str
    #: Of the values; weather: of the temperatures (`C` or `F`).
    unit: str
    timezone: str
    file: Path
    role: Literal["readings", "weather"]
    #: Asset whose weather this one uses; None: its own.
    weather_asset: str | None
    rows: int


_TIMEZONES = {"illinois": "America/Chicago", "uk-home": "Europe/London"}
_STATION = "weather-station"

# Weather first: meters refer to it.
_SAMPLES = (
    _Sample("illinois", _STATION, "weather", "F", "il-tempF"),
    _Sample("illinois", "electricity-heated-cooled", "electricity", "kWh", "il-electricity-cdd-hdd-hourly"),
    _Sample("illinois", "electricity-cooled", "electricity", "kWh", "il-electricity-cdd-only-hourly"),
    _Sample("illinois", "gas-heated", "gas", "therm", "il-gas-hdd-only-hourly"),
    _Sample("illinois", "gas-base-load", "gas", "therm", "il-gas-intercept-only-hourly"),
    _Sample("uk-home", _STATION, "weather", "C", "uk-tempC-sample-0"),
    _Sample("uk-home", "electricity", "electricity", "kWh", "uk-electricity-hdd-only-hourly-sample-0"),
    _Sample("uk-home", "gas", "gas", "kWh", "uk-gas-hdd-only-hourly-sample-0"),
)


def prepare(
    directory: Path | None = None, now: datetime | None = None, *, weeks: int | None = None
) -> list[DemoSeries]:
    """Write every series as a CSV file, ending with the last full hour before `now`.

    Args:
        directory: Where to; default `demo-data` in the state folder.
        now: Default: the clock.
        weeks: Only the newest of them; default: two years and more, all there is.

    Raises:
        NotFoundError: the sample package is not installed.
    """
    directory = directory or paths.state_dir() / "demo-data"
    directory.mkdir(parents=True, exist_ok=True)
    end = (now or datetime.now(UTC)).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    folder = samples_folder()
    first = end - timedelta(weeks=weeks) if weeks else None
    return [_write(sample, folder, directory, first, end) for sample in _SAMPLES]


def samples_folder() -> Path:
    """Folder of the sample files, found without importing the package: that would need its dependencies.

    Raises:
        NotFoundError: the package is not installed.
    """
    hint = "Install it with `pip install 'ai-hub[demo]'`."
    try:
        listed = files("eemeter") or []
    except PackageNotFoundError as error:
        raise NotFoundError("The demo's sample meters are not installed.", hint=hint) from error
    for file in listed:
        if file.parts[-2:] == ("samples", "metadata.json"):
            return Path(str(file.locate())).parent
    raise NotFoundError("The installed eemeter has no sample meters.", hint=hint)


def shift_for(last: datetime, end: datetime) -> timedelta:
    """Smallest shift by whole weeks, nearest to whole years, that brings `last` to `end` or later.

    Whole weeks keep weekdays, whole years the season to within half a week.
    """
    years = 0
    while True:
        shift = timedelta(weeks=round(years * _DAYS_A_YEAR / 7))
        if last + shift >= end:
            return shift
        years += 1


def _write(
    sample: _Sample, folder: Path, directory: Path, first: datetime | None, end: datetime
) -> DemoSeries:
    """Write one series from `first` on; rows of hours that have not ended by `end` are cut."""
    series = _read(folder / f"{sample.name}.csv.gz")
    shift = shift_for(series[-1][0], end)
    moved = [(start + shift, value) for start, value in series]
    rows = [
        (start.isoformat(), value)
        for start, value in moved
        if start + HOUR <= end and (first is None or start >= first)
    ]
    is_weather = sample.asset == _STATION
    file = directory / f"{sample.tenant}-{sample.asset}.csv"
    part = file.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["timestamp", "temperature" if is_weather else "value"])
        writer.writerows(rows)
    part.replace(file)
    return DemoSeries(
        tenant=sample.tenant,
        asset=sample.asset,
        kind=sample.kind,
        unit=sample.unit,
        timezone=_TIMEZONES[sample.tenant],
        file=file,
        role="weather" if is_weather else "readings",
        weather_asset=None if is_weather else _STATION,
        rows=len(rows),
    )


def _read(path: Path) -> list[tuple[datetime, str]]:
    """Start of each hour in UTC and its value as written; the samples' times without an offset are UTC."""
    with gzip.open(path, "rt", newline="", encoding="utf-8") as text:
        rows = csv.reader(text)
        header = next(rows)
        start = next(index for index, name in enumerate(header) if name in {"start", "dt"})
        found = []
        for row in rows:
            instant = datetime.fromisoformat(row[start])
            found.append((assume_utc(instant).astimezone(UTC), row[start + 1]))
    return found
