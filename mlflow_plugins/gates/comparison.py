"""What a comparison of a version with the one in Production has shown, as the version's tags keep it.

`ai-hub compare` writes it. There is one look at each pair of versions: the tags are written once and stay.
Clients import this without MLflow.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Tags that begin so are written once; the number of the version in Production follows.
PREFIX: Final = "ai_hub.comparison"
_RECORD: Final = f"{PREFIX}."
_PLAN: Final = f"{PREFIX}_plan."
#: Share of the live issues that a shadow has forecast, too, and of its replays from the same features.
_MOST: Final = 0.9


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Plan(_Document):
    """When and how a version is compared, said before anybody can know what comes of it."""

    planned_at: datetime
    #: nobody looks before
    look_at: datetime
    #: of the replay, and days in shadow before the look
    weeks: int
    shadow_days: int


class StandIn(_Document):
    """What forecast the weeks of a replay for a version, which must not have been trained on them."""

    version: int
    semantic_version: str | None
    #: the version's own files; false: its recipe, fitted anew to what was known before the weeks
    is_registered: bool
    #: what it was fitted to
    trained_from: datetime
    trained_until: datetime

    def __str__(self) -> str:
        """What it was, in a phrase."""
        what = "as registered" if self.is_registered else "its recipe fitted anew before the weeks"
        return f"{what}, to data from {self.trained_from:%Y-%m-%d} to {self.trained_until:%Y-%m-%d}"


class Shadow(_Document):
    """Forecasts of the challenger in shadow before the look, and their replays."""

    days: int
    #: live issues in these days, and those of them that were forecast in shadow, too
    issues: int
    shadowed: int
    #: forecasts made again, one a day: with other bits from the same features, or from features that are
    #: known otherwise now
    replayed: int
    differing: int
    changed: int

    def __str__(self) -> str:
        """What it did, in a phrase."""
        return (
            f"{self.shadowed:,} of {self.issues:,} live issues of {self.days} days; of {self.replayed:,} "
            f"replays {self.differing:,} differ, and {self.changed:,} have features that are known otherwise"
        )

    def problem(self, days: int) -> str | None:
        """Why it does not show that the version forecasts for `days` as its replay does; None: it does."""
        if self.days < days:
            return f"It was looked at after {self.days} days in shadow, and {days} are asked for."
        if not self.issues or self.shadowed < _MOST * self.issues:
            return f"Of {self.issues} live issues it has forecast {self.shadowed} in shadow."
        if self.differing:
            return f"{self.differing} of {self.replayed} of its forecasts in shadow differ from their replay."
        # one replay a day: fewer are of fewer days
        if self.replayed < _MOST * days:
            return f"Forecasts of {self.replayed} days in shadow were made again, and {days} are asked for."
        if self.changed > (1 - _MOST) * self.replayed:
            return (
                f"Of {self.replayed} replayed forecasts the features of {self.changed} are known otherwise."
            )
        return None


class Pair(NamedTuple):
    """Two versions of a tenant's model."""

    tenant: str | None
    model: str | None
    challenger: int
    production: int

    def __str__(self) -> str:
        """Which they are, in a phrase."""
        return f"versions {self.challenger} and {self.production} of {self.model} (tenant {self.tenant})"


