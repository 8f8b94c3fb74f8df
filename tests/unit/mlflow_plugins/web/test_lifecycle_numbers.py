"""The numbers and pictures of the lifecycle page."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_plugins.web.lifecycle import metrics, render
from mlflow_plugins.web.lifecycle.metrics import Comparison, Point


@pytest.mark.parametrize(
    ("candidate", "production", "change", "direction"),
    [
        (1.1, 1.0, 10.0, "higher"),
        (0.5, 1.0, -50.0, "lower"),
        # of a negative value it is the size that counts: -1 is higher than -2
        (-1.0, -2.0, 50.0, "higher"),
        (2.0, 2.0, 0.0, "equal"),
        (1.0, 0.0, None, "higher"),
        (0.0, 0.0, None, "equal"),
        (None, 1.0, None, None),
        (1.0, None, None, None),
    ],
)
def test_comparison__is_relative_to_production(
    candidate: float | None, production: float | None, change: float | None, direction: str | None
) -> None:
    compared = Comparison("mae", candidate, production)
    assert compared.change == pytest.approx(change)
    assert compared.direction == direction


_values = st.floats(-1e6, 1e6)


@given(_values, _values.filter(lambda value: abs(value) > 1e-3))
def test_change__leads_from_production_to_the_candidate(candidate: float, production: float) -> None:
    compared = Comparison("mae", candidate, production)
    assert compared.change is not None
    reached = production + compared.change / 100 * abs(production)
    assert math.isclose(reached, candidate, rel_tol=1e-9, abs_tol=1e-6)
    assert (compared.change > 0) == (compared.direction == "higher")


def test_compare__has_every_metric_of_both() -> None:
    rows = metrics.compare({"b": 1.0, "a": None}, {"c": 2.0})
    assert [(row.metric, row.candidate, row.production) for row in rows] == [
        ("a", None, None),
        ("b", 1.0, None),
        ("c", None, 2.0),
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "—"), (0.0, "0"), (1.23456789, "1.23457"), (1e-9, "1e-09"), (-3.0, "-3")]
)
def test_number__is_short(value: float | None, shown: str) -> None:
    assert render.number(value) == shown


@pytest.mark.parametrize(
    ("change", "shown"), [(-15.46, "15.5 %"), (0.04, "less than 0.1 %"), (100.0, "100.0 %")]
)
def test_percent__is_the_size(change: float, shown: str) -> None:
    assert render.percent(change) == shown


def test_time__is_utc_for_people_and_programs() -> None:
    expected = '<time datetime="2026-06-01T10:20:30.405Z">2026-06-01 10:20:30 UTC</time>'
    assert render.utc(1_780_309_230_405) == expected


def test_plot__is_described_and_tells_stages_apart_without_colour() -> None:
    points = [
        Point(1, "v1.0.0", "Archived", 2.0),
        Point(2, "v1.0.1", "Production", 1.5),
        Point(3, "v1.0.2", "Staging", None),
        Point(4, "v2.0.0", "Staging", 1.25),
    ]
    described = metrics.describe_plot("mae", points)
    assert "mae of 3 versions, between 1.25 and 2." in described
    assert "In Production: v1.0.1 with 1.5." in described
    picture = metrics.draw_plot("mae", points).decode()
    texts = {element.text for element in ET.fromstring(picture).iter() if element.text}  # noqa: S314  # our own
    assert texts >= {"mae", "v1.0.0", "v2.0.0", "in production", "Production", "Staging", "Archived"}


@pytest.mark.parametrize("points", [[], [Point(1, "v1.0.0", "Staging", None)]])
def test_plot__of_nothing__is_empty(points: list[Point]) -> None:
    assert metrics.describe_plot("mae", points) == "No version has a value of mae."
    assert metrics.draw_plot("mae", points).startswith(b"<?xml")
