"""Kinds of meters: their units, physical bounds and what is normal for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError
from ai_hub.ingest.terms import AssetKind
from ai_hub.ingest.units import spelling

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class KindRule:
    """What readings of one kind of meter may be, and when they are odd."""

    units: tuple[str, ...] = ()
    minimum: float | None = None
    #: Largest magnitude of a reading, as a multiple of the asset's capacity.
    over_capacity: float = 1.1
    #: How long a meter repeats one value until it counts as stuck.
    stuck_after: timedelta = timedelta(hours=12)
    #: Whether nothing for a long time is normal.
    may_idle: bool = True


_ENERGY = ("Wh", "kWh", "MWh", "GWh", "W", "kW", "MW", "GW")
_VOLUME = ("m3", "l", "ft3", "ccf", "gal")
_HEAT = (*_ENERGY, "MJ", "GJ", "BTU")
# Meters that count in coarse steps show one small value for long.
_COARSE = timedelta(hours=18)

KINDS: Mapping[str, KindRule] = {
    # No lower bound: a net meter runs backwards while the sun shines. Something is always switched on.
    AssetKind.ELECTRICITY: KindRule(_ENERGY, may_idle=False),
    AssetKind.GAS: KindRule((*_ENERGY, "therm", "MJ", "GJ", *_VOLUME), minimum=0, stuck_after=_COARSE),
    AssetKind.HEAT: KindRule(_HEAT, minimum=0),
    AssetKind.COOLING: KindRule(_HEAT, minimum=0),
    AssetKind.WATER: KindRule(_VOLUME, minimum=0, stuck_after=_COARSE),
    # The sun does not shine alike for long.
    AssetKind.SOLAR: KindRule(_ENERGY, minimum=0, stuck_after=timedelta(hours=6)),
    AssetKind.WIND: KindRule(_ENERGY, minimum=0),
}
_ANY = KindRule()


def rule_of(kind: str) -> KindRule:
    """The rule of a kind; one that is not known may be anything."""
    return KINDS.get(kind, _ANY)


def check_unit(kind: str, unit: str) -> str:
    """`unit` in its usual spelling.

    Raises:
        BadInputError: not a unit of that kind of meter.
    """
    units = rule_of(kind).units
    if not units:
        return spelling(unit)
    usual = next((known for known in units if known.casefold() == unit.casefold()), None)
    if usual is None:
        raise BadInputError(f"{unit!r} is not a unit of {kind}.", hint=f"Use one of {', '.join(units)}.")
    return usual
