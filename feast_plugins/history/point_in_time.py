"""History of feature views for entity rows: each row with the features as of its own time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feast_plugins.history.as_of import newest_rows
from feast_plugins.history.probes import Probes
from feast_plugins.history.strategy import JoinStrategy, choose
from feast_plugins.history.view_read import read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from adbc_driver_manager import dbapi

    from feast_plugins.history.entities import Entities
    from feast_plugins.history.knowledge import Knowledge
    from feast_plugins.history.view_read import ViewRead


def join(
    connection: dbapi.Connection,
    entities: Entities,
    reads: Sequence[ViewRead],
    knowledge: Knowledge,
    *,
    strategy: JoinStrategy,
    full_feature_names: bool,
) -> pa.Table:
    """The entity rows in their order, with the features of every view."""
    joined = entities.table
    for read in reads:
        answers = _answers(connection, entities, read, knowledge, strategy)
        for feature, name in read.outputs(full_feature_names).items():
            joined = joined.append_column(name, answers[feature])
    return joined


def _answers(
    connection: dbapi.Connection,
    entities: Entities,
    read: ViewRead,
    knowledge: Knowledge,
    strategy: JoinStrategy,
) -> pa.Table:
    """Features of one view for each entity row."""
    in_reach = read.in_reach(entities, knowledge)
    # probes see rows as they are now
    if strategy != JoinStrategy.RANGE and not knowledge.is_limited and entities.table.num_rows:
        probes = Probes.of(connection, read, entities)
        if strategy == JoinStrategy.PROBE or choose(connection, probes, in_reach) == JoinStrategy.PROBE:
            return probes.answers(connection)
    asked, rows = read_rows(connection, read, in_reach, entities)
    as_known = knowledge.by_row and read.created is not None
    found = newest_rows(asked, rows, read.ttl, as_known=as_known)
    return rows.features.combine_chunks().take(found)
