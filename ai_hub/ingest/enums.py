"""Enumerations of the command line and of the tables; quick to import."""

from __future__ import annotations

from enum import StrEnum

UNKNOWN = "unknown"


class AssetKind(StrEnum):
    """What an asset measures; decides the rules its readings must meet."""

    ELECTRICITY = "electricity"
    GAS = "gas"
    HEAT = "heat"
    COOLING = "cooling"
    WATER = "water"
    SOLAR = "solar"
    WIND = "wind"
    WEATHER = "weather"
    UNKNOWN = UNKNOWN


class Reading(StrEnum):
    """What a reading of an asset is."""

    ENERGY = "energy"
    POWER = "power"
    #: The counter of a meter, which only rises.
    REGISTER = "register"


class Stamps(StrEnum):
    """Which end of its interval a reading's timestamp is."""

    START = "start"
    END = "end"


class Use(StrEnum):
    """Whether features use readings of a given quality."""

    USE = "use"
    LEAVE_OUT = "leave-out"


class Ambiguous(StrEnum):
    """How to read a local time that occurred twice."""

    INFER = "infer"
    EARLIEST = "earliest"
    LATEST = "latest"
    REJECT = "reject"


class Epoch(StrEnum):
    """Unit of a number that counts since 1970."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"
    #: Days since 30 December 1899, in local time.
    EXCEL = "excel"


class TemperatureUnit(StrEnum):
    """Unit of a file's temperatures; the table has °C."""

    CELSIUS = "C"
    FAHRENHEIT = "F"


class Nonexistent(StrEnum):
    """How to read a local time that never occurred."""

    REJECT = "reject"
    SHIFT_FORWARD = "shift-forward"


class FindingKind(StrEnum):
    """Kind of a finding."""

    GAP = "gap"
    STUCK = "stuck"
    SKIPPED_HOUR = "skipped_hour"
    REPEATED_HOUR = "repeated_hour"
    #: Two readings of a register whose difference is not an amount.
    REGISTER_FAULT = "register_fault"
    #: Two readings of a register that are too far apart.
    REGISTER_GAP = "register_gap"
    LOOKS_LIKE_REGISTER = "looks_like_register"
    UNKNOWN_INTERVAL = "unknown_interval"


class DateOrder(StrEnum):
    """Order of the parts of a date such as 01/02/2026."""

    DAY = "dmy"
    MONTH = "mdy"
    YEAR = "ymd"


class DecimalMark(StrEnum):
    """Decimal mark of a number."""

    POINT = "."
    COMMA = ","
