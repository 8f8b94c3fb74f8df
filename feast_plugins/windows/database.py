"""Brings TimescaleDB in line with declared views: what would change, and changing it.

One view at a time is changed in one transaction, under the lock of `ai-hub migrate`; the catalog
`declared_views` says what is there. A killed call is safe to repeat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import psycopg
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLOfflineStoreConfig
from feast.infra.utils.postgres.connection_utils import _get_conninfo
from psycopg import sql
from psycopg.errors import (
    DeadlockDetected,
    DependentObjectsStillExist,
    InvalidTableDefinition,
    LockNotAvailable,
)
from psycopg.types.json import Jsonb
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from feast_plugins.errors import DeclarationError, DeclarationLossError
from feast_plugins.postgres.session import options
from feast_plugins.windows.declarations import READS_TAG, Declaration, declaration_of
from feast_plugins.windows.expressions import sql_type
from feast_plugins.windows.features import HOUR, STEPS, expression_of
from feast_plugins.windows.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from feast import RepoConfig

#: That of `ai-hub migrate`.
_LOCK: Final = 7_236_451_181
_RELATIONS: Final = ("", "_versions", "_stored")
#: Project of what comes with the hub, until one declares it differently.
_NOBODY: Final = ""
#: Comes with the hub, whose other views read it: its features stay, and the end of a project gives it back.
_OF_THE_HUB: Final = "ai_features"
_losses_allowed: ContextVar[bool] = ContextVar("losses_allowed", default=False)


@contextmanager
def allow_losses() -> Iterator[None]:
    """Let `apply` in this block delete stored values."""
    token = _losses_allowed.set(True)
    try:
        yield
    finally:
        _losses_allowed.reset(token)


@dataclass(frozen=True)
class _Known:
    """A view as the catalog has it."""

    project: str
    declaration: Mapping[str, Any]
    sha256: str
    generation: int
    #: of each stored feature: the generation since which it means what it does
    meanings: Mapping[str, int]
    step: timedelta


@dataclass(frozen=True)
class Change:
    """What is to be done for one view."""

    view: str
    #: create, alter, release or drop
    action: str
    #: in words
    details: Sequence[str] = ()
    #: what is deleted
    losses: Sequence[str] = ()
    #: what is to be there; None: nothing, or what is there
    declaration: Declaration | None = None
    #: stored columns to add and to drop
    added: Mapping[str, str] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    #: rows mean something else, or are more than before
    recompute: bool = False
    #: the catalog's entry that all this was found out from
    before: _Known | None = None

    def __str__(self) -> str:
        signs = {"create": "+", "alter": "~", "release": "~", "drop": "-"}
        lines = [f"{signs[self.action]} {self.action} {self.view}", *(f"    {each}" for each in self.details)]
        return "\n".join([*lines, *(f"    deletes {each}" for each in self.losses)])


def require_catalog(connection: psycopg.Connection[Any]) -> None:
    """Check that the database can hold declared views.

    Raises:
        DeclarationError: it is no database of AI Hub, or an older one.
    """
    if not has_catalog(connection):
        raise DeclarationError("This database has no place for declared views yet: run `ai-hub migrate`.")


def update(
    config: RepoConfig, project: str, views_to_delete: Iterable[object], views_to_keep: Iterable[object]
) -> None:
    """Bring the database in line with declared views of `views_to_keep`; drop those of `views_to_delete`.

    Raises:
        DeclarationError: a declared view cannot be made.
        DeclarationLossError: stored values would be deleted, and nobody has allowed it.
    """
    declarations = declarations_of(views_to_keep)
    removed = [str(getattr(view, "name", "")) for view in views_to_delete]
    if not isinstance(config.offline_store, PostgreSQLOfflineStoreConfig) or not (declarations or removed):
        return
    with owner(config) as connection:
        if declarations:
            require_catalog(connection)
        elif not has_catalog(connection):
            return
        apply(connection, project, changes(connection, project, declarations, removed=removed))


def teardown(config: RepoConfig, project: str, views: Iterable[str]) -> None:
    """Drop those of these views of a project that are declared ones."""
    if not isinstance(config.offline_store, PostgreSQLOfflineStoreConfig):
        return
    with owner(config) as connection:
        if has_catalog(connection):
            with allow_losses():
                apply(connection, project, changes(connection, project, [], removed=views))


def declarations_of(views: Iterable[object]) -> list[Declaration]:
    """What those of the views declare that have rows of their own.

    Raises:
        DeclarationError: one has aggregations that nobody would compute.
    """
    return [
        declaration.in_database
        for view in views
        if (declaration := declaration_of(view)) is not None
        if READS_TAG not in (getattr(view, "tags", None) or {})
    ]


def make_own(connection: psycopg.Connection[Any], declaration: Declaration) -> None:
    """Make the declared view that comes with the hub, in the present transaction.

    What it is stays where a project has declared it differently; features that one has added to it stay.
    """
    before = _catalog(connection)[declaration.name]
    change: Change | None
    if not before.sha256:  # the migration that made its table has entered it, and its rows stay
        change = Change(declaration.name, "alter", declaration=declaration, before=before)
    elif before.project != _NOBODY and before.declaration != declaration.as_json():
        return
    else:
        change = _difference(connection, declaration, before)
    if change is not None:
        _change(connection, before.project, change)


@contextmanager
def owner(config: RepoConfig) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the database of the offline store, each statement in a transaction of its own."""
    store = config.offline_store
    with psycopg.connect(
        _get_conninfo(store), autocommit=True, prepare_threshold=None, **options(store)
    ) as connection:
        yield connection


