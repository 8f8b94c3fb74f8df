"""`feast apply` changes a filled view while ingest, refresh, materialization and reads run, and is killed.

Every answer is a row of one declaration, that of before or that of after. The same command again completes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import psycopg
import pytest
from adbc_driver_manager import dbapi
from feast.aggregation import Aggregation
from feast.errors import (
    EntityNotFoundException,
    FeatureServiceNotFoundException,
    FeatureViewNotFoundException,
)
from oracles.declared import Oracle
from oracles.features import HOUR
from psycopg import sql
from support.declared_repository import Repository, declared_repository, leave_others_out
from support.declared_views import declare, same
from support.energy import Energy
from support.export_lab import ExportLab
from support.feature_reading import Clock, ask, reading
from support.feature_tables import write
from support.registry_servers import FORKS, PRELOADED

from ai_hub.cli.feast_commands import commands
from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.features.materialize import materialize
from ai_hub.features.newest import Scope
from ai_hub.features.store import open_store
from feast_plugins import windows
from feast_plugins.windows import database as declared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from ai_hub.features.online.reader import FeatureReader

TIMEOUT_S = 200
KEYS = {"tenant_id", "asset_id", "event_timestamp", "created_timestamp"}
DOORS = {"history", "online", "service", "export"}
#: A declaration names what is not there, not yet or no more.
MISSING = (
    dbapi.ProgrammingError,
    EntityNotFoundException,
    NotFoundError,
    FeatureServiceNotFoundException,
    FeatureViewNotFoundException,
)
BEFORE = """
        "lag": Lag("value", timedelta(hours=48)),
        "most": Aggregation("value", "max", timedelta(days=3), timedelta(hours=1)),
        "mean": Aggregation("value", "mean", timedelta(days=1), timedelta(hours=1)),
        "holiday": Holiday("DE"),
