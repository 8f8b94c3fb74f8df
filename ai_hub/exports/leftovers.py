"""Files that failed jobs left where the store was away at their end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from botocore.exceptions import BotoCoreError, ClientError
from psycopg.rows import class_row

from ai_hub.errors import AiHubError
from ai_hub.exports.database import transaction
from ai_hub.exports.failures import reason
from ai_hub.exports.jobs import COLUMNS, Job
from ai_hub.exports.targets import target_of

if TYPE_CHECKING:
    from ai_hub.settings import Settings

_log = structlog.get_logger(__name__)
# Pauses grow with the time since the job ended, and after a week it is given up. Open uploads are known by
# their path only, so a job that has the path now is waited for.
_TAKE = f"""
UPDATE feature_exports SET clean_after = clock_timestamp()
    + least(greatest(clock_timestamp() - completed_at, INTERVAL '30 s'), INTERVAL '1 hour')
WHERE export_id = (
    SELECT export_id FROM feature_exports AS ended
    WHERE status = 'failed' AND clean_after <= clock_timestamp()
        AND completed_at > clock_timestamp() - INTERVAL '7 days'
        AND NOT EXISTS (
            SELECT FROM feature_exports AS other
            WHERE other.tenant_id = ended.tenant_id AND other.output_path = ended.output_path
                AND other.status IN ('pending', 'running')
        )
    ORDER BY clean_after LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING {COLUMNS}
"""  # noqa: S608  # constants


def remove(settings: Settings) -> None:
    """Remove what is due, until a store refuses."""
    while (job := _take(settings)) is not None:
        try:
            target_of(settings, job).clean()
        except (AiHubError, OSError, BotoCoreError, ClientError) as error:
            _log.warning(
                "files_left", export_id=str(job.export_id), tenant=job.tenant_id, reason=reason(error)
            )
            return
        with transaction(settings) as connection:
            connection.execute(
                "UPDATE feature_exports SET clean_after = NULL WHERE export_id = %s", [job.export_id]
            )


def _take(settings: Settings) -> Job | None:
    with transaction(settings) as connection, connection.cursor(row_factory=class_row(Job)) as cursor:
        return cursor.execute(_TAKE.encode()).fetchone()