def has_catalog(connection: psycopg.Connection[Any]) -> bool:
    """Whether the database can hold declared views."""
    return _exists(connection, "declared_views")


def features_of(config: RepoConfig, view: str) -> set[str]:
    """Names of the features that the database has of a declared view; empty: it has no such view."""
    with owner(config) as connection:
        rows = connection.execute(
            "SELECT jsonb_object_keys(declaration) FROM declared_views WHERE view_name = %s", [view]
        )
        return {name for (name,) in rows}


def changes(
    connection: psycopg.Connection[Any],
    project: str,
    declarations: Iterable[Declaration],
    *,
    removed: Iterable[str] = (),
) -> list[Change]:
    """What differs between the database and the declarations.

    Args:
        connection: of the owner.
        project: Feast's.
        declarations: views that shall be there.
        removed: views of the project that shall not, beside those that were about to be dropped; all others
            stay, because a registry of another place may have a project of this name.

    Raises:
        DeclarationError: the name of a view is taken.
    """
    known = _catalog(connection)
    wanted = {each.name: each for each in declarations}
    removed = {*removed, *_leaving(connection)}
    found = [
        Change(name, "release", ["stays, for it comes with AI Hub"], before=each)
        if name == _OF_THE_HUB
        else Change(name, "drop", losses=[f"{name} with {_rows(connection, name)}"], before=each)
        for name, each in known.items()
        if each.project == project and name in removed and name not in wanted
    ]
    for name, declaration in wanted.items():
        before = known.get(name)
        if before is None:
            _require_free(connection, name)  # said before anything is done
            features = [f"{key}: {each}" for key, each in declaration.features.items()]
            if declaration.step != HOUR:
                features.insert(0, _every(declaration.step))
            found.append(Change(name, "create", features, declaration=declaration))
        elif before.project not in {project, _NOBODY}:
            differing = [
                key for key, each in declaration.as_json().items() if before.declaration.get(key) != each
            ]
            if before.step == declaration.step and not differing:
                continue  # declared alike, and there, maybe beside others
            raise DeclarationError(
                f"{name} is declared by the project {before.project}, differently in "
                f"{', '.join(differing) or 'its step'}; declare it alike, or name this view differently."
            )
        elif (change := _difference(connection, declaration, before)) is not None:
            found.append(change)
    return found


def others_of(connection: psycopg.Connection[Any], project: str, names: Iterable[str]) -> list[str]:
    """Declared views of the project that are none of these."""
    known = _catalog(connection)
    return sorted({name for name, each in known.items() if each.project == project}.difference(names))


def announce(connection: psycopg.Connection[Any], project: str, changes: Iterable[Change]) -> None:
    """Note which views will be dropped or given back, to do it even if the registry forgets them first."""
    connection.execute(
        "UPDATE declared_views SET leaving = NOT leaving"
        " WHERE project = %s AND leaving <> (view_name = ANY (%s::name[]))",
        [project, [each.view for each in changes if each.action in {"drop", "release"}]],
    )


def apply(connection: psycopg.Connection[Any], project: str, todo: Iterable[Change]) -> None:
    """Make the changes, each in a transaction; the connection must be in autocommit mode.

    Raises:
        DeclarationLossError: stored values would be deleted, and nobody has allowed it; nothing was changed.
        DeclarationError: others hold locks on a view for minutes, have built something on it, or have
            changed it since.
    """
    todo = list(todo)
    losses = [loss for each in todo for loss in each.losses]
    if losses and not _losses_allowed.get():
        raise DeclarationLossError(losses)
    for each in todo:
        _despite_others(connection, project, each)


