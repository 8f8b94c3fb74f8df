"""Limits of a feature's values, kept as tags of its field in Feast's registry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

from feast_plugins.errors import DeclarationError

if TYPE_CHECKING:
    from collections.abc import Mapping

MINIMUM_TAG: Final = "minimum"
MAXIMUM_TAG: Final = "maximum"
NULL_SHARE_TAG: Final = "null_share"
MAX_AGE_TAG: Final = "max_age_hours"
#: `warn` or `refuse`
POLICY_TAG: Final = "on_violation"
_POLICIES: Final = ("warn", "refuse")
_NUMBERS: Final = (MINIMUM_TAG, MAXIMUM_TAG, NULL_SHARE_TAG, MAX_AGE_TAG)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the values of a feature may be; None: no limit. Infinite numbers are never within limits.

    `tags` goes into the tags of a Feast `Field`, or `declared_view(limits=…)` puts it there.

    Raises:
        DeclarationError: a limit cannot be.
    """

    minimum: float | None = None
    maximum: float | None = None
    #: share of rows without a value, from 0 to 1, once an asset has the history that the feature looks back
    null_share: float | None = None
    #: how old the newest row with a value may be
    max_age: timedelta | None = None
    #: `warn`, or `refuse` to train with the feature and to put the row online
    on_violation: str = "warn"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in (MINIMUM_TAG, MAXIMUM_TAG, NULL_SHARE_TAG):
            value = getattr(self, name)
            if value is not None and (
                not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value)
            ):
                raise DeclarationError(f"{name} of Limits is a finite number, not {value!r}.")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise DeclarationError(
                f"minimum of Limits is at most their maximum, not {self.minimum:g} with {self.maximum:g}."
            )
        if self.null_share is not None and not 0 <= self.null_share <= 1:
            raise DeclarationError(f"null_share of Limits is from 0 to 1, not {self.null_share:g}.")
        if self.max_age is not None and not (
            isinstance(self.max_age, timedelta) and self.max_age > timedelta(0)
        ):
            raise DeclarationError(f"max_age of Limits is a timedelta above 0, not {self.max_age!r}.")
        if self.on_violation not in _POLICIES:
            raise DeclarationError(
                f"on_violation of Limits is {' or '.join(_POLICIES)}, not {self.on_violation!r}."
            )

    @property
    def tags(self) -> dict[str, str]:
        """Tags of a field that say these limits."""
        hours = None if self.max_age is None else self.max_age / timedelta(hours=1)
        numbers = zip(_NUMBERS, (self.minimum, self.maximum, self.null_share, hours), strict=True)
        found = {name: f"{value!r}" for name, value in numbers if value is not None}
        return {**found, POLICY_TAG: self.on_violation}

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Self | None:
        """The limits that tags of a field say; None: they say none.

        Raises:
            DeclarationError: a tag is not a number, or a limit cannot be.
        """
        if not {*_NUMBERS, POLICY_TAG} & tags.keys():
            return None
        numbers = {}
        for name in _NUMBERS:
            try:
                numbers[name] = float(tags[name]) if name in tags else None
            except ValueError:
                raise DeclarationError(f"Tag {name} is a number, not {tags[name]!r}.") from None
        hours = numbers.pop(MAX_AGE_TAG)
        try:
            max_age = None if hours is None else timedelta(hours=hours)
        except (ValueError, OverflowError):
            raise DeclarationError(
                f"Tag {MAX_AGE_TAG} is a number of hours, not {tags[MAX_AGE_TAG]!r}."
            ) from None
        return cls(**numbers, max_age=max_age, on_violation=tags.get(POLICY_TAG, "warn"))

    def __str__(self) -> str:
        """What a value breaks."""
        if self.minimum is not None and self.maximum is not None:
            return f"outside {self.minimum:g}..{self.maximum:g}"
        if self.minimum is not None:
            return f"below {self.minimum:g} or infinite"
        if self.maximum is not None:
            return f"above {self.maximum:g} or infinite"
        return "infinite"
