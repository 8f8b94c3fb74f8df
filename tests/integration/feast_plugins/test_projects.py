"""Two projects in one registry: what is torn down, deleted or planned is one of them."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from feast.errors import ProjectObjectNotFoundException
from feast.project import Project as Declared
from support.two_projects import Project

from feast_plugins import projects
from feast_plugins.errors import ProtectedProjectError, SharedRegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Everything that a project leaves behind once it is gone.
NOTHING = ("projects", "feature_views", "feature_view_version_history", "feast_metadata", "redis")


@pytest.fixture(scope="module")
def database(native_postgres: str) -> str:
    """A database of these tests, which a registry can be in as well."""
    name = f"projects_{secrets.token_hex(4)}"
    with psycopg.connect(native_postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return urlsplit(native_postgres)._replace(path=f"/{name}").geturl()


@pytest.fixture(scope="module", autouse=True)
def _connections() -> Iterator[None]:
    """Feast leaves those of its registries to the end of the process."""
    opened: list[Any] = []

    def remember(connection: Any, _: object) -> None:
        opened.append(connection)

    sa.event.listen(sa.Pool, "connect", remember)
    yield
    sa.event.remove(sa.Pool, "connect", remember)
    for item in opened:
        item.close()


@pytest.fixture(scope="module", params=[pytest.param("sqlite", marks=pytest.mark.long), "postgres"])
def registry(
    request: pytest.FixtureRequest, database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('registry')}/registry.db"
        return
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA registry")
    yield (
        urlsplit(database)._replace(scheme="postgresql+psycopg").geturl()
        + "?options=-csearch_path%3Dregistry"
    )
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP SCHEMA registry CASCADE")


@pytest.fixture(scope="module")
def declared(
    registry: str, database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, Project]:
    """Two applied and materialized projects; the name of one is the end of the other's."""
    suffix, folder = secrets.token_hex(4), tmp_path_factory.mktemp("projects")
    first, second = (
        Project(folder / name, f"{name}_{suffix}", database, redis_url, registry).write().declare()
        for name in ("energy", "prod_energy")
    )
    for project in (first, second):
        project.done("apply")
        materialize(project)
    return first, second


@pytest.fixture
def pair(declared: tuple[Project, Project]) -> tuple[Project, Project]:
    """Both, made whole again where the test before has left less of one."""
    for project in declared:
        rows = project.rows()
        if not rows["feature_view_version_history"] or len(rows["redis"]) < 3:
            project.done("apply")
            materialize(project)
    assert all(len(project.rows()["redis"]) == 3 for project in declared)
    return declared


def materialize(project: Project) -> None:
    now = datetime.now(UTC)
    project.done("materialize", (now - timedelta(hours=2)).isoformat(), now.isoformat())


def test_teardown__of_one_project__leaves_the_other_and_apply_works_again(
    pair: tuple[Project, Project],
) -> None:
    gone, other = pair
    before = other.rows()
    versions = before["feature_view_version_history"]
    assert versions, "there is nothing to lose"
    gone.done("teardown")
    assert other.rows() == before
    after = gone.rows()
    assert not [name for name in NOTHING if after[name]]
    assert len(after["table"]) == 3, "what users ingested is theirs"
    gone.done("teardown")
    gone.done("apply")
    materialize(gone)
    assert len(gone.rows()["redis"]) == 3
    assert "No changes to registry" in gone.done("plan")
    assert other.rows() == before


def test_teardown__from_python__of_a_shared_registry__is_refused(pair: tuple[Project, Project]) -> None:
    before = [project.rows() for project in pair]
    with pytest.raises(SharedRegistryError, match=f"also delete {pair[1].name} .* nothing was deleted"):
        pair[0].store().teardown()
    assert [project.rows() for project in pair] == before


def test_teardown__from_python__of_one_of_two__and_of_the_last(pair: tuple[Project, Project]) -> None:
    gone, other = pair
    before = other.rows()
    projects.teardown(gone.store())
    assert other.rows() == before
    other.store().teardown()  # Feast's own: nobody else is in the registry
    assert not [name for name in NOTHING if other.rows()[name]]
    other.done("apply")


def test_teardown__protected_project__is_refused(pair: tuple[Project, Project]) -> None:
    project, _ = pair
    store = project.store()
    store.registry.apply_project(Declared(name=project.name, tags={"feast.dev/protected-project": "true"}))
    before = project.rows()
    result = project.feast("teardown")
    assert isinstance(result.exception, Exception)
    assert "protected" in str(result.exception)
    with pytest.raises(ProtectedProjectError):
        projects.teardown(store)
    assert project.rows() == before
    store.registry.apply_project(Declared(name=project.name))


def test_delete_project__then_apply__works_again(pair: tuple[Project, Project]) -> None:
    project, other = pair
    before = other.rows()
    assert project.feast("projects", "delete", project.name, answer="n\n").exit_code == 1
    assert project.rows()["feature_views"]
    project.done("projects", "delete", project.name, "--yes")
    after = project.rows()
    assert not after["feature_views"]
    assert not after["feature_view_version_history"]
    assert other.rows() == before
    with pytest.raises(ProjectObjectNotFoundException):
        projects.delete_project(other.store(), "nobody")
    project.done("apply")


def test_apply__after_feasts_own_deletion__works(pair: tuple[Project, Project]) -> None:
    project, other = pair
    before = other.rows()
    project.store().delete_project(project.name)
    assert project.rows()["feature_view_version_history"], "Feast forgets them by now: so can we"
    project.done("apply")
    assert other.rows() == before


def test_plan__nothing_changed__after_apply_and_after_a_materialization(
    pair: tuple[Project, Project],
) -> None:
    for project in pair:
        assert "No changes to registry" in project.done("plan")


#: A change of the declarations, what is changed by it, and which part of that.
CHANGES = (
    ("hours=3", "hours=4", ["Updated feature view load"], "ttl:"),
    (
        'created_timestamp_column="made"',
        "",
        # both hold the source of what they read
        [
            "Updated feature service power",
            "Updated feature view load",
            "Updated on demand feature view doubled",
        ],
        "batch_source:",
    ),
    ('"double": [2', '"double": [3', ["Updated on demand feature view doubled"], "body_text:"),
    ("features=[load, doubled]", "features=[load]", ["Updated feature service power"], "features:"),
    (
        'name="power", features',
        'name="other", features',
        ["Created feature service other", "Deleted feature service power"],
        "",
    ),
)


@pytest.mark.parametrize("registry", ["sqlite"], indirect=True)
def test_plan__a_real_change__is_listed_and_nothing_else(pair: tuple[Project, Project]) -> None:
    project, _ = pair
    for old, new, changed, part in CHANGES:
        text = project.declarations.read_text()
        assert text.count(old) == 1
        project.declarations.write_text(text.replace(old, new))
        printed = project.done("plan")
        assert sorted(re.findall("^(?:Updated|Created|Deleted) .+$", printed, re.MULTILINE)) == changed
        assert part in printed
        assert "last_updated_timestamp" not in printed
        project.done("apply")
        assert "No changes to registry" in project.done("plan")
