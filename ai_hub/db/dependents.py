"""Keeps what users built on our views.

`migrate` drops and recreates ours, and PostgreSQL drops no view that another one reads.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from psycopg import Error, OperationalError
from psycopg.rows import namedtuple_row

from ai_hub.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import psycopg

#: Roles whose grants are part of the code.
_OWN_ROLES: Final = ["ai_hub_service", "ai_hub_tenant"]

_LISTED = r"(?:IF\s+EXISTS\s+)?((?:\w+\s*,\s*)*\w+)"
_COMMENT = re.compile(r"--[^\n]*")
_DROPPED_VIEWS = re.compile(rf"\bDROP\s+(?:MATERIALIZED\s+)?VIEW\s+{_LISTED}", re.IGNORECASE)
_DROPPED_FUNCTION = re.compile(r"\bDROP\s+(?:FUNCTION|AGGREGATE)\s+(?:IF\s+EXISTS\s+)?(\w+)", re.IGNORECASE)
_DROPPED_WALL = re.compile(r"\bDROP\s+SCHEMA\s+(?:IF\s+EXISTS\s+)?tenant_wall\b", re.IGNORECASE)
_DROPPED_TABLE = re.compile(r"\bDROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?(\w+)", re.IGNORECASE)
_CHANGED_TABLE = re.compile(
    r"\bALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(\w+)[^;]*\b(?:DROP\s+COLUMN|TYPE)\b", re.IGNORECASE
)
_CREATED = re.compile(
    r"\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:MATERIALIZED\s+)?(?:VIEW|POLICY)\s+(\w+)", re.IGNORECASE
)

# What is built on the named objects, directly or through others, farthest last. A view depends on something
# through its rule, what returns its rows through its type.
_BUILT_ON: Final = """
WITH RECURSIVE roots AS (
    SELECT 'pg_class'::regclass::oid AS catalog, oid FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relname = ANY (%(relations)s)
        OR %(wall)s AND relnamespace = to_regnamespace('tenant_wall') AND relkind IN ('v', 'm')
    UNION ALL
    SELECT 'pg_proc'::regclass::oid, oid FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND proname = ANY (%(functions)s)
        OR %(wall)s AND pronamespace = to_regnamespace('tenant_wall')
), built AS (
    SELECT catalog, oid, 0 AS distance FROM roots
    UNION
    SELECT
        CASE WHEN view.oid IS NULL THEN depends.classid ELSE 'pg_class'::regclass::oid END,
        CASE WHEN view.oid IS NULL THEN depends.objid ELSE view.ev_class END,
        built.distance + 1
    FROM built
    JOIN pg_depend AS depends ON depends.refclassid = built.catalog AND depends.refobjid = built.oid
        AND (depends.deptype IN ('n', 'a') OR depends.classid = 'pg_type'::regclass)
    LEFT JOIN pg_rewrite AS view
        ON depends.classid = 'pg_rewrite'::regclass AND view.oid = depends.objid AND view.rulename = '_RETURN'
    WHERE view.oid IS NULL OR view.ev_class <> built.oid
)
SELECT
    built.catalog::regclass::text AS catalog, built.oid::bigint AS oid, max(built.distance) AS distance,
    relation.relkind::text AS kind, schema.nspname AS schema,
    coalesce(relation.relname, policy.polname) AS name,
    coalesce(
        'continuous aggregate ' || quote_ident(aggregate.user_view_schema) || '.'
            || quote_ident(aggregate.user_view_name),
        pg_describe_object(built.catalog, built.oid, 0)
    ) AS description,
    aggregate.user_view_schema AS aggregate_schema, aggregate.user_view_name AS aggregate_name,
    -- a part of a relation, such as an index or a trigger
    coalesce(
        entry.indrelid, attached.tgrelid, rule.ev_class, default_of.adrelid, nullif(checks.conrelid, 0), 0
    )::bigint AS part_of,
    EXISTS (
        SELECT FROM _timescaledb_catalog.chunk
        WHERE chunk.schema_name = schema.nspname AND chunk.table_name = relation.relname
    ) AS is_chunk,
    schema.nspname = 'tenant_wall' AND NOT EXISTS (
        SELECT FROM pg_class AS walled
        WHERE walled.relnamespace = 'public'::regnamespace AND walled.relname = relation.relname
    ) AS added_to_wall
