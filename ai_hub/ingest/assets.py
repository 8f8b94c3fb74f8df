"""Assets: what a meter measures, in which unit and time zone, and whose weather it uses."""

from __future__ import annotations

from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, LiteralString
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from psycopg import sql
from psycopg.rows import dict_row
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.ingest.options import UNKNOWN, Reading
from ai_hub.ingest.units import check_unit, is_compatible
from ai_hub.names import ASSET_LENGTH, TENANT_PATTERN, is_asset_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from psycopg import Connection

_ID_RULE = f"must be 1 to {ASSET_LENGTH} printable characters, without a blank at its ends"
# Files in the zone folder of some machines that are not zones.
_NO_ZONES = frozenset({"Factory", "localtime", "posixrules"})


def check_zone(name: str) -> str:
    """Return `name` if it is an IANA time zone.

    Raises:
        BadInputError: `name` is not an IANA time zone.
    """
    try:
        if name.startswith(("posix/", "right/")) or name in _NO_ZONES:
            raise ZoneInfoNotFoundError(name)  # noqa: TRY301 - refused like one that does not exist
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadInputError(
            f"{name!r} is not a time zone.",
            hint="Use an IANA name such as Europe/London, America/Chicago or UTC.",
        ) from error
    return name


def _check_key(text: str) -> str:
    if not is_asset_id(text):
        raise ValueError(_ID_RULE)
    return text


Key = Annotated[str, AfterValidator(_check_key)]


