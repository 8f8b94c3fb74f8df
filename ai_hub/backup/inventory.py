"""Inventory of a PostgreSQL database, in a form that can be compared: rows, rights, definitions, and roles.

Roles, and rights on a database as a whole, are in no dump of a database, so they are stored beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString

from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from ai_hub.backup.manifest import Facts, Role
from ai_hub.db.tenant_scope import SERVICE_ROLE, TENANT_ROLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg

    from ai_hub.backup.manifest import Database


#: Plain tables and hypertables, with those behind continuous aggregates; chunks are read through them.
_TABLES: Final[LiteralString] = """
SELECT nspname, relname
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'm')
    AND (nspname !~ '^(pg_|_timescaledb_|timescaledb_)' AND nspname <> 'information_schema'
        OR nspname = '_timescaledb_internal' AND relname ~ '^_materialized_hypertable_\\d+$')
    AND NOT EXISTS (
        SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e'
    )
ORDER BY 1, 2
"""
#: Schemas that are somebody's, and what an extension has brought. PostgreSQL sets other brackets and casts
#: once it has read its own text again: definitions are compared without them.
_SCOPE: Final[LiteralString] = """
WITH n AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
    WHERE nspname !~ '^(pg_|_timescaledb_|timescaledb_)' AND nspname <> 'information_schema'
), extended AS (
    SELECT objid FROM pg_depend WHERE deptype = 'e'
), form AS (SELECT '[()]|::[a-z ]+(\\[\\])?' AS brackets)
"""
#: Each line is one right; `-` is PUBLIC. What its owner has by being the owner is left out: the owner's name
#: may change.
_RIGHTS: Final[LiteralString] = """
SELECT format('relation %s.%s: %s to %s', nspname, relname, privilege_type, grantee::regrole)
FROM pg_class JOIN n ON n.oid = relnamespace, aclexplode(relacl) WHERE grantee <> relowner
UNION ALL
SELECT format('column %s.%s.%s: %s to %s', nspname, relname, attname, privilege_type, grantee::regrole)
FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN n ON n.oid = relnamespace, aclexplode(attacl)
UNION ALL
SELECT format('schema %s: %s to %s', nspname, privilege_type, grantee::regrole)
FROM n, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) WHERE grantee <> nspowner
UNION ALL
SELECT format('function %s: %s to %s', p.oid::regprocedure, privilege_type, grantee::regrole)
FROM pg_proc p JOIN n ON n.oid = pronamespace, aclexplode(coalesce(proacl, acldefault('f', proowner)))
WHERE grantee <> proowner
UNION ALL
SELECT format('function %s: nothing to -', p.oid::regprocedure)
FROM pg_proc p LEFT JOIN pg_init_privs i ON i.objoid = p.oid AND i.classoid = 'pg_proc'::regclass
WHERE pronamespace = 'pg_catalog'::regnamespace AND proacl IS DISTINCT FROM i.initprivs
    AND NOT EXISTS (SELECT FROM aclexplode(proacl) WHERE grantee = 0)
UNION ALL
SELECT format('row security of %s.%s: forced %s', nspname, relname, relforcerowsecurity)
FROM pg_class JOIN n ON n.oid = relnamespace WHERE relrowsecurity
UNION ALL
SELECT format('policy %s on %s.%s: %s %s to %s using (%s) check (%s)', policyname, schemaname, tablename,
    permissive, cmd, roles,
    regexp_replace(qual, brackets, '', 'g'), regexp_replace(with_check, brackets, '', 'g'))
FROM pg_policies, form
UNION ALL
SELECT format('sequence %s.%s at %s', schemaname, sequencename, last_value)
FROM pg_sequences JOIN n ON nspname = schemaname
UNION ALL
SELECT format('extension %s %s', extname, extversion) FROM pg_extension
"""
_JOBS: Final[LiteralString] = """
SELECT format('job %s: %s.%s every %s, at most %s, on %s, scheduled %s, with %s', job_id, proc_schema,
    proc_name, schedule_interval, max_runtime, hypertable_name, scheduled, config)