@dataclass(frozen=True)
class Progress:
    """How much of a view is stored; what is not is computed when it is read."""

    view: str
    assets: int
    #: that exist by now
    rows: int
    stored: int


def progress(connection: psycopg.Connection[Any], project: str | None = None) -> list[Progress]:
    """Progress of each declared view, of all projects or of one."""
    rows = connection.execute(
        "SELECT view_name, assets, rows, stored FROM declared_progress JOIN declared_views USING (view_name)"
        " WHERE project = %(project)s OR %(project)s::text IS NULL ORDER BY view_name",
        {"project": project},
    ).fetchall()
    return [Progress(*row) for row in rows]


def request_backfill(connection: psycopg.Connection[Any], view: str | None = None) -> list[str]:
    """Let refreshes compute every missing row of a view, or of all; returns their names.

    Raises:
        DeclarationError: there is no such view.
    """
    rows = connection.execute(
        "UPDATE declared_views SET filled_from = '-infinity'"
        " WHERE view_name = %(view)s OR %(view)s::text IS NULL RETURNING view_name",
        {"view": view},
    ).fetchall()
    if view is not None and not rows:
        known = ", ".join(sorted(_catalog(connection))) or "none"
        raise DeclarationError(f"There is no declared view {view}; there are {known}.")
    return sorted(name for (name,) in rows)


def _despite_others(connection: psycopg.Connection[Any], project: str, change: Change) -> None:
    try:
        _change_alone(connection, project, change)
    except DependentObjectsStillExist as error:
        detail = "; ".join((error.diag.message_detail or str(error)).splitlines())
        raise DeclarationError(
            f"{change.view} cannot be changed: {detail}. Drop that first; where it comes with AI Hub, "
            "leave the feature its type."
        ) from error
    except (LockNotAvailable, DeadlockDetected) as error:
        raise DeclarationError(
            f"Other sessions hold {change.view} and did not let go of it for minutes; "
            "see pg_stat_activity in the order of xact_start."
        ) from error


@retry(
    retry=retry_if_exception_type((LockNotAvailable, DeadlockDetected)),
    stop=stop_after_attempt(100),
    wait=wait_random(0, 2),
    reraise=True,
)
def _change_alone(connection: psycopg.Connection[Any], project: str, change: Change) -> None:
    """Whoever waits for a table makes all later readers wait behind it, so never for long."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        # a batch that is being computed ends, and later ones wait
        connection.execute("SELECT pg_advisory_xact_lock(declared_view_lock(%s))", [change.view])
        connection.execute("SET LOCAL lock_timeout = '2s'")
        _change(connection, project, change)


def _change(connection: psycopg.Connection[Any], project: str, change: Change) -> None:
    # a refresh that plans rows of the view holds this row meanwhile
    connection.execute("SELECT FROM declared_views WHERE view_name = %s FOR UPDATE", [change.view])
    if _catalog(connection).get(change.view) != change.before:
        raise DeclarationError(
            f"{change.view} was changed by somebody else just now: run `feast apply` again."
        )
    if change.before is None:
        _require_free(connection, change.view)
    if change.action == "release":
        connection.execute(
            "UPDATE declared_views SET project = %s, leaving = false WHERE view_name = %s",
            [_NOBODY, change.view],
        )
        return
    name = sql.Identifier
    relations = [change.view + suffix for suffix in _RELATIONS]
    declaration = change.declaration
    _lock_views(connection, relations)
    wall = connection.execute("SELECT to_regnamespace('tenant_wall') IS NOT NULL").fetchone() == (True,)
    table = name("public", f"{change.view}_stored")
    if declaration is None or change.dropped:
        _drop_views(connection, change.view)
    if declaration is None:
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
        connection.execute("DELETE FROM declared_views WHERE view_name = %s", [change.view])
        connection.execute("SELECT provide_quarter_hours()")
        if wall:
            connection.execute("DELETE FROM served_relations WHERE relation = ANY (%s)", [relations])
        return
    _make(connection, project, change, Statements(declaration))
    if wall:
        connection.execute(  # and those that a source of somebody names, or that were served already
            "SELECT tenant_wall.serve(relation, false) FROM unnest(%s::name[]) AS relation"
            " WHERE relation = %s OR to_regclass(format('tenant_wall.%%I', relation)) IS NOT NULL"
            " OR relation IN (SELECT relation FROM served_relations)",
            [relations, change.view],
        )


_VIEWS: Final = """
SELECT relnamespace::regnamespace::text, relname FROM pg_class
WHERE relkind = 'v' AND relname = ANY (%s)
    AND relnamespace IN (to_regnamespace('tenant_wall'), to_regnamespace('public'))
