"""Tables of declared feature views (feast_plugins/windows), whose names the catalog tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection


def tables(connection: Connection[Any]) -> list[str]:
    """Tables with rows of declared views; none on databases without the catalog."""
    row = connection.execute("SELECT to_regclass('public.declared_views') IS NOT NULL").fetchone()
    if row != (True,):
        return []
    views = connection.execute("SELECT view_name FROM declared_views ORDER BY view_name").fetchall()
    return [f"{name}_stored" for (name,) in views]
