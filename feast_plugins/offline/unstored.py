"""Rows of declared views that are not stored, or were not yet at the time whose knowledge is asked for.

Those that are not stored are computed as they are read. What was not stored yet was not known.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from psycopg import sql

from feast_plugins.offline.views import AsOfFilter
from feast_plugins.postgres.session import fetch, fetch_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from adbc_driver_manager import dbapi

    from feast_plugins.offline.entities import Entities
    from feast_plugins.offline.views import ViewRead

_logger: Final = logging.getLogger(__name__)
# Rows of the last day wait for no more than the next refresh.
_UNSTORED: Final = """\
SELECT view_name::text AS view,
    sum(rows_in((rows - stored) * tstzmultirange(asked.span), step))::bigint AS rows
FROM declared_rows
CROSS JOIN LATERAL (
    SELECT
        time_bucket(step, {first} + step - INTERVAL '1 microsecond') AS first,
        time_bucket(step, least({last}, now() - INTERVAL '1 day')) + step AS stop
) AS steps
CROSS JOIN LATERAL (SELECT tstzrange(steps.first, greatest(steps.first, steps.stop)) AS span) AS asked
WHERE view_name = ANY ({views}) {keys}
GROUP BY view_name"""
_STORED_LATER: Final = """\
SELECT count(*) AS rows, min(created) AS created
FROM (
    SELECT min({created}) AS created FROM {relation} WHERE {conditions} GROUP BY {keys}, {time}
    HAVING min({created}) > {known}
) AS later"""
_DECLARED_LATER: Final = """\
SELECT max(earlier.ended_at) AS since, array_agg(meaning.feature ORDER BY meaning.feature) AS features
FROM declared_views AS views
CROSS JOIN LATERAL jsonb_each_text(views.meanings) AS meaning (feature, generation)
JOIN declared_generations AS earlier
    ON earlier.view_name = views.view_name AND earlier.generation = meaning.generation::integer - 1
WHERE views.view_name = {view} AND meaning.feature = ANY ({features}::text[]) AND earlier.ended_at > {known}
HAVING count(*) > 0"""
_KEYS: Final = ("tenant_id", "asset_id")
_PRESENT: Final = AsOfFilter()


def count_unstored(
    connection: dbapi.Connection,
    reads: Sequence[ViewRead],
    span: tuple[datetime | None, datetime],
    keys: Mapping[str, Sequence[str]],
) -> dict[str, int]:
    """How many rows in a span of time are not stored, by declared view; views without such rows are left out.

    Args:
        connection: of the owner, or one that sees a single tenant's rows.
        reads: of views, declared or not.
        span: first and last time; None: from the beginning on.
        keys: values of `tenant_id` and `asset_id`; one that is missing is not compared.
    """
    views = sorted({read.declared for read in reads if read.declared is not None})
    if not views or not _may_read(connection, "declared_rows"):
        return {}
    first, last = (sql.SQL("{}::timestamptz").format(sql.Literal(time)) for time in span)
    query = sql.SQL(_UNSTORED).format(
        first=first,
        last=last,
        views=sql.SQL("{}::name[]").format(sql.Literal(views)),
        keys=sql.Composed(
            [
                sql.SQL("AND {} = ANY ({}::text[]) ").format(sql.Identifier(name), sql.Literal(list(values)))
                for name, values in keys.items()
            ]
        ),
    )
    return {row["view"]: row["rows"] for row in fetch(connection, query).to_pylist() if row["rows"]}


def warn_of_unstored(
    connection: dbapi.Connection,
    reads: Sequence[ViewRead],
    span: tuple[datetime, datetime],
    entities: Entities | None = None,
    as_of_filter: AsOfFilter = _PRESENT,
) -> None:
    """Log how many rows are computed as they are read, or are not known because nothing of them is stored.

    Args:
        connection: of the owner.
        reads: of views, declared or not.
        span: first and last time of the entity rows, or of the rows.
        entities: the entity rows; None: rows of all keys are read.
        as_of_filter: what knowledge is asked for.
    """
    declared = [read for read in reads if read.declared is not None]
    keys: dict[str, list[str]] = {}
    first: datetime | None = span[0]
    if entities is not None:
        for column, name in sorted({(of, name) for read in declared for name, of in read.keys.items()}):
            if column in _KEYS:
                keys[column] = [*keys.get(column, ()), *entities.values(name)]
        ttls = [read.ttl for read in declared if read.ttl is not None]
        first = span[0] - max(ttls, default=timedelta(0)) if len(ttls) == len(declared) else None
    for view, rows in count_unstored(connection, declared, (first, span[1]), keys).items():
        _logger.warning(
            "%s: %s rows from %s to %s are not stored, so %s. `ai-hub features backfill %s` stores them.",
            view,
            f"{rows:,}",
            *(f"{time:%Y-%m-%d %H:%M}" for time in span),
            "nothing was known of them: their features are empty"
            if as_of_filter.is_limited
            else "they are computed as they are read: that takes longer, and features of weather older than "
            "a year are empty",
            view,
        )


def warn_of_later(
    connection: dbapi.Connection,
    read: ViewRead,
    entities: Entities,
    as_of_filter: AsOfFilter,
    *,
    lacks_rows: bool,
) -> None:
    """Log what of a declared view was stored or declared after the time whose knowledge is asked for.

    Args:
        connection: of the owner.
        read: of the view.
        entities: the entity rows.
        as_of_filter: what knowledge is asked for.
        lacks_rows: whether an entity row found nothing.
    """
    if read.declared is None or read.created is None:
        return
    at = as_of_filter.at
    when = "then" if at is None else f"at {at:%Y-%m-%d %H:%M}"
    known = sql.SQL("{}::timestamptz").format(sql.Literal(entities.span[0] if at is None else at))
    if lacks_rows:
        time = sql.Identifier(read.time)
        query = sql.SQL(_STORED_LATER).format(
            created=sql.Identifier(read.created),
            relation=read.relation,
            conditions=sql.SQL(" AND ").join(read.asked(entities)),
            keys=sql.SQL(", ").join(map(sql.Identifier, read.keys.values())),
            time=time,
            # rows are stored when their hour has begun
            known=sql.SQL("{} + INTERVAL '1 day'").format(time) if at is None else known,
        )
        (stored,) = fetch(connection, query).to_pylist()
        if stored["rows"]:
            _logger.warning(
                "%s: %s rows were stored on %s or later, so nothing was known of them %s: "
                "their features are empty.",
                *(read.declared, f"{stored['rows']:,}", f"{stored['created']:%Y-%m-%d %H:%M}", when),
            )
    if not _may_read(connection, "declared_generations"):
        return
    query = sql.SQL(_DECLARED_LATER).format(
        view=sql.Literal(read.declared), features=sql.Literal(list(read.features)), known=known
    )
    for declared in fetch(connection, query).to_pylist():
        _logger.warning(
            "%s: %s are declared as now since %s: what was known %s is what they were, or empty.",
            *(read.declared, ", ".join(declared["features"]), f"{declared['since']:%Y-%m-%d %H:%M}", when),
        )


def _may_read(connection: dbapi.Connection, relation: str) -> bool:
    """Whether a relation of the catalog is there: not in a database without AI Hub, or of earlier ones."""
    query = sql.SQL("SELECT has_table_privilege(to_regclass({})::oid, 'SELECT')").format(
        sql.Literal(relation)
    )
    return fetch_value(connection, query) is True