class Asset(BaseModel):
    """One row of `assets`; `validate_asset` checks the id of a new one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tenant_id: Annotated[str, Field(pattern=f"^{TENANT_PATTERN}$")]
    asset_id: str
    kind: str = UNKNOWN
    unit: str | None = None
    #: None: by the unit
    reading: Reading | None = None
    #: Interval of readings without one of their own.
    interval_seconds: Annotated[int, Field(gt=0)] | None = None
    #: Whole digits of a register, in `unit`.
    register_digits: Annotated[int, Field(ge=1, le=15)] | None = None
    timezone: Annotated[str, AfterValidator(check_zone)] = "UTC"
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = None
    capacity: Annotated[float, Field(gt=0)] | None = None
    weather_asset_id: str | None = None
    #: Keys of external series and of own tables that the asset uses.
    price_zone: Key | None = None
    group: Key | None = None
    weather_station: Key | None = None
    #: After the end of a step, until its readings are available.
    available_after: Annotated[timedelta, Field(ge=timedelta(0), le=timedelta(days=90))] = timedelta(0)


def validate_asset(**values: Any) -> Asset:
    """A new asset from raw values.

    Raises:
        BadInputError: a value is not allowed.
    """
    try:
        asset = Asset(**values)
    except ValidationError as error:
        raise BadInputError(
            f"Not a valid asset: {_reasons(error)}",
            hint="Tenants are lower-case letters, digits and dashes; latitude and longitude are degrees.",
        ) from error
    if not is_asset_id(asset.asset_id):
        raise BadInputError(f"Not a valid asset: asset_id: {_ID_RULE}")
    return asset


def _reasons(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())


def find(connection: Connection[Any], tenant: str, asset_ids: Iterable[str]) -> dict[str, Asset]:
    """Registered assets of a tenant by id: those of `asset_ids`.

    Raises:
        BadInputError: one of the stored rows is invalid, as SQL can write it.
    """
    registered, invalid = _read(
        connection,
        "SELECT * FROM assets WHERE tenant_id = %s AND asset_id = ANY (%s::text[]) ORDER BY asset_id",
        [tenant, list(asset_ids)],
    )
    for asset_id, reason in invalid.items():
        raise BadInputError(
            f"The stored asset {asset_id!r} of tenant {tenant} is invalid: {reason}",
            hint="Correct its row of the table assets by SQL.",
        )
    return registered


def find_all(connection: Connection[Any], tenant: str) -> tuple[dict[str, Asset], dict[str, str]]:
    """All assets of a tenant by id, and what is invalid in stored rows, by id, as SQL can write it.

    An asset of which only the id is invalid is in both.
    """
    query = "SELECT * FROM assets WHERE tenant_id = %s ORDER BY asset_id"
    registered, invalid = _read(connection, query, [tenant])
    ids = {asset_id: f"asset_id: {_ID_RULE}" for asset_id in registered if not is_asset_id(asset_id)}
    return registered, ids | invalid


def _read(
    connection: Connection[Any], query: LiteralString, values: list[Any]
) -> tuple[dict[str, Asset], dict[str, str]]:
    """Valid assets by id, and why the other rows are invalid, by id."""
    registered, invalid = {}, {}
    with connection.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(query, values):
            try:
                registered[row["asset_id"]] = Asset.model_validate(row)
            except ValidationError as error:
                invalid[row["asset_id"]] = _reasons(error)
    return registered, invalid


def save(connection: Connection[Any], asset: Asset) -> Asset:
    """Register an asset, or change those values of a registered one that are set explicitly.

    Returns the stored asset.

    Raises:
        NotFoundError: `weather_asset_id` is not registered.
        BadInputError: the unit does not suit the kind or reading, or digits are set without a register.
    """
    if asset.weather_asset_id and not find(connection, asset.tenant_id, [asset.weather_asset_id]):
        registered_ids = list(find_all(connection, asset.tenant_id)[0])
        similar = get_close_matches(asset.weather_asset_id, registered_ids, n=1)
        raise NotFoundError(
            f"Tenant {asset.tenant_id} has no asset {asset.weather_asset_id} to take the weather from.",
            hint=f"Did you mean {similar[0]}?"
            if similar
            else "Register it first: `ai-hub asset add --kind weather …`.",
        )
    registered = find(connection, asset.tenant_id, [asset.asset_id]).get(asset.asset_id)
    updated = registered.model_copy(update=asset.model_dump(exclude_unset=True)) if registered else asset
    if updated.unit is not None:
        updated = updated.model_copy(update={"unit": check_unit(updated.kind, updated.unit)})
    if not is_compatible(updated.unit, updated.reading):
        raise BadInputError(
            f"{updated.unit} is not a unit of {updated.reading}.",
            hint="Energy is in kWh, m3 or the like, power is in kW: see --unit and --reading.",
        )
    if updated.register_digits is not None and updated.reading is not Reading.REGISTER:
        raise BadInputError("--digits are those of a register.", hint="Say --reading register.")
    values = updated.model_dump(mode="json")
    names = [name for name in values if name not in {"tenant_id", "asset_id"}]
    statement = sql.SQL(
        "INSERT INTO assets ({names}) VALUES ({values})"
        " ON CONFLICT (tenant_id, asset_id) DO UPDATE SET {changes}"
    ).format(
        names=sql.SQL(", ").join(map(sql.Identifier, values)),
        values=sql.SQL(", ").join(map(sql.Placeholder, values)),
        changes=sql.SQL(", ").join(
            sql.SQL("{name} = excluded.{name}").format(name=sql.Identifier(name)) for name in names
        ),
    )
    connection.execute(statement, values)
    return updated


def register(connection: Connection[Any], assets: Sequence[Asset]) -> None:
    """Insert assets; of a registered one, only missing values are set."""
    names = (
        *("tenant_id", "asset_id", "kind", "unit", "timezone", "reading", "interval_seconds"),
        "register_digits",
    )
    connection.execute(
        "INSERT INTO assets"
        " (tenant_id, asset_id, kind, unit, timezone, reading, interval_seconds, register_digits)"
        " SELECT * FROM unnest(%(tenant_id)s::text[], %(asset_id)s::text[], %(kind)s::text[],"
        " %(unit)s::text[], %(timezone)s::text[], %(reading)s::text[], %(interval_seconds)s::integer[],"
        " %(register_digits)s::integer[])"
        " ON CONFLICT (tenant_id, asset_id) DO UPDATE SET unit = COALESCE(assets.unit, excluded.unit),"
        " reading = COALESCE(assets.reading, excluded.reading),"
        " register_digits = COALESCE(assets.register_digits, excluded.register_digits),"
        " interval_seconds = COALESCE(assets.interval_seconds, excluded.interval_seconds)",
        {name: [asset.model_dump(mode="json")[name] for asset in assets] for name in names},
    )


class AssetCache:
    """Cache of the assets of one run; a new asset is registered with its first good row."""

    def __init__(
        self,
        connection: Connection[Any] | None,
        tenant: str,
        *,
        new_kind: str,
        timezone: str | None,
        read_only: bool = False,
    ) -> None:
        """Without a connection every asset is new; with `read_only` no asset is registered."""
        self._read_only = read_only
        self._connection = connection
        self._tenant = tenant
        self._defaults = {"kind": new_kind, "timezone": timezone or "UTC"}
        self._assets: dict[str, Asset] = {}
        self._unregistered: set[str] = set()
        self._changed: set[str] = set()
        self._with_amounts: dict[str, bool] = {}
        #: Assets registered by this run.
        self.new: list[str] = []
        #: Assets with good rows in this run.
        self.written: set[str] = set()

    def get(self, asset_ids: Iterable[str]) -> dict[str, Asset]:
        """Assets by id; unregistered ones with the defaults of the run."""
        ids = set(asset_ids)
        if missing := ids - self._assets.keys():
            registered = find(self._connection, self._tenant, missing) if self._connection else {}
            self._unregistered |= missing - registered.keys()
            for asset_id in missing:
                self._assets[asset_id] = registered.get(asset_id) or validate_asset(
                    tenant_id=self._tenant, asset_id=asset_id, **self._defaults
                )
        return {asset_id: self._assets[asset_id] for asset_id in ids}

    def has_amounts(self, asset_id: str) -> bool:
        """Whether the asset has readings that were not stored as those of a register."""
        if asset_id not in self._with_amounts:
            row = (
                self._connection
                and self._connection.execute(
                    "SELECT FROM timeseries_data WHERE tenant_id = %s AND asset_id = %s LIMIT 1",
                    [self._tenant, asset_id],
                ).fetchone()
            )
            self._with_amounts[asset_id] = row is not None
        return self._with_amounts[asset_id]

    def registers(self, asset_ids: Iterable[str]) -> set[str]:
        """Those of the assets that are registers."""
        by_id = self.get(asset_ids)
        return {asset_id for asset_id, asset in by_id.items() if asset.reading is Reading.REGISTER}

    def fill_in(self, asset_id: str, changes: Mapping[str, object]) -> None:
        """Set missing values of the asset; they are stored with its next good row."""
        if changes:
            self._assets[asset_id] = self._assets[asset_id].model_copy(update=dict(changes))
            self._changed.add(asset_id)

    def register(self, asset_ids: Iterable[str]) -> None:
        """Store those of these assets that are new or were filled in."""
        self.written.update(asset_ids)
        changed = [
            asset_id for asset_id in sorted(set(asset_ids)) if asset_id in self._changed | self._unregistered
        ]
        if not changed:
            return
        if self._connection is not None and not self._read_only:
            register(self._connection, [self._assets[asset_id] for asset_id in changed])
        self.new += [asset_id for asset_id in changed if asset_id in self._unregistered]
        self._unregistered -= set(changed)
        self._changed -= set(changed)
