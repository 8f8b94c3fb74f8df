"""Units of readings, and the kinds of meters that read in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError
from ai_hub.ingest.options import AssetKind, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Unit:
    """One unit; those of the same quantity convert to each other."""

    #: `energy` and `volume` are amounts over an interval, `power` is a rate.
    quantity: str
    #: In joules, watts or litres.
    size: float


#: The same units as in the function `reading_scale` of the database.
UNITS: Mapping[str, Unit] = {
    "Wh": Unit("energy", 3_600),
    "kWh": Unit("energy", 3_600_000),
    "MWh": Unit("energy", 3_600_000_000),
    "GWh": Unit("energy", 3_600_000_000_000),
    "MJ": Unit("energy", 1_000_000),
    "GJ": Unit("energy", 1_000_000_000),
    "BTU": Unit("energy", 1055.05585262),
    "therm": Unit("energy", 105_505_585.262),
    "W": Unit("power", 1),
    "kW": Unit("power", 1_000),
    "MW": Unit("power", 1_000_000),
    "GW": Unit("power", 1_000_000_000),
    "l": Unit("volume", 1),
    "m3": Unit("volume", 1_000),
    "ft3": Unit("volume", 28.316846592),
    "ccf": Unit("volume", 2831.6846592),
    "gal": Unit("volume", 3.785411784),
}
_BY_FOLDED = {name.casefold(): name for name in UNITS}


def canonical_unit(unit: str) -> str:
    """`unit` in its usual spelling; an unknown one unchanged."""
    return _BY_FOLDED.get(unit.strip().casefold(), unit.strip())


def is_amount(unit: str | None, reading: str | None) -> bool | None:
    """Whether readings are amounts, which need an interval; None where unit and reading are unknown."""
    if reading is not None:
        return reading != Reading.POWER
    definition = UNITS.get(canonical_unit(unit)) if unit is not None else None
    return None if definition is None else definition.quantity != "power"


def is_compatible(unit: str | None, reading: str | None) -> bool:
    """Whether a series in this unit can be this reading."""
    definition = UNITS.get(canonical_unit(unit)) if unit is not None else None
    return (
        definition is None
        or reading is None
        or (definition.quantity != "power") == (reading != Reading.POWER)
    )


def conversion(source: str, target: str) -> tuple[float, float] | None:
    """Multiplier and divisor that turn values in `source` into `target`; None where they do not convert.

    Two numbers, because multiplying by 0.001 rounds where dividing by 1000 does not.
    """
    source, target = canonical_unit(source), canonical_unit(target)
    if source == target:
        return 1.0, 1.0
    from_unit, to_unit = UNITS.get(source), UNITS.get(target)
    if from_unit is None or to_unit is None or from_unit.quantity != to_unit.quantity:
        return None
    large, small = max(from_unit.size, to_unit.size), min(from_unit.size, to_unit.size)
    if large % small == 0:
        return (large / small, 1.0) if from_unit.size >= to_unit.size else (1.0, large / small)
    return from_unit.size, to_unit.size


@dataclass(frozen=True)
class KindRule:
    """Bounds of the readings of one kind of meter, and when its series is stuck."""

    units: tuple[str, ...] = ()
    minimum: float | None = None
    #: Largest magnitude of a reading, as a multiple of the asset's capacity.
    over_capacity: float = 1.1
    #: A meter that repeats one value for longer is stuck.
    stuck_after: timedelta = timedelta(hours=12)
    #: Whether zero for a long time is normal.
    may_idle: bool = True


_ENERGY = ("Wh", "kWh", "MWh", "GWh", "W", "kW", "MW", "GW")
_VOLUME = ("m3", "l", "ft3", "ccf", "gal")
_HEAT = (*_ENERGY, "MJ", "GJ", "BTU")
# Meters with coarse steps repeat one small value for long.
_COARSE = timedelta(hours=18)

KINDS: Mapping[str, KindRule] = {
    # No lower bound: net meters count backwards with solar power. Some load is always on.
    AssetKind.ELECTRICITY: KindRule(_ENERGY, may_idle=False),
    AssetKind.GAS: KindRule((*_ENERGY, "therm", "MJ", "GJ", *_VOLUME), minimum=0, stuck_after=_COARSE),
    AssetKind.HEAT: KindRule(_HEAT, minimum=0),
    AssetKind.COOLING: KindRule(_HEAT, minimum=0),
    AssetKind.WATER: KindRule(_VOLUME, minimum=0, stuck_after=_COARSE),
    # Solar power changes within hours.
    AssetKind.SOLAR: KindRule(_ENERGY, minimum=0, stuck_after=timedelta(hours=6)),
    AssetKind.WIND: KindRule(_ENERGY, minimum=0),
}
_ANY = KindRule()


def rule_of(kind: str) -> KindRule:
    """The rule of a kind; unknown kinds have no bounds."""
    return KINDS.get(kind, _ANY)


def check_unit(kind: str, unit: str) -> str:
    """`unit` in its usual spelling.

    Raises:
        BadInputError: it is not a unit of that kind of meter.
    """
    units = rule_of(kind).units
    if not units:
        return canonical_unit(unit)
    standard = next((allowed for allowed in units if allowed.casefold() == unit.casefold()), None)
    if standard is None:
        raise BadInputError(f"{unit!r} is not a unit of {kind}.", hint=f"Use one of {', '.join(units)}.")
    return standard