FROM timescaledb_information.jobs WHERE job_id >= 1000
UNION ALL
SELECT format('chunks of %s.%s: %s, compressed %s', hypertable_schema, hypertable_name, count(*),
    count(*) FILTER (WHERE is_compressed))
FROM timescaledb_information.chunks GROUP BY hypertable_schema, hypertable_name
"""
_DEFINITIONS: Final[LiteralString] = """
SELECT format('function %s: %s', p.oid::regprocedure, md5(pg_get_functiondef(p.oid)))
FROM pg_proc p JOIN n ON n.oid = pronamespace
WHERE prokind IN ('f', 'p') AND p.oid NOT IN (SELECT objid FROM extended)
UNION ALL
SELECT format('view %s.%s: %s', nspname, relname,
    md5(regexp_replace(pg_get_viewdef(c.oid), brackets, '', 'g')))
FROM form, pg_class c JOIN n ON n.oid = relnamespace
WHERE relkind IN ('v', 'm') AND c.oid NOT IN (SELECT objid FROM extended)
UNION ALL
SELECT format('index %s', regexp_replace(indexdef, brackets, '', 'g'))
FROM form, pg_indexes JOIN n ON nspname = schemaname
UNION ALL
SELECT format('constraint %s on %s: %s', conname, conrelid::regclass,
    regexp_replace(pg_get_constraintdef(k.oid), brackets, '', 'g'))
FROM form, pg_constraint k JOIN n ON n.oid = connamespace WHERE conrelid <> 0
UNION ALL
SELECT format('column %s.%s.%s: %s%s', nspname, relname, attname, format_type(atttypid, atttypmod),
    CASE WHEN attnotnull THEN ' not null' END)
FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN n ON n.oid = relnamespace
WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'v', 'm', 'p')
UNION ALL
SELECT format('trigger %s', regexp_replace(pg_get_triggerdef(t.oid), brackets, '', 'g'))
FROM form, pg_trigger t JOIN pg_class c ON c.oid = tgrelid JOIN n ON n.oid = relnamespace
WHERE NOT tgisinternal
"""
#: One hash of each row, added up: rows come back in another order.
_CONTENT: Final[LiteralString] = (
    "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {table} AS t"
)


def use_plain_text(connection: psycopg.Connection[Any]) -> None:
    """Make the rest of this transaction write values and names the same way on every server."""
    connection.execute(
        "SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO', true),"
        " set_config('IntervalStyle', 'postgres', true), set_config('extra_float_digits', '1', true),"
        " set_config('bytea_output', 'hex', true), set_config('search_path', '', true),"
        " set_config('statement_timeout', '0', true), set_config('row_security', 'off', true),"
        " set_config('idle_in_transaction_session_timeout', '0', true)"
    )


def gather_facts(connection: psycopg.Connection[Any]) -> Facts:
    """The facts as the connection's current transaction sees them; call `use_plain_text` in it first."""
    tables = {
        f"{schema}.{name}": _content(connection, schema, name) for schema, name in relations(connection)
    }
    rights = [*_lines(connection, _SCOPE, _RIGHTS)]
    if timescaledb_version(connection) is not None:
        rights += _lines(connection, _JOBS)
    return Facts(
        tables=tables,
        rights=sorted(set(rights)),
        definitions=sorted(_lines(connection, _SCOPE, _DEFINITIONS)),
    )


