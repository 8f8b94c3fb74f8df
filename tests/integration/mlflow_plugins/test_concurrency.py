"""Many processes change one model at once: the database's lock decides, nobody sees an internal error."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import Counter
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from oracles.lifecycle import Model
from support.registry_servers import each_database

from mlflow_plugins.gates.comparison import record_tag
from mlflow_plugins.store.lifecycle_store import LifecycleStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

_PROCESSES = 6
# Forked, because starting Python and importing MLflow six times would take most of the suite's time.
_FORK = multiprocessing.get_context("fork")


def test_promotions__at_once__leave_one_in_production(store_uri: str, model: Model) -> None:
    versions = [model.register() for _ in range(_PROCESSES)]

    def promote(theirs: Model, worker: int) -> None:
        theirs.move(versions[worker], "Production")

    assert _race(store_uri, model.name, promote) == {"done": _PROCESSES}
    assert Counter(model.stages().values()) == {"Production": 1, "Archived": _PROCESSES - 1}
    model.check()


def test_promotions_of_one_version__at_once__succeed_once(store_uri: str, model: Model) -> None:
    version = model.register()

    def promote(theirs: Model, worker: int) -> None:
        del worker
        theirs.move(version, "Production")

    assert _race(store_uri, model.name, promote) == {"done": 1, 409: _PROCESSES - 1}
    model.check()


def test_registrations__at_once__get_different_numbers(store_uri: str, model: Model) -> None:
    def register(theirs: Model, worker: int) -> None:
        del worker
        theirs.register()
        theirs.register()

    assert _race(store_uri, model.name, register) == {"done": _PROCESSES}
    numbers = {
        model.store.get_model_version(model.name, version).tags["semantic_version"]
        for version in model.stages()
    }
    assert numbers == {f"v1.0.{patch}" for patch in range(2 * _PROCESSES)}
    model.check()


@each_database
def test_looks_at_one_pair__at_once__keep_the_first(store_uri: str, model: Model) -> None:
    version, tag = model.register(), record_tag(1)

    def note(theirs: Model, worker: int) -> None:
        theirs.tag(version, tag, str(worker))
        # what was written is what stays
        assert theirs.store.get_model_version(theirs.name, version).tags[tag] == str(worker)

    assert _race(store_uri, model.name, note) == {"done": 1, 409: _PROCESSES - 1}


@each_database
def test_anything__at_once__keeps_the_invariants(store_uri: str, model: Model) -> None:
    versions = [model.register() for _ in range(4)]

    def meddle(theirs: Model, worker: int) -> None:
        dice = random.Random(worker)  # noqa: S311 - the same mixture in every run
        for _ in range(5):
            version = dice.choice(versions)
            action: Callable[[], object] = dice.choice(
                [
                    lambda version=version: theirs.move(version, "Production"),
                    lambda version=version: theirs.move(version, "Staging"),
                    lambda version=version: theirs.alias("production", version),
                    lambda version=version: theirs.alias("archived", version),
                    lambda: theirs.store.roll_back(theirs.name),
                    theirs.register,
                ]
            )
            try:
                action()
            except MlflowException as error:
                if error.get_http_status_code() != 409:
                    raise

    assert _race(store_uri, model.name, meddle) == {"done": _PROCESSES}
    model.check()


def _race(uri: str, name: str, action: Callable[[Model, int], None]) -> dict[object, int]:
    """Run `action` in all processes at once; counts what became of it: "done" or the HTTP status."""
    barrier = _FORK.Barrier(_PROCESSES)
    outcomes: Queue[object] = _FORK.Queue()
    workers = [
        _FORK.Process(target=_work, args=(uri, name, action, worker, barrier, outcomes))
        for worker in range(_PROCESSES)
    ]
    for worker in workers:
        worker.start()
    counted = Counter(outcomes.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    outcomes.close()
    return dict(counted)


def _work(
    uri: str,
    name: str,
    action: Callable[[Model, int], None],
    worker: int,
    barrier: Barrier,
    outcomes: Queue[object],
) -> None:
    outcome: object = "done"
    try:
        SqlAlchemyStore._engine_map.clear()  # connections do not survive a fork
        model = Model(LifecycleStore(uri), name)
        barrier.wait(timeout=60)
        action(model, worker)
    except MlflowException as error:
        status = error.get_http_status_code()
        outcome = status if status == 409 else f"{status}: {error.message}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, the test has to see it
        outcome = repr(error)
    outcomes.put(outcome)
    outcomes.close()
    outcomes.join_thread()
    os._exit(0)  # nothing of pytest's may run in here
