"""Chunks: their intervals follow the rate of the readings, and old forecasts are removed by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai_hub.db.connection import connect

if TYPE_CHECKING:
    from datetime import timedelta

_SET_RETENTION = """
SELECT alter_job(job_id, config => jsonb_build_object('days', %(days)s::integer))
FROM timescaledb_information.jobs
WHERE proc_name = 'remove_old_forecasts' AND (config ->> 'days')::integer IS DISTINCT FROM %(days)s::integer
"""


def follow_rate(dsn: str | None = None) -> list[tuple[str, timedelta, timedelta]]:
    """Let chunks to come hold tens of millions of rows; hypertables that changed, with both intervals."""
    with connect(dsn, autocommit=True, application_name="ai-hub migrate") as connection:
        return connection.execute("SELECT * FROM follow_rate_with_chunks()").fetchall()


def set_forecast_retention(days: int | None, dsn: str | None = None) -> bool:
    """Remove forecasts of targets older than so many days, now and daily; None: none. Whether that changed.

    The daily removal needs the server's background workers, which the embedded one has not.
    """
    with connect(dsn, autocommit=True, application_name="ai-hub migrate") as connection:
        changed = connection.execute(_SET_RETENTION, {"days": days}).fetchall()
        connection.execute("CALL remove_old_forecasts(0, jsonb_build_object('days', %s::integer))", [days])
    return bool(changed)