def relations(connection: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    """Schema and name of each table that is somebody's, not an extension's."""
    return [(str(schema), str(name)) for schema, name in connection.execute(_TABLES).fetchall()]


def timescaledb_version(connection: psycopg.Connection[Any]) -> str | None:
    """Version of the extension in this database; None without it."""
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
    return None if row is None else str(row[0])


def differences(before: Facts, after: Facts, *, same_major: bool) -> Iterator[str]:
    """Differences as text; definitions are compared if the same PostgreSQL version wrote them."""
    for name in sorted(before.tables.keys() | after.tables.keys()):
        was, now = before.tables.get(name), after.tables.get(name)
        if was != now:
            yield f"table {name}: {_count(was)} in the backup, {_count(now)} here" + (
                ", with other content" if was and now and was[0] == now[0] else ""
            )
    pairs = [(before.rights, after.rights)]
    if same_major:
        pairs.append((before.definitions, after.definitions))
    for first, second in pairs:
        yield from (f"missing here: {line}" for line in sorted(set(first) - set(second)))
        yield from (f"not in the backup: {line}" for line in sorted(set(second) - set(first)))


def _count(fact: tuple[int, str] | None) -> str:
    return "no such table" if fact is None else f"{fact[0]:,} rows"


def _content(connection: psycopg.Connection[Any], schema: str, name: str) -> tuple[int, str]:
    row = connection.execute(sql.SQL(_CONTENT).format(table=sql.Identifier(schema, name))).fetchone()
    if row is None:
        raise AssertionError("an aggregate returns one row")
    return int(row[0]), str(row[1])


def _lines(connection: psycopg.Connection[Any], *query: LiteralString) -> list[str]:
    statement = sql.SQL("").join(map(sql.SQL, query))
    return [str(line) for (line,) in connection.execute(statement).fetchall()]


#: Who owns or may something here, whoever is a member of our roles, and those.
_RELEVANT: Final[LiteralString] = """
WITH RECURSIVE relevant (oid) AS (
    SELECT refobjid FROM pg_shdepend JOIN pg_database d ON datname = current_database()
    WHERE refclassid = 'pg_authid'::regclass
        AND (dbid = d.oid OR classid = 'pg_database'::regclass AND objid = d.oid)
    UNION SELECT oid FROM pg_roles WHERE rolname = ANY (%(ours)s) OR rolname = session_user
    UNION SELECT m.member FROM pg_auth_members m JOIN relevant r ON r.oid = m.roleid
)
SELECT r.oid, rolname, rolcanlogin, rolinherit, rolcreatedb, rolcreaterole, rolconnlimit,
    ARRAY (SELECT roleid::regrole::text FROM pg_auth_members WHERE member = r.oid ORDER BY 1),
    rolname <> session_user AND EXISTS (
        SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
        WHERE member = r.oid AND g.rolname = %(tenant)s
    )
FROM relevant JOIN pg_roles r USING (oid) WHERE rolname !~ '^pg_' ORDER BY rolname
"""
_SETTINGS: Final[LiteralString] = """
SELECT setdatabase <> 0, setting
FROM pg_db_role_setting JOIN pg_database d ON datname = current_database(), unnest(setconfig) AS setting
WHERE setrole = %s AND setdatabase IN (0, d.oid)
    AND setting !~ '^timescaledb\\.restoring='
ORDER BY 1, 2
"""
_DATABASE_RIGHTS: Final[LiteralString] = """
SELECT CASE grantee WHEN 0 THEN '' ELSE grantee::regrole::text END, privilege_type
FROM pg_database, aclexplode(datacl) WHERE datname = current_database() AND grantee <> datdba ORDER BY 1, 2
"""


def gather_roles(connection: psycopg.Connection[Any]) -> list[Role]:
    """The roles that matter to this database, with the hashes of their passwords if we may read them."""
    rows = connection.execute(
        _RELEVANT, {"ours": [SERVICE_ROLE, TENANT_ROLE], "tenant": TENANT_ROLE}
    ).fetchall()
    hashes = _hashes(connection)
    return [
        Role(
            name=name,
            login=login,
            inherit=inherit,
            createdb=createdb,
            createrole=createrole,
            connection_limit=limit,
            password=None if name == connection.info.user else hashes.get(name),
            member_of=member_of,
            settings=connection.execute(_SETTINGS, [oid]).fetchall(),
            of_tenant=of_tenant,
        )
        for oid, name, login, inherit, createdb, createrole, limit, member_of, of_tenant in rows
    ]


def database_rights(connection: psycopg.Connection[Any]) -> list[tuple[str, str]] | None:
    """Rights on the database itself; None where PostgreSQL's own hold."""
    row = connection.execute(
        "SELECT datacl IS NULL FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    if row == (True,):
        return None
    return [(str(grantee), str(right)) for grantee, right in connection.execute(_DATABASE_RIGHTS).fetchall()]


def database_settings(connection: psycopg.Connection[Any]) -> list[str]:
    """`name=value` of what is set for the database, whoever connects."""
    return [str(setting) for _, setting in connection.execute(_SETTINGS, [0]).fetchall()]


def restore_roles(connection: psycopg.Connection[Any], roles: Sequence[Role]) -> None:
    """Make the roles that are missing; tenants' logins get what they had, others keep what they have here.

    None becomes a superuser.
    """
    here = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    with connection.transaction():
        for role in roles:
            name = sql.Identifier(role.name)
            if role.name not in here:
                connection.execute(sql.SQL("CREATE ROLE {}").format(name))
            elif not role.of_tenant:
                continue
            connection.execute(_attributes(name, role))
    with connection.transaction():
        for role in roles:
            for group in role.member_of:
                connection.execute(
                    sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role.name))
                )
            for only_here, setting in role.settings:
                if role.name not in here or role.of_tenant:
                    _set(connection, role.name, setting, only_here=only_here)


