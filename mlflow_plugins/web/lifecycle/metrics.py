"""Metrics of versions as the gates see them: compared, and one of them plotted over the versions as SVG.

They are those in the versions' folders, and those their runs recorded since. Stages differ by shape in the
plot, not by colour alone.
"""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from mlflow.exceptions import MlflowException

from mlflow_plugins.artifacts import manifest
from mlflow_plugins.artifacts.destination import current_destination
from mlflow_plugins.lifecycle import rules
from mlflow_plugins.store.promoting import present_metrics, verified_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlflow_plugins.registration.records import Record


Metrics = dict[str, float | None]

_PARALLEL: Final = 8
_REMEMBERED: Final = 5000


@dataclass(frozen=True)
class Comparison:
    """One metric of a candidate beside production's."""

    metric: str
    candidate: float | None
    production: float | None

    @property
    def change(self) -> float | None:
        """Candidate against production in per cent of production; None where that has no meaning."""
        if self.candidate is None or not self.production:
            return None
        return (self.candidate - self.production) / abs(self.production) * 100

    @property
    def direction(self) -> str | None:
        """`higher`, `lower` or `equal`; None when one of them is missing."""
        if self.candidate is None or self.production is None:
            return None
        if self.candidate == self.production:
            return "equal"
        return "higher" if self.candidate > self.production else "lower"


def compare(candidate: Metrics, production: Metrics) -> list[Comparison]:
    """Every metric either of them has, by name."""
    names = sorted(candidate.keys() | production.keys())
    return [Comparison(name, candidate.get(name), production.get(name)) for name in names]


def read(
    records: Iterable[Record], origins: Mapping[int, tuple[str | None, str, str | None]], tenant: str
) -> tuple[dict[int, Metrics], dict[int, str]]:
    """Metrics by version, and why those of the others cannot be read.

    Versions that were registered without a folder of their own are in neither.

    Args:
        records: what is known about their folders.
        origins: tag `ai_hub.metrics`, source and run of each version.
        tenant: whose they are.
    """
    wanted = [
        (record.version, record.location, record.manifest_sha256)
        for record in records
        if record.version is not None and record.location and record.manifest_sha256
    ]
    found: dict[int, Metrics] = {}
    problems: dict[int, str] = {}

    def one(item: tuple[int, str, str]) -> None:
        version, location, digest = item
        try:
            found[version] = present_metrics(_read(tenant, location, digest), *origins[version])
        except MlflowException as error:
            problems[version] = str(error.message)

    with ThreadPoolExecutor(_PARALLEL) as pool:
        # the request's tenant goes along into the threads
        for waiting in [pool.submit(copy_context().run, one, item) for item in wanted]:
            waiting.result()
    return found, problems


@lru_cache(_REMEMBERED)
def _read(tenant: str, location: str, digest: str) -> Metrics:
    # what a digest stands for never changes, so no page need fetch it twice; promotion always reads the files
    destination = current_destination()
    return (
        verified_document(destination.folder(location, tenant), digest, manifest.METRICS)
        if destination
        else {}
    )


_SIZE_INCHES: Final = (7.5, 3.2)
_STYLE: Final[dict[Any, Any]] = {"svg.fonttype": "none", "svg.hashsalt": "lifecycle", "font.size": 10}
#: Shape and colour of each stage; the colours differ in lightness, too.
_MARKERS: Final = {
    rules.PRODUCTION: ("D", "#0b5d1e"),
    rules.STAGING: ("s", "#1f4e9c"),
    rules.ARCHIVED: ("o", "#6b6b6b"),
}
# matplotlib's settings are the process's
_drawing = threading.Lock()


@dataclass(frozen=True)
class Point:
    """A version and its value of the metric."""

    version: int
    label: str
    stage: str
    value: float | None


def describe_plot(metric: str, points: list[Point]) -> str:
    """The picture in words."""
    known = [point for point in points if point.value is not None]
    if not known:
        return f"No version has a value of {metric}."
    values = [point.value for point in known if point.value is not None]
    text = f"{metric} of {len(known)} versions, between {min(values):.6g} and {max(values):.6g}."
    for point in known:
        if point.stage == rules.PRODUCTION:
            text += f" In Production: {point.label} with {point.value:.6g}."
    return text + " The table below has every value."


def draw_plot(metric: str, points: list[Point]) -> bytes:
    """The picture; versions without a value are a gap."""
    from matplotlib import rc_context  # noqa: PLC0415 - a second to import, for those who look at a plot
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    known = [(place, point) for place, point in enumerate(points) if point.value is not None]
    with _drawing, rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        axes.plot(range(len(points)), [_or_nan(point.value) for point in points], color="#9a9a9a", zorder=1)
        for stage, (marker, colour) in _MARKERS.items():
            chosen = [(place, point.value) for place, point in known if point.stage == stage]
            if chosen:
                places, values = zip(*chosen, strict=True)
                axes.scatter(places, values, s=55, c=colour, marker=marker, label=stage, zorder=2)
        for place, point in known:
            if point.stage == rules.PRODUCTION:
                axes.annotate("in production", (place, point.value), (8, 6), textcoords="offset points")
        step = max(1, len(points) // 12)
        axes.set_xticks(range(0, len(points), step), [point.label for point in points[::step]], rotation=30)
        axes.margins(y=0.2)
        axes.set_ylabel(metric)
        axes.set_xlabel("version")
        axes.grid(visible=True, color="#e0e0e0")
        if known:
            axes.legend(loc="best")
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Title": f"{metric} over the versions"})
    return stream.getvalue()


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
