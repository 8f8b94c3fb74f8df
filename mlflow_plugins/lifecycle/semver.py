"""Semantic versions of models: `v1.2.0`, and which number comes next.

A changed signature breaks callers (major), a changed feature service changes what must be served
beside the model (minor), anything else is a retraining (patch).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

TAG: Final = "semantic_version"

_COUNTER = r"(0|[1-9][0-9]{0,8})"
_PATTERN = re.compile(rf"v?{_COUNTER}\.{_COUNTER}\.{_COUNTER}")


@dataclass(frozen=True, order=True)
class SemanticVersion:
    """Three counters, ordered as numbers; prints as `v1.2.0`."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}"

    @classmethod
    def parse(cls, text: str) -> SemanticVersion:
        """Read `v1.2.0` or `1.2.0`.

        Raises:
            ValueError: it is neither.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a semantic version.")
        return cls(*(int(part) for part in match.groups()))


def parsed(text: str) -> SemanticVersion | None:
    """The semantic version `text` names; None when it names something else."""
    try:
        return SemanticVersion.parse(text)
    except ValueError:
        return None


def nearest(text: str, present: Iterable[str | None]) -> SemanticVersion | None:
    """Of the `present` versions the one that differs least from `text`, in the major counter first.

    None without any, or if `text` is no semantic version.
    """
    wanted = parsed(text)
    versions = [version for each in present if each and (version := parsed(each))]
    if wanted is None or not versions:
        return None
    return min(
        versions,
        key=lambda each: (
            abs(each.major - wanted.major),
            abs(each.minor - wanted.minor),
            abs(each.patch - wanted.patch),
            each,
        ),
    )


FIRST: Final = SemanticVersion(1, 0, 0)


def closest(text: str) -> SemanticVersion:
    """The semantic version `text` comes closest to: of its first three numbers; `v1.0.0` without any."""
    numbers = [int(each) for each in re.findall(r"[0-9]{1,9}", text)[:3]]
    return SemanticVersion(*numbers, *[0] * (3 - len(numbers))) if numbers else FIRST


@dataclass(frozen=True)
class Interface:
    """What callers of a model depend on."""

    signature_sha256: str | None
    feature_service: str | None


def suggest(highest: SemanticVersion | None, previous: Interface | None, new: Interface) -> SemanticVersion:
    """The number after `highest` for a model whose last registered version had `previous`."""
    if highest is None:
        return FIRST
    if previous is not None and previous.signature_sha256 != new.signature_sha256:
        return SemanticVersion(highest.major + 1, 0, 0)
    if previous is not None and previous.feature_service != new.feature_service:
        return SemanticVersion(highest.major, highest.minor + 1, 0)
    return SemanticVersion(highest.major, highest.minor, highest.patch + 1)
