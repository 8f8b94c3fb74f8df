"""SQL for the newest row of each entity, without those that a killed run has written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg import sql

from feast_plugins.postgres import sources

if TYPE_CHECKING:
    from datetime import timedelta


@dataclass(frozen=True)
class Done:
    """What an earlier run wrote: the newest rows up to `end` of the entities up to `last`."""

    last: list[str | int]
    end: datetime
    #: of the database, before the rows were read
    read_at: datetime


def latest(
    source: sources.Source, start: datetime, end: datetime, done: Done | None, commit_delay: timedelta
) -> sql.Composed:
    """Newest row of each entity from `start` to `end`, in the order of the keys.

    Of entities that are done, only rows count that were not there to be read: those of later times, and those
    that were created since. A transaction stamps its rows when it begins, and may commit them `commit_delay`
    later.
    """
    return sources.latest(_unfinished(source, done, commit_delay) if done else source, start, end)


def part_of(source: sources.Source, number: int, count: int) -> sources.Source:
    """The rows of one of `count` parts of the entities, which are of about the same size."""
    rows = sql.SQL(
        "(SELECT * FROM {relation} AS rows"
        " WHERE abs(hashtextextended(ROW({keys})::text, 0) % {count}) = {number})"
    ).format(
        relation=sql.SQL(source.relation),
        keys=sql.SQL(", ").join(map(sql.Identifier, source.keys)),
        count=sql.Literal(count),
        number=sql.Literal(number),
    )
    return replace(source, relation=rows.as_string(None))


def _unfinished(source: sources.Source, done: Done, commit_delay: timedelta) -> sources.Source:
    comma = sql.SQL(", ")
    rows = sql.SQL(
        "(SELECT * FROM {relation} AS rows WHERE ({keys}) > ({last})"
        " OR {time} > {end} OR {created} > {read_at} OR {created} IS NULL)"
    ).format(
        relation=sql.SQL(source.relation),  # a table or query of the feature repository
        keys=comma.join(map(sql.Identifier, source.keys)),
        last=comma.join(map(sql.Literal, done.last)),
        time=sql.Identifier(source.time),
        end=sql.Literal(done.end),
        created=sql.Identifier(source.created or source.time),
        read_at=sql.Literal(done.read_at - commit_delay),
    )
    return replace(source, relation=rows.as_string(None))
