"""Chunk intervals that follow the rate of the readings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai_hub.db.connection import connect

if TYPE_CHECKING:
    from datetime import timedelta


def follow_rate(dsn: str | None = None) -> list[tuple[str, timedelta, timedelta]]:
    """Let chunks to come hold tens of millions of rows; hypertables that changed, with both intervals."""
    with connect(dsn, autocommit=True, application_name="ai-hub migrate") as connection:
        return connection.execute("SELECT * FROM follow_rate_with_chunks()").fetchall()