ORDER BY relnamespace = to_regnamespace('public'), relname
"""


def _lock_views(connection: psycopg.Connection[Any], relations: Sequence[str]) -> None:
    """Wait for readers of the views before any of their tables is locked.

    Readers lock a view first and then what it stands on: in the other order each would wait for the other.
    """
    for schema, view in connection.execute(_VIEWS, [relations]).fetchall():
        # changes nothing; LOCK TABLE would lock the tables of readings, too
        connection.execute(
            sql.SQL("ALTER VIEW {} ALTER COLUMN tenant_id DROP DEFAULT").format(sql.Identifier(schema, view))
        )


def _drop_views(connection: psycopg.Connection[Any], view: str) -> None:
    """Drop the views of a declaration, and those that show one tenant's rows of them and of the table."""
    for suffix in _RELATIONS:
        connection.execute(
            sql.SQL("DROP VIEW IF EXISTS tenant_wall.{}").format(sql.Identifier(view + suffix))
        )
    for suffix in ("", "_versions"):
        connection.execute(sql.SQL("DROP VIEW IF EXISTS public.{}").format(sql.Identifier(view + suffix)))


def _make(connection: psycopg.Connection[Any], project: str, change: Change, statements: Statements) -> None:
    """The table and the views of a declaration, and its entry in the catalog."""
    name = sql.Identifier
    table = name("public", f"{change.view}_stored")
    if not _exists(connection, f"{change.view}_stored"):
        connection.execute(statements.table.encode())
    for column in change.dropped:
        connection.execute(sql.SQL("ALTER TABLE {} DROP COLUMN IF EXISTS {}").format(table, name(column)))
    for column, kind in change.added.items():
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}").format(
                table,
                name(column),
                sql.SQL(kind),  # of a fixed list
            )
        )
    generation = _note(connection, project, change, statements)
    connection.execute("SELECT provide_quarter_hours()")
    views = (statements.view(generation), statements.versions)
    try:
        with connection.transaction():  # in place, for views of others may stand on them
            for text in views:
                connection.execute(text.encode())
    except InvalidTableDefinition:  # columns are named or placed differently
        _drop_views(connection, change.view)
        for text in views:
            connection.execute(text.encode())


def _note(connection: psycopg.Connection[Any], project: str, change: Change, statements: Statements) -> int:
    """Write the view into the catalog; returns its generation."""
    declaration, before = statements.declaration, change.before
    generation = 1 if before is None else before.generation + change.recompute
    meanings = {
        name: generation
        if before is None
        or name in change.added
        or before.step != declaration.step
        or before.declaration.get(name) != each.as_json()
        else before.meanings.get(name, generation)
        for name, each in declaration.stored.items()
    }
    connection.execute(
        "INSERT INTO declared_views AS views"
        " (view_name, project, declaration, step, sha256, statement, generation, meanings, filled_from)"
        " VALUES (%(view)s, %(project)s, %(declaration)s, %(seconds)s * INTERVAL '1 second', %(sha256)s,"
        "  %(statement)s, %(generation)s, %(meanings)s, time_bucket(INTERVAL '1 hour', now()))"
        " ON CONFLICT (view_name) DO UPDATE SET declaration = excluded.declaration, sha256 = excluded.sha256,"
        "  step = excluded.step, statement = excluded.statement, applied_at = now(), leaving = false,"
        "  project = CASE WHEN views.sha256 = '' OR views.declaration = excluded.declaration"
        "   THEN views.project ELSE excluded.project END,"
        "  generation = excluded.generation, meanings = excluded.meanings,"
        "  filled_from = CASE WHEN %(recompute)s THEN excluded.filled_from ELSE views.filled_from END",
        {
            "view": change.view,
            "project": project,
            "declaration": Jsonb(declaration.as_json()),
            "seconds": declaration.step.total_seconds(),
            "sha256": statements.sha256,
            "statement": statements.compute,
            "generation": generation,
            "meanings": Jsonb(meanings),
            "recompute": change.recompute,
        },
    )
    connection.execute("DELETE FROM declared_reaches WHERE view_name = %s", [change.view])
    for source in declaration.sources:
        for nearest, farthest in declaration.reaches(source):
            connection.execute(
                "INSERT INTO declared_reaches VALUES (%s, %s, %s, %s)",
                [change.view, source, nearest, farthest],
            )
    if before is not None and change.recompute:
        connection.execute(
            "INSERT INTO declared_generations VALUES (%s, %s, feature_stamp())",
            [change.view, before.generation],
        )
        connection.execute("DELETE FROM declared_spans WHERE view_name = %s", [change.view])
        connection.execute("DELETE FROM declared_refresh_ranges WHERE view_name = %s", [change.view])
    return generation


