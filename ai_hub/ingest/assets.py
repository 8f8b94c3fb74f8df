"""The register of assets: what a meter measures, in which unit and time zone, and whose weather it uses."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from psycopg import sql
from psycopg.rows import dict_row
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.ingest.enums import UNKNOWN, Reading
from ai_hub.ingest.units import check_unit, is_compatible
from ai_hub.names import ASSET_LENGTH, TENANT_PATTERN, is_asset_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from psycopg import Connection

# Files in the zone folder of some machines that are not zones.
_NO_ZONES = frozenset({"Factory", "localtime", "posixrules"})


def check_zone(name: str) -> str:
    """`name` if it is an IANA time zone.

    Raises:
        BadInputError: it is not.
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


def _check_id(asset_id: str) -> str:
    if not is_asset_id(asset_id):
        raise ValueError(f"must be 1 to {ASSET_LENGTH} printable characters, without a blank at its ends")
    return asset_id


class Asset(BaseModel):
    """One row of `assets`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tenant_id: Annotated[str, Field(pattern=f"^{TENANT_PATTERN}$")]
    asset_id: Annotated[str, AfterValidator(_check_id)]
    kind: str = UNKNOWN
    unit: str | None = None
    #: None: the unit decides
    reading: Reading | None = None
    #: Of readings that do not say their own.
    interval_seconds: Annotated[int, Field(gt=0)] | None = None
    #: Whole digits of a register, in `unit`.
    register_digits: Annotated[int, Field(ge=1, le=15)] | None = None
    timezone: Annotated[str, AfterValidator(check_zone)] = "UTC"
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = None
    capacity: Annotated[float, Field(gt=0)] | None = None
    weather_asset_id: str | None = None


def validate_asset(**values: Any) -> Asset:
    """An asset from raw values.

    Raises:
        BadInputError: a value is not allowed.
    """
    try:
        return Asset(**values)
    except ValidationError as error:
        parts = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise BadInputError(
            f"Not a valid asset: {'; '.join(parts)}",
            hint="Tenants are lower-case letters, digits and dashes; latitude and longitude are degrees.",
        ) from error


def find(
    connection: Connection[Any], tenant: str, asset_ids: Iterable[str] | None = None
) -> dict[str, Asset]:
    """Registered assets of a tenant by id: those of `asset_ids`, or all."""
    ids = None if asset_ids is None else list(asset_ids)
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT * FROM assets WHERE tenant_id = %(tenant)s"
            " AND (%(wanted)s::text[] IS NULL OR asset_id = ANY (%(wanted)s::text[])) ORDER BY asset_id",
            {"tenant": tenant, "wanted": ids},
        )
        return {row["asset_id"]: Asset.model_validate(row) for row in cursor}


def put(connection: Connection[Any], asset: Asset) -> Asset:
    """Register an asset, or change those values of a registered one that are set explicitly.

    Returns the asset as stored.

    Raises:
        NotFoundError: the weather comes from an asset that is not registered.
        BadInputError: the unit is not one of the asset's kind, or not one of what a reading is.
    """
    if asset.weather_asset_id and not find(connection, asset.tenant_id, [asset.weather_asset_id]):
        registered_ids = list(find(connection, asset.tenant_id))
        similar = get_close_matches(asset.weather_asset_id, registered_ids, n=1)
        raise NotFoundError(
            f"Tenant {asset.tenant_id} has no asset {asset.weather_asset_id} to take the weather from.",
            hint=f"Did you mean {similar[0]}?"
            if similar
            else "Register it first: `ai-hub asset add --kind weather …`.",
        )
    registered = find(connection, asset.tenant_id, [asset.asset_id]).get(asset.asset_id)
    stored = registered.model_copy(update=asset.model_dump(exclude_unset=True)) if registered else asset
    if stored.unit is not None:
        stored = stored.model_copy(update={"unit": check_unit(stored.kind, stored.unit)})
    if not is_compatible(stored.unit, stored.reading):
        raise BadInputError(
            f"{stored.unit} is not a unit of {stored.reading}.",
            hint="Energy is in kWh, m3 or the like, power is in kW: see --unit and --reading.",
        )
    if stored.register_digits is not None and stored.reading is not Reading.REGISTER:
        raise BadInputError("--digits are those of a register.", hint="Say --reading register.")
    values = stored.model_dump(mode="json")
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
    return stored


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
    """The assets of one run: each is read once, and a new one is registered with its first good row."""

    def __init__(
        self,
        connection: Connection[Any] | None,
        tenant: str,
        *,
        new_kind: str,
        timezone: str | None,
        read_only: bool = False,
    ) -> None:
        """Without a connection every asset is new; with `read_only` none is registered."""
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
        #: Assets this run had good rows of.
        self.written: set[str] = set()

    def get(self, asset_ids: Iterable[str]) -> dict[str, Asset]:
        """Assets by id; one that is not registered has the defaults of the run."""
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
        """Whether the asset had readings before this run that were not stored as a register's."""
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
        """Set values that the asset has not; they are stored with its next good row."""
        if changes:
            self._assets[asset_id] = self._assets[asset_id].model_copy(update=dict(changes))
            self._changed.add(asset_id)

    def register(self, asset_ids: Iterable[str]) -> None:
        """Store these assets where they are new or were filled in."""
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