FROM built
LEFT JOIN pg_class AS relation ON built.catalog = 'pg_class'::regclass AND relation.oid = built.oid
LEFT JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace
LEFT JOIN pg_policy AS policy ON built.catalog = 'pg_policy'::regclass AND policy.oid = built.oid
LEFT JOIN pg_index AS entry ON built.catalog = 'pg_class'::regclass AND entry.indexrelid = built.oid
LEFT JOIN pg_trigger AS attached ON built.catalog = 'pg_trigger'::regclass AND attached.oid = built.oid
LEFT JOIN pg_rewrite AS rule ON built.catalog = 'pg_rewrite'::regclass AND rule.oid = built.oid
LEFT JOIN pg_attrdef AS default_of ON built.catalog = 'pg_attrdef'::regclass AND default_of.oid = built.oid
LEFT JOIN pg_constraint AS checks ON built.catalog = 'pg_constraint'::regclass AND checks.oid = built.oid
LEFT JOIN _timescaledb_catalog.continuous_agg AS aggregate ON (schema.nspname, relation.relname) IN (
    (aggregate.user_view_schema, aggregate.user_view_name),
    (aggregate.partial_view_schema, aggregate.partial_view_name),
    (aggregate.direct_view_schema, aggregate.direct_view_name)
)
WHERE built.catalog <> 'pg_type'::regclass
    -- a table's own constraints go and stay with it
    AND NOT (built.catalog = 'pg_constraint'::regclass AND EXISTS (
        SELECT FROM pg_constraint AS own JOIN roots ON roots.oid = own.conrelid WHERE own.oid = built.oid
    ))