class Record(_Document):
    """One look at a challenger and the version in Production; gains are in % of production's MAE."""

    #: whose both are; None: of a record older than these fields, which may be of any model
    tenant: str | None = None
    model: str | None = None
    challenger: StandIn
    production: StandIn
    looked_at: datetime
    #: when the look was fixed
    planned_at: datetime
    #: weeks of the targets, from `start` to `end`; those that count, and what was compared in them
    start: datetime
    end: datetime
    weeks: int
    targets: int
    assets: int
    #: by first day, why other weeks do not count
    left_out: dict[str, str] = Field(default_factory=dict)
    #: what production's version forecasts and the challenger does not: targets of all weeks, meters
    missed: int = 0
    missed_assets: int = 0
    unit: str | None
    challenger_mae: float
    production_mae: float
    gain_percent: float
    #: of the paired difference
    interval_percent: tuple[float, float]
    interval_confidence: float
    #: Diebold and Mariano's, corrected, on weeks; `p` is one-sided
    statistic: float | None
    p: float
    #: by lead and by meters
    groups: dict[str, float] = Field(default_factory=dict)
    shadow: Shadow | None = None

    @property
    def pair(self) -> Pair:
        """The two versions."""
        return Pair(self.tenant, self.model, self.challenger.version, self.production.version)

    def __str__(self) -> str:
        """Error, interval and weeks, in a sentence."""
        low, high = self.interval_percent
        less = "less" if self.gain_percent >= 0 else "more"
        return (
            f"Over {self.weeks} weeks its MAE is {abs(self.gain_percent):.3g} % {less} than that of version "
            f"{self.production.version} ({self.interval_confidence:.0%} interval of the gain {low:.3g} to "
            f"{high:.3g} %, p = {self.p:.2g})"
        )

    def facts(self) -> dict[str, str]:
        """One-line facts by their names, for people."""
        unit = f" {self.unit}" if self.unit else ""
        (low, high), left = self.interval_percent, self.left_out
        found = {
            "Weeks": f"{self.weeks}, {self.start:%Y-%m-%d} to {self.end:%Y-%m-%d}",
            **({"Left out": "; ".join(f"{day}: {why}" for day, why in left.items())} if left else {}),
            "Targets": f"{self.targets:,} of {self.assets:,} meters",
            **self._missed(),
            "MAE": f"{self.challenger_mae:.4g}{unit}, of version {self.production.version} "
            f"{self.production_mae:.4g}{unit}",
            "Gain": f"{self.gain_percent:.3g} % ({self.interval_confidence:.0%} interval of the paired "
            f"difference {low:.3g} to {high:.3g} %), p = {self.p:.2g}",
            **{f"Gain, {name}": f"{gain:.3g} %" for name, gain in self.groups.items()},
            **{f"Version {each.version}": str(each) for each in (self.challenger, self.production)},
        }
        if self.shadow:
            found["In shadow"] = str(self.shadow)
        return found

    def _missed(self) -> dict[str, str]:
        if not self.missed:
            return {}
        what = f"{self.missed:,} targets"
        if self.missed_assets:
            what += f", all of {self.missed_assets:,} meters among them"
        return {f"Not forecast by version {self.challenger.version}": what}


def record_tag(production: int) -> str:
    """Name of the tag for the comparison with a version in Production."""
    return f"{_RECORD}{production}"


def plan_tag(production: int) -> str:
    """Name of the tag for its plan."""
    return f"{_PLAN}{production}"


def read_plan(text: str) -> Plan | None:
    """What a tag says; None where it is none: any client of MLflow may have written it."""
    try:
        return Plan.model_validate_json(text)
    except ValidationError:
        return None


def read_record(text: str, pair: Pair) -> Record | str:
    """The record of a pair of versions that a tag has; a sentence where it has none, as `read_plan`."""
    try:
        record = Record.model_validate_json(text)
    except ValidationError:
        return "It cannot be read."
    if record.tenant is None or record.model is None:
        return "It does not say of which model it is, as comparisons of earlier releases."
    if record.pair != pair:
        return f"It is of {record.pair}."
    return record


def records(tags: Mapping[str, str], tenant: str, model: str, version: int) -> list[Record]:
    """All that the tags of a version say of itself, the newest look first."""
    numbers = {key.removeprefix(_RECORD): text for key, text in tags.items() if key.startswith(_RECORD)}
    found = [
        read_record(text, Pair(tenant, model, version, int(number)))
        for number, text in numbers.items()
        if number.isdecimal()
    ]
    kept = [each for each in found if isinstance(each, Record)]
    return sorted(kept, key=lambda each: each.looked_at, reverse=True)
