"""Which column of a file is which field of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Field:
    """One field a file may carry, and the column names that obviously mean it."""

    name: str
    aliases: tuple[str, ...] = ()


TIMESTAMP = Field("timestamp", ("time", "start", "dt", "datetime", "date_time"))
#: Where the interval ends that begins at the timestamp.
INTERVAL_END = Field("interval_end")
ASSET_ID = Field("asset_id", ("asset", "meter", "meter_id"))


def parse_mapping(text: str | None) -> dict[str, str]:
    """`timestamp=start,value=kwh` as a dictionary from field to column.

    Raises:
        BadInputError: a part is not `field=column`, or a field is named twice.
    """
    mapping: dict[str, str] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        field, separator, column = (piece.strip() for piece in part.partition("="))
        if not separator or not field or not column:
            raise BadInputError(
                f"--columns has {part.strip()!r}, which is not FIELD=COLUMN.",
                hint="Example: --columns timestamp=start,value=kwh",
            )
        if field in mapping:
            raise BadInputError(f"--columns names {field} twice.")
        mapping[field] = column
    return mapping


def resolve(
    fields: Sequence[Field], available: Sequence[str], given: Mapping[str, str], *, required: Sequence[str]
) -> dict[str, str]:
    """Column of each field the file carries, in the file's order: as given, else by its obvious name.

    Raises:
        BadInputError: a given column does not exist, a required field has none, or one is ambiguous;
            the text lists the file's columns.
    """
    listing = f"The file's columns are: {', '.join(available) or '(none)'}."
    names = [field.name for field in fields]
    if unknown := sorted(set(given) - set(names)):
        raise BadInputError(
            f"--columns names unknown field(s) {', '.join(unknown)}.",
            hint=f"Fields that can be mapped: {', '.join(names)}.",
        )
    if absent := sorted(column for column in given.values() if column not in available):
        raise BadInputError(f"The file has no column {', '.join(map(repr, absent))}.", hint=listing)
    found = dict(given)
    for field in fields:
        if field.name not in found and (column := _guess(field, available, set(found.values()))):
            found[field.name] = column
    if missing := [name for name in required if name not in found]:
        example = ",".join(f"{name}=COLUMN" for name in missing)
        raise BadInputError(
            f"No column of the file is recognised as {', '.join(missing)}.",
            hint=f"{listing} Name the right one with --columns {example}.",
        )
    for column in found.values():
        if available.count(column) > 1:
            raise BadInputError(f"The file has more than one column {column!r}.", hint=listing)
    return dict(sorted(found.items(), key=lambda pair: available.index(pair[1])))


def _guess(field: Field, available: Sequence[str], taken: set[str]) -> str | None:
    """The one column with the field's name or an alias, by that order of preference."""
    by_name = {column.strip().casefold(): column for column in reversed(available) if column not in taken}
    return next((by_name[name] for name in (field.name, *field.aliases) if name in by_name), None)
