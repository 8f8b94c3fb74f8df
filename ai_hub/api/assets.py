"""Assets of a tenant, read from TimescaleDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
from psycopg.rows import dict_row

from ai_hub.database.transactions import transaction

if TYPE_CHECKING:
    from ai_hub.settings import Settings

_THREADS: Final = 2
_WHERE: Final = (
    "WHERE tenant_id = %(tenant)s AND (%(kind)s::text IS NULL OR kind = %(kind)s)"
    " AND (%(assets)s::text[] IS NULL OR asset_id = ANY (%(assets)s))"
)
_PAGE: Final = f"""
SELECT asset_id, kind, unit, feature_unit, timezone, latitude, longitude, capacity
FROM assets {_WHERE} ORDER BY asset_id LIMIT %(limit)s OFFSET %(offset)s
"""  # noqa: S608  # constants
_COUNT: Final = f"SELECT count(*) FROM assets {_WHERE}"  # noqa: S608  # constants


class AssetRepository:
    """Reads as the service's login, which sees one tenant."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limiter = anyio.CapacityLimiter(_THREADS)

    async def page(
        self, tenant: str, kind: str | None, assets: list[str] | None, limit: int, offset: int
    ) -> tuple[list[dict[str, Any]], int]:
        """Assets by id (of `assets`, or all), and how many there are in all.

        Raises:
            ServiceDownError: the database does not answer.
        """
        values = {"tenant": tenant, "kind": kind, "assets": assets, "limit": limit, "offset": offset}

        def read() -> tuple[list[dict[str, Any]], int]:
            with transaction(self._settings, tenant) as connection:
                with connection.cursor(row_factory=dict_row) as cursor:
                    found = cursor.execute(_PAGE.encode(), values).fetchall()
                row = connection.execute(_COUNT.encode(), values).fetchone()
            return found, row[0] if row else 0

        return await anyio.to_thread.run_sync(read, limiter=self._limiter)
