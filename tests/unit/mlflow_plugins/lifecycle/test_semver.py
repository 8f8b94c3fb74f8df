from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_plugins.lifecycle import semver
from mlflow_plugins.lifecycle.semver import FIRST, Interface, SemanticVersion, suggest

COUNTERS = st.integers(0, 999_999_999)
VERSIONS = st.builds(SemanticVersion, COUNTERS, COUNTERS, COUNTERS)
SMALL = st.builds(SemanticVersion, *[st.integers(0, 99)] * 3)
INTERFACES = st.builds(
    Interface, st.sampled_from([None, "aa", "bb"]), st.sampled_from([None, "forecast_basic"])
)


@given(VERSIONS)
def test_parse__reads_what_str_wrote(version: SemanticVersion) -> None:
    assert SemanticVersion.parse(str(version)) == version
    assert SemanticVersion.parse(str(version).removeprefix("v")) == version


@pytest.mark.parametrize(
    "text",
    ["", "v", "1", "v1.2", "v1.2.3.4", "v01.2.3", "v1.2.-3", "v1.2.3-rc1", " v1.2.3", "v1.2.3\n", "V1.2.3",
     "v1.2.x", "../v1.2.3", "v1.2.3/..", "v\u0661.2.3", "v1.2.1234567890"],
)  # fmt: skip
def test_parse__refuses(text: str) -> None:
    with pytest.raises(ValueError, match="not a semantic version"):
        SemanticVersion.parse(text)


def test_order__is_by_number() -> None:
    assert SemanticVersion.parse("v1.10.0") > SemanticVersion.parse("v1.9.12")


@pytest.mark.parametrize(
    ("previous", "new", "expected"),
    [
        (Interface("aa", "basic"), Interface("aa", "basic"), "v1.2.4"),
        (Interface("aa", "basic"), Interface("aa", "advanced"), "v1.3.0"),
        (Interface("aa", "basic"), Interface("bb", "basic"), "v2.0.0"),
        (Interface("aa", "basic"), Interface("bb", "advanced"), "v2.0.0"),
        (Interface("aa", "basic"), Interface(None, "basic"), "v2.0.0"),
        (None, Interface("aa", "basic"), "v1.2.4"),
    ],
)
def test_suggest__bumps_by_what_callers_depend_on(
    previous: Interface | None, new: Interface, expected: str
) -> None:
    assert str(suggest(SemanticVersion(1, 2, 3), previous, new)) == expected


def test_suggest__the_first() -> None:
    assert suggest(None, None, Interface(None, None)) == FIRST


@given(SMALL, INTERFACES, INTERFACES)
def test_suggest__is_always_above_the_highest(
    highest: SemanticVersion, previous: Interface, new: Interface
) -> None:
    assert suggest(highest, previous, new) > highest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v1.2.1", "v1.2.0"),
        ("1.2.9", "v1.2.10"),
        ("v3.0.0", "v2.0.0"),
        ("v1.9.0", "v1.2.0"),
        ("v0.0.1", "v1.2.0"),
        ("7", None),
        ("latest", None),
    ],
)
def test_nearest__by_major_then_minor_then_patch(text: str, expected: str | None) -> None:
    found = semver.nearest(text, ["v1.2.0", None, "v1.2.10", "v2.0.0", "other"])
    assert (found and str(found)) == expected
    assert semver.nearest(text, []) is None
