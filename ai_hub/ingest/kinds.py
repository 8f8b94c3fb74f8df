"""Kinds of meters: their units and physical bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError
from ai_hub.ingest.terms import AssetKind

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class KindRule:
    """Units and physical bounds of one kind of meter."""

    units: tuple[str, ...] = ()
    minimum: float | None = None


_ENERGY = ("Wh", "kWh", "MWh", "W", "kW", "MW")
_VOLUME = ("m3", "l", "ft3", "ccf", "gal")

# Electricity has no lower bound: a net meter runs backwards while the sun shines.
KINDS: Mapping[str, KindRule] = {
    AssetKind.ELECTRICITY: KindRule(_ENERGY),
    AssetKind.GAS: KindRule((*_ENERGY, "therm", "MJ", "GJ", *_VOLUME), minimum=0),
    AssetKind.HEAT: KindRule((*_ENERGY, "MJ", "GJ", "BTU"), minimum=0),
    AssetKind.COOLING: KindRule((*_ENERGY, "MJ", "GJ", "BTU"), minimum=0),
    AssetKind.WATER: KindRule(_VOLUME, minimum=0),
    AssetKind.SOLAR: KindRule(_ENERGY, minimum=0),
    AssetKind.WIND: KindRule(_ENERGY, minimum=0),
}


def check_unit(kind: str, unit: str) -> str:
    """`unit` in its usual spelling.

    Raises:
        BadInputError: not a unit of that kind of meter.
    """
    units = KINDS.get(kind, KindRule()).units
    if not units:
        return unit
    usual = next((known for known in units if known.casefold() == unit.casefold()), None)
    if usual is None:
        raise BadInputError(f"{unit!r} is not a unit of {kind}.", hint=f"Use one of {', '.join(units)}.")
    return usual
