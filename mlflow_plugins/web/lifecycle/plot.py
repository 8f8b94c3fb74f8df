"""One metric over the versions of a model, as SVG. Stages differ by shape, not by colour alone."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import Any, Final

from mlflow_plugins.lifecycle import rules

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


def describe(metric: str, points: list[Point]) -> str:
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


def draw(metric: str, points: list[Point]) -> bytes:
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
