"""History of feature views for entity rows: each row with the features as of its own time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adbc_driver_manager import dbapi

from feast_plugins.errors import EntityTypeError
from feast_plugins.history.as_of import newest_rows
from feast_plugins.history.probes import Probes
from feast_plugins.history.strategy import JoinStrategy, choose
from feast_plugins.history.view_read import read_rows
from feast_plugins.postgres.reads import schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from feast_plugins.history.entities import Entities
    from feast_plugins.history.knowledge import Knowledge
    from feast_plugins.history.view_read import ViewRead

_NO_SUCH_OPERATOR = "42883"


def join(
    connection: dbapi.Connection,
    entities: Entities,
    reads: Sequence[ViewRead],
    knowledge: Knowledge,
    *,
    strategy: JoinStrategy,
    full_feature_names: bool,
) -> pa.Table:
    """The entity rows in their order, with the features of every view.

    Raises:
        EntityTypeError: a key has another type than in a view, so that the two cannot be compared.
    """
    joined = entities.table
    for read in reads:
        try:
            answers = _answers(connection, entities, read, knowledge, strategy)
        except dbapi.ProgrammingError as error:
            if error.sqlstate != _NO_SUCH_OPERATOR:
                raise
            types = {name: str(joined.schema.field(name).type) for name in read.keys}
            raise EntityTypeError(read.view, types) from error
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
        schema(connection, in_reach)  # refuses keys that do not compare, as probes by their texts would not
        probes = Probes.of(connection, read, entities)
        if strategy == JoinStrategy.PROBE or choose(connection, probes, in_reach) == JoinStrategy.PROBE:
            return probes.answers(connection)
    asked, rows = read_rows(connection, read, in_reach, entities)
    as_known = knowledge.by_row and read.created is not None
    found = newest_rows(asked, rows, read.ttl, as_known=as_known)
    return rows.features.combine_chunks().take(found)