def _catalog(connection: psycopg.Connection[Any]) -> dict[str, _Known]:
    rows = connection.execute(
        "SELECT view_name, project, declaration, sha256, generation, meanings, step FROM declared_views"
        " ORDER BY view_name"
    ).fetchall()
    return {name: _Known(*rest) for name, *rest in rows}


def _leaving(connection: psycopg.Connection[Any]) -> list[str]:
    rows = connection.execute("SELECT view_name FROM declared_views WHERE leaving").fetchall()
    return [name for (name,) in rows]


def _require_free(connection: psycopg.Connection[Any], name: str) -> None:
    for suffix in _RELATIONS:
        if _exists(connection, f"{name}{suffix}"):
            raise DeclarationError(
                f"The database has another relation {name}{suffix}; "
                f"name the declared view {name} differently."
            )


def _as_placed(connection: psycopg.Connection[Any], declaration: Declaration, before: _Known) -> Declaration:
    """The declaration with its features in the order of the view's columns, and new ones after them.

    Only so the view can be changed in place. That of the hub cannot be made anew, so its features stay.
    """
    features = dict(declaration.features)
    if declaration.name == _OF_THE_HUB:
        others = {name: each for name, each in before.declaration.items() if name not in features}
        features |= {name: expression_of(each) for name, each in others.items()}
    columns = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 ORDER BY attnum",
        [f"public.{declaration.name}"],
    ).fetchall()
    names = dict.fromkeys([*(name for (name,) in columns if name in features), *features])
    return replace(declaration, features={name: features[name] for name in names})


def _difference(
    connection: psycopg.Connection[Any], declaration: Declaration, before: _Known
) -> Change | None:
    declaration = _as_placed(connection, declaration, before)
    now, then = declaration.as_json(), before.declaration
    stored = declaration.stored
    were_stored = {name: old for name, old in _expressions(then).items() if old is None or old.is_stored}
    added, dropped, losses = {}, [], []
    recompute = before.step != declaration.step
    details = [f"{_every(before.step)} become {_every(declaration.step)}"] if recompute else []
    for name in [*now, *(each for each in then if each not in now)]:
        if then.get(name) == now.get(name):
            continue
        details.append(f"{name}: {_words(then.get(name))} becomes {_words(now.get(name))}")
        old = were_stored.get(name)
        is_kept = name in stored and old is not None and sql_type(old) == sql_type(stored[name])
        if name in were_stored and not is_kept:
            dropped.append(name)
            losses.append(
                f"{declaration.name}.{name} with its values in {_rows(connection, declaration.name)}"
            )
        if name in stored:
            recompute = True
            if not is_kept:
                added[name] = sql_type(stored[name])
    missing = _missing(connection, declaration.name)
    if "_stored" in missing:
        recompute, added, dropped, losses = True, {}, [], []
    if missing:
        details.append(f"made anew: {', '.join(declaration.name + suffix for suffix in missing)}")
    if not details and before.sha256 == Statements(declaration).sha256:
        return None
    if recompute:
        details.append("every row is computed anew; what was known before stays known")
    return Change(
        declaration.name,
        "alter",
        details or ["the views are made anew; no value changes"],
        losses,
        declaration,
        added,
        dropped,
        recompute,
        before,
    )


def _missing(connection: psycopg.Connection[Any], view: str) -> list[str]:
    """Which relations of a view are not there."""
    return [suffix for suffix in _RELATIONS if not _exists(connection, f"{view}{suffix}")]


def _exists(connection: psycopg.Connection[Any], relation: str) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [f"public.{relation}"]).fetchone()
    return row == (True,)


def _every(step: timedelta) -> str:
    return f"rows every {STEPS.get(step, step)}"


def _words(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "nothing"
    try:
        return str(expression_of(found))
    except DeclarationError:
        return str(found)


def _expressions(declaration: Mapping[str, Any]) -> dict[str, Any]:
    """Expressions of an earlier declaration; None where this version knows it no longer."""
    found: dict[str, Any] = {}
    for name, each in declaration.items():
        try:
            found[name] = expression_of(each)
        except DeclarationError:
            found[name] = None
    return found


def _rows(connection: psycopg.Connection[Any], view: str) -> str:
    if not _exists(connection, f"{view}_stored"):
        return "no rows"
    query = "SELECT approximate_row_count(%s::regclass)"
    ((count,),) = connection.execute(query, [f"public.{view}_stored"]).fetchall()
    return f"about {count:,} stored rows and earlier versions"