"""
CHANGED = BEFORE.replace("hours=48", "hours=30").replace("days=3", "days=2")
ADDED = BEFORE + '        "last": Aggregation("value", "last", timedelta(days=1), timedelta(hours=1)),\n'
TAKEN_OUT = CHANGED.replace(
    '"mean": Aggregation("value", "mean", timedelta(days=1), timedelta(hours=1)),', ""
)
NOTHING = ""
#: By name: what `feast apply` does to the view `demand`.
CHANGES = {
    "declared": (NOTHING, BEFORE),
    "added": (BEFORE, ADDED),
    "changed": (BEFORE, CHANGED),
    "taken out": (BEFORE, TAKEN_OUT),
    "dropped": (BEFORE, NOTHING),
}
#: By name: a statement to TimescaleDB, or a method, after which `feast apply` dies.
POINTS = {
    "views to drop are noted": "SET leaving = NOT leaving",
    "the view is locked": "FROM declared_views WHERE view_name",
    "the table is made": "CREATE TABLE public.",
    "views are dropped": "DROP VIEW IF EXISTS public.",
    "the table is dropped": "DROP TABLE IF EXISTS",
    "a column is added": "ADD COLUMN IF NOT EXISTS",
    "a column is dropped": "DROP COLUMN IF EXISTS",
    "the catalog has it": "INSERT INTO declared_views",
    "the catalog has it no longer": "DELETE FROM declared_views",
    "its present rows are another view": "CREATE OR REPLACE VIEW public.{view} AS",
    "its versions are another view": "CREATE OR REPLACE VIEW public.{view}_versions",
    "the tenant wall serves it": "tenant_wall.serve(",
    "TimescaleDB is done": "feast_plugins.windows.database:_despite_others",
    "the registry has the view": "feast.infra.registry.sql:SqlRegistry.apply_feature_view",
    "the registry has the view no longer": "feast.infra.registry.sql:SqlRegistry.delete_feature_view",
    "the registry has the service": "feast.infra.registry.sql:SqlRegistry.apply_feature_service",
    "rows of before are out of Redis": "feast_plugins.online.writing:delete_view",
    "Redis is done": "feast_plugins.batch_engine:ArrowComputeEngine.update",
    "Feast is done": "feast.feature_store:FeatureStore.apply",
}


@contextmanager
def changing() -> Iterator[None]:
    """While `feast apply` is under way, reads of what is declared and not there, or the reverse, may fail."""
    try:
        yield
    except MISSING:
        pass
    except BadInputError as error:  # the registry has the services of a view longer than the view
        if "does not exist in project" not in str(error):
            raise
    except (ValueError, UserWarning) as error:  # Feast's registry has a view before the services of it
        if "cannot be applied because" not in str(error) and "is inconsistent with" not in str(error):
            raise


@dataclass
class Fire:
    """Ingest, refreshes, materializations and reads of a filled view, and what they find of it."""

    repository: Repository
    energy: Energy
    folder: Path
    #: features of each declaration that an answer may be of
    declarations: list[Mapping[str, Any]] = field(default_factory=list)
    #: how often the reading that changes was written: by now, before the last refresh, and materialization
    written: int = 0
    refreshed: int = 0
    online: int = 0
    #: rows by where they were read
    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def service(self) -> str:
        return f"{self.repository.view}_service"

    @property
    def scope(self) -> Scope:
        return Scope(tenants=[self.repository.tenant])

    def ingest(self) -> None:
        """Correct a reading that all windows hold once more, refresh, and materialize."""
        self.written += 1
        number = self.written
        with connect(autocommit=True) as connection:
            corrected = {self.energy.now - 5 * HOUR: 1000.0 + number}
            write(connection, self.repository.tenant, "meter", corrected)
        refresh()
        self.refreshed = number
        with changing():  # what the declaration of one moment has and the tables do not
            materialize(open_store(self.repository.settings), self.scope)
            self.online = number

    def expected(self, declaration: Mapping[str, Any], number: int, time: datetime) -> dict[str, Any]:
        corrected = {self.energy.now - 5 * HOUR: 1000.0 + number}
        asset = replace(self.repository.asset, readings=self.repository.asset.readings | corrected)
        return Oracle(asset, time, {}).row(time, declaration)

    def check(self, where: str, row: Mapping[str, Any], time: datetime, first: int) -> None:
        """A row must be that of one declaration and of one of the corrections from `first` on."""
        self.answers[where] += 1
        for declaration in self.declarations:
            for number in range(first, self.written + 1):
                expected = dict.fromkeys(row) | self.expected(declaration, number, time)
                if all(same(value, expected[name], 1e4) for name, value in row.items()):
                    return
        self.faults.append(f"{where}: {dict(row)} at {time}, corrections {first} to {self.written}")

    def read_history(self) -> None:
        first, time = self.refreshed, self.energy.now - HOUR
        store = open_store(self.repository.settings)
        entities = pd.DataFrame(
            {"tenant_id": [self.repository.tenant], "asset_id": ["meter"], "event_timestamp": [time]}
        )
        rows = store.get_historical_features(entities, store.get_feature_service(self.service)).to_df()
        (row,) = rows.drop(columns=[*KEYS], errors="ignore").to_dict("records")
        self.check(
            "history", {name: None if pd.isna(value) else value for name, value in row.items()}, time, first
        )

    def read_online(self) -> None:
        """By Feast's SDK, where a value that is not there yet, or no more, is no answer."""
        first, store = self.online, open_store(self.repository.settings)
        response = store.get_online_features(
            store.get_feature_service(self.service),
            [{"tenant_id": self.repository.tenant, "asset_id": "meter"}],
        )
        row = {
            name: values[0]
            for name, values in response.to_dict().items()
            if name not in KEYS and values[0] is not None
        }
        seconds = max(result.event_timestamps[0].seconds for result in response.proto.results)
        if row:
            self.check("online", row, datetime.fromtimestamp(seconds, UTC), first)

    async def read_service(self, reader: FeatureReader) -> None:
        first = self.online
        (result,) = await ask(reader, self.repository.tenant, "meter", feature_set=self.service)
        self.check("service", result["features"], result["event_timestamp"], first)

    def export(self) -> None:
        first = self.refreshed
        lab = ExportLab(self.energy, self.repository.settings, self.folder / "exports")
        request = lab.request(hours=2, tenant=self.repository.tenant, feature_set=self.service)
        job = lab.work(lab.submit(request))
        lab.forget()
        if job.status != "completed":
            if job.error is None:  # it is tried again
                return
            expected = ("does not exist", "`feast apply`", "There is no feature service")
            assert any(words in str(job.error) for words in expected), job.error
            return
        for row in lab.table(job).to_pylist():
            values = {name: value for name, value in row.items() if name not in KEYS}
            self.check("export", values, row["event_timestamp"], first)

    async def read_all(self, reader: FeatureReader) -> None:
        for read in (self.read_history, self.read_online, self.export):
            with changing():
                await asyncio.to_thread(read)
        with changing():
            await self.read_service(reader)

    def answer(self) -> Counter[str]:
        """Everything read once, as the service reads it that has just started."""
        self.answers.clear()

        async def work() -> None:
            async with self.reader() as reader:
                await self.read_all(reader)

        asyncio.run(work())
        return self.answers

    def reader(self) -> AbstractAsyncContextManager[FeatureReader]:
        registry = self.repository.settings.feast_registry_uri
        return reading(Clock(self.energy.now + timedelta(minutes=20)), feast_registry_uri=registry)

    @contextmanager
    def burning(self) -> Iterator[None]:
        """All of it goes on in the block, and once more after it."""

        async def read() -> None:
            async with self.reader() as reader:
                while not self.stop.is_set():
                    await self.read_all(reader)
                await self.read_all(reader)

        def ingest() -> None:
            while not self.stop.is_set():
                self.ingest()

        self.stop.clear()
        with ThreadPoolExecutor(2, "fire") as pool:
            work = [pool.submit(asyncio.run, read()), pool.submit(ingest)]
            try:
                yield
            finally:
                self.stop.set()
        for each in work:
            each.result()