def restore_database(connection: psycopg.Connection[Any], kept: Database) -> None:
    """Give the database the rights and settings it had."""
    database = sql.Identifier(connection.info.dbname)
    with connection.transaction():
        if kept.database_rights is not None:
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
            for grantee, right in kept.database_rights:
                to = sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
                connection.execute(
                    sql.SQL("GRANT {} ON DATABASE {} TO {}").format(
                        sql.SQL(right),  # one of PostgreSQL's words
                        database,
                        to,
                    )
                )
        for setting in kept.database_settings:
            _set(connection, None, setting, only_here=True)


def _set(connection: psycopg.Connection[Any], role: str | None, setting: str, *, only_here: bool) -> None:
    """By way of this transaction's own value: lists and quotes need no writing."""
    name, _, value = setting.partition("=")
    connection.execute("SELECT set_config(%s, %s, true)", [name, value])
    database = sql.SQL("DATABASE {}").format(sql.Identifier(connection.info.dbname))
    whose = [] if role is None else [sql.SQL("ROLE {}").format(sql.Identifier(role))]
    if only_here:
        whose += [sql.SQL("IN ") + database if whose else database]
    connection.execute(
        sql.SQL("ALTER {} SET {} FROM CURRENT").format(
            sql.SQL(" ").join(whose), sql.SQL(".").join(map(sql.Identifier, name.split(".")))
        )
    )


def _attributes(name: sql.Identifier, role: Role) -> sql.Composed:
    words = [
        *("LOGIN" if role.login else "NOLOGIN", "INHERIT" if role.inherit else "NOINHERIT"),
        *("CREATEDB" if role.createdb else "NOCREATEDB", "CREATEROLE" if role.createrole else "NOCREATEROLE"),
    ]
    statement = sql.SQL("ALTER ROLE {} {} CONNECTION LIMIT {}").format(
        name,
        sql.SQL(" ".join(words)),  # of this module's own words
        sql.Literal(role.connection_limit),
    )
    if role.password is None:
        return statement
    return statement + sql.SQL(" PASSWORD {}").format(sql.Literal(role.password))


def _hashes(connection: psycopg.Connection[Any]) -> dict[str, str]:
    try:
        with connection.transaction():
            rows = connection.execute(
                "SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL"
            )
            return {str(name): str(password) for name, password in rows}
    except InsufficientPrivilege:  # of somebody who is no superuser
        return {}
