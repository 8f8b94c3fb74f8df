"""Public holidays by the library `holidays`."""

from __future__ import annotations

import warnings
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from feast_plugins.errors import DeclarationError

if TYPE_CHECKING:
    from datetime import date

YEARS: Final = range(2000, 2050)


@cache
def _countries() -> dict[str, str]:
    """ISO 3166 code of the country of each time zone."""
    rows = (files("tzdata.zoneinfo") / "zone.tab").read_text().splitlines()
    fields = (row.split("\t") for row in rows if not row.startswith("#"))
    return {zone: country for country, _, zone, *_ in fields}


def days_of_zone(timezone: str) -> tuple[date, ...] | None:
    """Public holidays of the country of a time zone, in order; None: it is of none, or they are not known."""
    country = _countries().get(timezone)
    try:
        return None if country is None else days(country, None)
    except DeclarationError:
        return None


@lru_cache(maxsize=64)
def days(country: str, subdivision: str | None) -> tuple[date, ...]:
    """Public holidays of a country, or of a part of it, in order.

    Raises:
        DeclarationError: the library is not installed, or does not know them.
    """
    try:
        import holidays  # noqa: PLC0415  # an extra of this distribution
    except ModuleNotFoundError as error:
        raise DeclarationError("Holidays need the library `holidays`: `pip install holidays`.") from error
    try:
        with warnings.catch_warnings():
            # of some countries it knows fewer years
            warnings.simplefilter("ignore", UserWarning)
            found = holidays.country_holidays(country, subdiv=subdivision, years=YEARS)
    except (NotImplementedError, AttributeError) as error:
        raise DeclarationError(
            f"There are no holidays of {country} {subdivision or ''}: {error}".strip()
        ) from error
    return tuple(sorted(found))
