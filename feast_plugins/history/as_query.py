"""History for entity rows as one query, for whoever wants to see or to run it elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from feast_plugins.history.probes import Probes, array

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from adbc_driver_manager import dbapi

    from feast_plugins.history.entities import Entities
    from feast_plugins.history.view_read import ViewRead

_PLACE = "entity_row"


def query(
    connection: dbapi.Connection,
    entities: Entities,
    reads: Sequence[ViewRead],
    *,
    full_feature_names: bool,
) -> sql.Composed:
    """Query of the entity rows, which are literals in it, each with the features as of its time."""
    names = entities.table.column_names
    # keys have the types of the views' keys, so that an index on them serves
    kinds = {field.name: _kind(field.type) for field in entities.table.schema}
    answers: list[sql.Composable] = []
    picked: list[sql.Composable] = [sql.Identifier("given", name) for name in names]
    for number, read in enumerate(reads):
        probes = Probes.of(connection, read, entities)
        kinds |= zip(read.keys, probes.types, strict=True)
        view = f"view_{number}"
        answers.append(
            sql.SQL(" LEFT JOIN LATERAL {} AS {} ON true").format(
                probes.answer({name: name for name in read.keys}, entities.time, read.features),
                sql.Identifier(view),
            )
        )
        picked += [
            sql.SQL("{} AS {}").format(sql.Identifier(view, feature), sql.Identifier(name))
            for feature, name in read.outputs(full_feature_names).items()
        ]
    comma = sql.SQL(", ")
    return sql.SQL("SELECT {} FROM unnest({}) WITH ORDINALITY AS given ({}){} ORDER BY {}").format(
        comma.join(picked),
        comma.join(array(entities.table[name], kinds[name]) for name in names),
        comma.join(map(sql.Identifier, (*names, _PLACE))),
        sql.Composed(answers),
        sql.Identifier("given", _PLACE),
    )


def _kind(type_: pa.DataType) -> str:
    """Postgres' name of the type of an entity column."""
    return _KINDS.get(str(type_), "timestamptz" if str(type_).startswith("timestamp") else "text")


_KINDS = {"bool": "bool", "float": "float4", "double": "float8"} | {
    f"{sign}int{bits}": "int8" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
