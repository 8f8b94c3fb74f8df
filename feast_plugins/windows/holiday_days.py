"""Public holidays by the library `holidays`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from feast_plugins.errors import DeclarationError

if TYPE_CHECKING:
    from datetime import date

YEARS: Final = range(2000, 2050)


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
        found = holidays.country_holidays(country, subdiv=subdivision, years=YEARS)
    except (NotImplementedError, AttributeError) as error:
        raise DeclarationError(
            f"There are no holidays of {country} {subdivision or ''}: {error}".strip()
        ) from error
    return tuple(sorted(found))