def declare_in(repository: Repository, features: str) -> None:
    """The repository declares a view with these features, or nothing."""
    if features:
        repository.declare(features)
    else:
        repository.project.declarations.write_text("")


def expressions(features: str) -> Mapping[str, Any]:
    """What a declaration says, without the registry."""
    names = {**vars(windows), "Aggregation": Aggregation, "timedelta": timedelta}
    return declare("any", eval(f"{{{features}}}", names)).as_json()  # noqa: S307  # a constant here


def is_killed(repository: Repository, point: str) -> bool:
    """Whether `feast apply` reached the point and died there."""
    FORKS.set_forkserver_preload(PRELOADED)
    process = FORKS.Process(
        target=_apply_until, args=(dict(os.environ), str(repository.project.folder), point, repository.view)
    )
    process.start()
    process.join(TIMEOUT_S)
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode != 0


def _apply_until(variables: dict[str, str], folder: str, point: str, view: str) -> None:
    os.environ.clear()
    os.environ.update(variables)
    place, _, name = POINTS[point].format(view=view).rpartition(":")
    if place:
        owner: Any = import_module(place)
        *classes, name = name.split(".")
        for each in classes:
            owner = getattr(owner, each)
        _die_after(owner, name, lambda *_: True)
    else:
        _die_after(psycopg.Connection, "execute", lambda _, query, *__: name in _text(query))
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing):  # noqa: PTH123
        commands.main(["--chdir", folder, "apply", "--yes"], standalone_mode=False)


def _die_after(owner: Any, name: str, is_it: Callable[..., bool]) -> None:
    method = getattr(owner, name)

    def dying(*arguments: Any, **options: Any) -> Any:
        result = method(*arguments, **options)
        if is_it(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


def _text(query: Any) -> str:
    if isinstance(query, sql.Composable):
        return query.as_string(None).replace('"', "")
    return query.decode() if isinstance(query, bytes) else str(query)


@pytest.fixture
def repository(database: str, energy: Energy, tmp_path: Path) -> Iterator[Repository]:
    with declared_repository(database, energy.now, tmp_path) as made:
        yield made


#: Of each change the points at which it is killed.
REACHED = {
    "declared": [
        *("the table is made", "the catalog has it", "the tenant wall serves it", "TimescaleDB is done"),
        *("the registry has the view", "Redis is done", "Feast is done"),
    ],
    "added": [
        *("the view is locked", "a column is added", "its present rows are another view"),
        *("its versions are another view", "TimescaleDB is done", "the registry has the view"),
    ],
    "changed": [
        *("TimescaleDB is done", "the catalog has it", "its present rows are another view"),
        *("the tenant wall serves it", "the registry has the view", "the registry has the service"),
        *("rows of before are out of Redis", "Redis is done", "Feast is done"),
    ],
    "taken out": [
        *("a column is dropped", "views are dropped", "the catalog has it", "its versions are another view"),
        *("the registry has the view", "TimescaleDB is done"),
    ],
    "dropped": [
        *("views to drop are noted", "the registry has the view no longer", "views are dropped"),
        *("the table is dropped", "the catalog has it no longer", "TimescaleDB is done"),
    ],
}
PAIRS = [
    pytest.param(change, point, id=f"{change}: {point}")
    for change, points in REACHED.items()
    for point in points
]


@pytest.mark.long
@pytest.mark.parametrize(("change", "point"), PAIRS)
def test_apply__killed_while_all_goes_on__serves_one_declaration_and_completes(
    repository: Repository, energy: Energy, tmp_path: Path, change: str, point: str
) -> None:
    project, (before, after) = repository.project, CHANGES[change]
    fire = Fire(repository, energy, tmp_path)
    # what only the longer of two windows holds
    repository.asset.readings[energy.now - 60 * HOUR] = 5000.0
    with connect(autocommit=True) as connection:
        write(connection, repository.tenant, "meter", {energy.now - 60 * HOUR: 5000.0})
    declare_in(repository, before)
    if before:
        project.done("apply")
        leave_others_out(repository)
        fire.declarations = [expressions(before)]
        with connect(autocommit=True) as connection:
            declared.request_backfill(connection, repository.view)
    fire.ingest()
    if before:
        assert fire.answer().keys() == DOORS
    declare_in(repository, after)
    fire.declarations += [expressions(after)] if after else []
    with fire.burning():
        assert is_killed(repository, point)
    fire.answer()
    assert fire.faults == []
    project.done("apply", "--yes")
    assert "TimescaleDB:" not in project.done("plan")

    fire.declarations = [expressions(after)] if after else []
    if not after:
        assert not fire.answer()
        return
    fire.answer()
    assert fire.faults == []
    fire.ingest()
    assert fire.answer().keys() == DOORS
    assert fire.faults == []