GROUP BY 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12
ORDER BY distance, oid
"""

# The statements that make a view as it is. A materialized one is filled as its owner: migrate is often a
# superuser, who must not run what others wrote.
_DEFINITION: Final = """
SELECT statement FROM (
    SELECT 1 AS step, 0 AS place, format(
        'CREATE %%s %%s%%s AS %%s%%s', kind, name,
        (SELECT format(' WITH (%%s)', string_agg(
            format('%%I = %%L', split_part(option, '=', 1), substr(option, strpos(option, '=') + 1)), ', '
        )) FROM unnest(reloptions) AS option HAVING count(*) > 0),
        rtrim(pg_get_viewdef(oid), ';'), CASE relkind WHEN 'm' THEN ' WITH NO DATA' END
    ) AS statement FROM view
    UNION ALL
    SELECT 2, adnum,
        format('ALTER VIEW %%s ALTER COLUMN %%I SET DEFAULT %%s', name, attname, pg_get_expr(adbin, adrelid))
    FROM view JOIN pg_attrdef ON adrelid = view.oid JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
    UNION ALL
    SELECT 3, 0, format('ALTER %%s %%s OWNER TO %%I', kind, name, pg_get_userbyid(relowner)) FROM view
    UNION ALL
    SELECT 4, 0, format('REFRESH MATERIALIZED VIEW %%s', name)
    FROM view WHERE relkind = 'm' AND relispopulated
    UNION ALL
    SELECT 5, indexrelid::bigint, pg_get_indexdef(indexrelid)
    FROM view JOIN pg_index ON indrelid = view.oid
    UNION ALL
    SELECT 6, objsubid, CASE objsubid WHEN 0 THEN format('COMMENT ON %%s %%s IS %%L', kind, name, description)
        ELSE format('COMMENT ON COLUMN %%s.%%I IS %%L', name, attname, description) END
    FROM view JOIN pg_description ON classoid = 'pg_class'::regclass AND objoid = view.oid
    LEFT JOIN pg_attribute ON attrelid = objoid AND attnum = objsubid AND objsubid > 0
) AS statements
ORDER BY step, place
"""
_VIEW: Final = """
WITH view AS (
    SELECT *, oid::regclass::text AS name,
        CASE relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END AS kind
    FROM pg_class WHERE oid = %(oid)s::oid
)
"""

# Triggers and rules that users put on a view.
_ATTACHED: Final = """
SELECT tgname AS name, pg_get_triggerdef(oid) AS statement FROM pg_trigger
WHERE tgrelid = %(oid)s::oid AND NOT tgisinternal
UNION ALL
SELECT rulename, pg_get_ruledef(oid) FROM pg_rewrite WHERE ev_class = %(oid)s::oid AND rulename <> '_RETURN'
"""

# Grants on views to others than their owner and our own roles, and on the tenants' schema.
_GRANTS: Final = """
WITH granted AS (
    SELECT oid, relname, relowner AS owner, relacl AS acl, NULL::name AS attname FROM pg_class
    UNION ALL
    SELECT attrelid, relname, relowner, attacl, attname
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid WHERE attacl IS NOT NULL AND NOT attisdropped
), entries AS (
    SELECT
        oid::bigint AS oid, oid::regclass::text AS view, oid::regclass::text AS place, attname, owner, entry.*
    FROM granted CROSS JOIN LATERAL aclexplode(acl) AS entry
    WHERE oid IN (
        SELECT oid FROM pg_class
        WHERE relkind IN ('v', 'm') AND (
            oid = ANY (%(oids)s::oid[])
            OR relnamespace IN ('public'::regnamespace, to_regnamespace('tenant_wall'))
        )
    )
    UNION ALL
    SELECT 0, NULL, 'SCHEMA tenant_wall', NULL, nspowner, entry.*
    FROM pg_namespace CROSS JOIN LATERAL aclexplode(nspacl) AS entry WHERE nspname = 'tenant_wall'
)
SELECT oid, view, attname AS column, format(
    'GRANT %%s%%s ON %%s TO %%s%%s', privilege_type, ' (' || quote_ident(attname) || ')', place,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
    CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END
) AS statement
FROM entries
WHERE grantee <> owner AND (grantee = 0 OR pg_get_userbyid(grantee) <> ALL (%(own)s))
"""


@dataclass(frozen=True)
class Changes:
    """Names in schema `public` that SQL files drop or change so that dependent views are in the way."""

    relations: frozenset[str]
    functions: frozenset[str]
    #: whether the tenants' schema is dropped
    wall: bool

    def __bool__(self) -> bool:
        return bool(self.relations or self.functions or self.wall)

    @classmethod
    def of(cls, files: Iterable[str]) -> Changes:
        """Changes that the statements in `files` make."""
        text = _COMMENT.sub("", "\n".join(files))
        return cls(
            frozenset(_dropped_views(text))
            | frozenset(_CHANGED_TABLE.findall(text))
            | frozenset(_DROPPED_TABLE.findall(text)),
            frozenset(_DROPPED_FUNCTION.findall(text)),
            _DROPPED_WALL.search(text) is not None,
        )


def own_names(files: Iterable[str]) -> frozenset[str]:
    """Views and policies that `files` create or drop: ours, today or in an earlier release."""
    text = _COMMENT.sub("", "\n".join(files))
    return frozenset(_CREATED.findall(text)) | frozenset(_dropped_views(text))


def _dropped_views(text: str) -> Iterator[str]:
    for names in _DROPPED_VIEWS.findall(text):
        yield from re.split(r"\s*,\s*", names)


@dataclass
class Kept:
    """What users built on our views, as statements that make it again."""

    #: by view, each after those that it reads
    views: dict[str, list[str]] = field(default_factory=dict)
    #: on our own views: view, name, statement of triggers and rules
    attached: list[tuple[str, str, str]] = field(default_factory=list)
    #: rows with `oid`, `view`, `column` and `statement`
    grants: list[Any] = field(default_factory=list)


def exist(connection: psycopg.Connection, changes: Changes, ours: frozenset[str]) -> bool:
    """Whether anything of users is built on what `changes` drops."""
    if not changes:
        return False
    rows = _built_on(connection, changes)
    own = {row.oid for row in rows if _is_ours(row, ours)}
    # indexes, defaults and constraints of our own tables and their chunks go and stay with them
    return any(
        row.oid not in own
        and not (row.part_of in own and (row.kind == "i" or row.catalog in {"pg_attrdef", "pg_constraint"}))
        for row in rows
    )


def set_aside(connection: psycopg.Connection, changes: Changes, ours: frozenset[str]) -> Kept:
    """Drop users' views on what `changes` drops, and return how to make them; `put_back` does.

    Both belong in the transaction that applies the changes.

    Raises:
        ConflictError: something other than a view is built on ours, or the login may not drop a user's view.
    """
    kept = Kept()
    if not changes:
        return kept
    with _qualified_names(connection):
        rows = _built_on(connection, changes)
        own = {row.oid for row in rows if _is_ours(row, ours)}
        foreign = [row for row in rows if row.oid not in own]
        views = [row for row in foreign if row.kind in {"v", "m"} and row.aggregate_name is None]
        _refuse_others(foreign, own | {row.oid for row in views})
        kept.grants = _rows(connection, _GRANTS, oids=[row.oid for row in views], own=_OWN_ROLES)
        for row in rows:
            if row.oid in own and row.kind == "v":
                kept.attached += [
                    (f"{row.schema}.{row.name}", part.name, part.statement)
                    for part in _rows(connection, _ATTACHED, oid=row.oid)
                ]
        for row in views:
            statements = _rows(connection, _VIEW + _DEFINITION, oid=row.oid)
            statements += _rows(connection, _ATTACHED, oid=row.oid)
            kept.views[_name(connection, row.oid)] = [each.statement for each in statements]
        for row in reversed(views):
            _drop(connection, row)
    return kept


def put_back(connection: psycopg.Connection, kept: Kept) -> None:
    """Make again what `set_aside` took, with its owners and grants, and users' grants on our own views.

    Raises:
        ConflictError: a view does not fit the new ones; names it and what it misses.
    """
    for grant in kept.grants:
        if grant.view not in kept.views:
            _grant(connection, grant)
    for view, name, statement in kept.attached:
        with _naming(f"{name} on {view}"):
            if not _has(connection, view, name):
                connection.execute(statement.encode())
    for view, statements in kept.views.items():
        with _naming(view):
            for statement in statements:
                connection.execute(statement.encode())
            for grant in kept.grants:
                if grant.view == view:
                    _grant(connection, grant)


@contextmanager
def _qualified_names(connection: psycopg.Connection) -> Iterator[None]:
    """PostgreSQL writes the schema into definitions where the search path does not lead to it."""
    row = connection.execute("SELECT current_setting('search_path')").fetchone()
    assert row is not None  # noqa: S101  # a setting that always exists
    connection.execute("SELECT set_config('search_path', 'pg_catalog', true)")
    yield
    connection.execute("SELECT set_config('search_path', %s, true)", [row[0]])


@contextmanager
def _naming(view: str) -> Iterator[None]:
    try:
        yield
    except OperationalError:  # no fault of the view's: a lock, a lost connection
        raise
    except Error as error:
        raise ConflictError(
            f"{view}, which is not ours, does not fit the new views: {error.diag.message_primary or error}. "
            "Nothing was changed.",
            hint="Change or drop it, run `ai-hub migrate` again, and create it anew.",
        ) from error


def _refuse_others(foreign: list[Any], kept: set[int]) -> None:
    """Raise unless every foreign object is a view, or a part of one."""
    others = sorted({row.description for row in foreign if row.oid not in kept and row.part_of not in kept})
    if others:
        raise ConflictError(
            f"Built on what is to be replaced, and cannot be kept: {', '.join(others)}. Nothing was changed.",
            hint="Drop it, run `ai-hub migrate` again, and create it anew.",
        )


def _is_ours(row: Any, ours: frozenset[str]) -> bool:
    if row.added_to_wall:
        return False
    if row.is_chunk and row.distance == 1:
        return True
    if row.distance == 0 or row.catalog == "pg_policy":
        return row.distance == 0 or row.name in ours
    if row.aggregate_name is not None:
        return row.aggregate_schema == "public" and row.aggregate_name in ours
    return row.schema == "tenant_wall" or (row.schema == "public" and row.name in ours)


def _built_on(connection: psycopg.Connection, changes: Changes) -> list[Any]:
    return _rows(
        connection,
        _BUILT_ON,
        relations=list(changes.relations),
        functions=list(changes.functions),
        wall=changes.wall,
    )


def _rows(connection: psycopg.Connection, query: str, **parameters: Any) -> list[Any]:
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(query.encode(), parameters).fetchall()


def _name(connection: psycopg.Connection, oid: int) -> str:
    return str(_rows(connection, "SELECT %(oid)s::oid::regclass::text AS name", oid=oid)[0].name)


def _drop(connection: psycopg.Connection, row: Any) -> None:
    kind = "MATERIALIZED VIEW" if row.kind == "m" else "VIEW"
    name = _name(connection, row.oid)
    with _naming(name):
        connection.execute(f"DROP {kind} {name}".encode())


def _grant(connection: psycopg.Connection, grant: Any) -> None:
    """Repeat a grant, if what it is on was made anew and still has the column."""
    if grant.view is not None:
        query = """
            SELECT oid::bigint AS oid FROM pg_class
            WHERE oid = to_regclass(%(view)s) AND (%(column)s::text IS NULL OR EXISTS (
                SELECT FROM pg_attribute
                WHERE attrelid = pg_class.oid AND attname = %(column)s AND NOT attisdropped
            ))
        """
        found = _rows(connection, query, view=grant.view, column=grant.column)
        if not found or found[0].oid == grant.oid:
            return
    connection.execute(grant.statement.encode())


def _has(connection: psycopg.Connection, view: str, part: str) -> bool:
    """Whether `view` is gone or has a trigger or rule of that name."""
    query = "SELECT to_regclass(%(view)s)::oid::bigint AS oid"
    oid = _rows(connection, query, view=view)[0].oid
    return oid is None or any(row.name == part for row in _rows(connection, _ATTACHED, oid=oid))
