"""Jobs that train anew: with the recipe of production, and one version or none wherever they are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import signal
import threading
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient
from support.day_ahead import client_of_its_own

from ai_hub import registry
from ai_hub.db.transactions import transaction
from ai_hub.errors import ConflictError, ServiceDownError
from ai_hub.forecasting import day_ahead_tracking, day_ahead_training, retraining
from ai_hub.forecasting.card import ModelCard
from ai_hub.forecasting.day_ahead_training import TrainedDayAhead  # of a dataclass
from ai_hub.forecasting.production import card_of
from ai_hub.forecasting.retrain_task import RetrainAttempt, RetrainTask, recipe
from ai_hub.jobs import queue
from ai_hub.jobs.worker import Worker
from ai_hub.registry import versions
from ai_hub.registry.versions import REQUEST_TAG
from ai_hub.settings import Settings
from mlflow_plugins import lineage_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from support.energy import Energy

    from ai_hub.registry import ModelVersion

TRAIN = (
    *("--weeks", "5", "--holdout-weeks", "1", "--horizon", "40h", "--issue", "D-1 10:00 Europe/Berlin"),
    *("--quantiles", "0.1,0.5,0.75,0.9", "--point", "mean", "--monotone", "target_temperature:-"),
)


@dataclass
class Place:
    """A tenant with a model in production, and what a retraining of it has trained."""

    tenant: str
    settings: Settings
    model: str
    #: kept of the first retraining, so that others need not train
    trained: list[TrainedDayAhead] = field(default_factory=list)

    def request(self) -> UUID:
        """An approved request."""
        version = registry.production_version(self.tenant, self.model)
        made = retraining.propose_by_hand(self.settings, version, by="test", reason="test")
        with transaction(self.settings, self.tenant) as connection:
            retraining.approve(connection, self.tenant, made.request_id, by="test")
        return made.request_id

    def work(self, job_id: UUID, on_step: Callable[[str], None] = lambda _: None, stop: Any = None) -> str:
        """Do the job in this process; what came of it, `held` where another worker has it."""
        worker = Worker(self.settings, [RetrainTask(self.settings, on_step)], stop or threading.Event())
        with client_of_its_own():
            job = worker.acquire(job_id)
            return worker.run_job(job) if job else "held"

    def versions(self, request_id: UUID) -> list[ModelVersion]:
        """Those of a request."""
        found = registry.list_versions(self.tenant, self.model)
        return [version for version in found if version.tags.get(REQUEST_TAG) == str(request_id)]

    def runs(self, request_id: UUID) -> list[str]:
        """Status of each run of a request."""
        with registry.tenant_scope(self.tenant):
            client = MlflowClient(*[self.settings.require("mlflow_tracking_uri")] * 2)
            experiment = client.get_experiment_by_name(self.model)
            assert experiment is not None
            tagged = f"tags.{REQUEST_TAG} = '{request_id}'"
            return sorted(run.info.status for run in client.search_runs([experiment.experiment_id], tagged))

    def find(self, request_id: UUID) -> retraining.RetrainRequest:
        with transaction(self.settings, self.tenant) as connection:
            return retraining.find(connection, self.tenant, request_id)


@pytest.fixture(scope="module")
def place(energy: Energy) -> Place:
    model = f"retrained-{secrets.token_hex(4)}"
    result = energy.run(
        *("ai-hub", "train", "--tenant", energy.main, *TRAIN, "--asset", "1", "--model", model, "--json")
    )
    assert result.returncode == 0, result.stderr
    registry.promote(energy.main, model, reason="test")
    return Place(energy.main, Settings(), model)


@pytest.fixture(scope="module")
def first(place: Place) -> Iterator[UUID]:
    """The first retraining, after another meter has come."""
    train = day_ahead_training.train_day_ahead

    def kept(*given: Any) -> TrainedDayAhead:
        place.trained.append(train(*given))
        return place.trained[-1]

    def registered_at(time: str) -> None:
        with transaction(place.settings) as connection:
            connection.execute(
                f"UPDATE assets SET created_at = {time}"  # type: ignore[arg-type]  # noqa: S608
                " WHERE tenant_id = %s AND asset_id = '11'",
                [place.tenant],
            )

    registered_at("now()")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(day_ahead_training, "train_day_ahead", kept)
        request_id = place.request()
        assert place.work(request_id) == "completed", place.find(request_id)
    yield request_id
    registered_at("now() - INTERVAL '1 hour'")


def test_job__trains_as_production_was_with_new_meters(place: Place, first: UUID) -> None:
    (version,) = place.versions(first)
    before = registry.production_version(place.tenant, place.model)
    assert (version.version, version.stage) == (before.version + 1, "Staging")
    old, new = card_of(before), card_of(version)
    assert (old.assets, new.assets) == (["1"], ["1", "11"])
    assert replace(new, assets=old.assets) == old
    assert (new.horizon_hours, new.issue, new.point) == (40, "D-1 10:00 Europe/Berlin", "mean")
    with registry.tenant_scope(place.tenant):
        client = MlflowClient(*[place.settings.require("mlflow_tracking_uri")] * 2)
        params = [client.get_run(str(each.run_id)).data.params for each in (before, version)]
    windows = [
        {name: each.pop(name) for name in ("window_start", "holdout_start", "window_end")} for each in params
    ]
    assert [each.pop("asset_count") for each in params] == ["1", "2"]
    assert [int(each.pop("issues")) > 0 for each in params] == [True, True]
    assert params[0] == params[1]
    assert windows[0] == windows[1]
    request = place.find(first)
    assert (request.status, request.new_version, request.new_semantic_version) == (
        *("completed", version.version),
        version.semantic_version,
    )
    assert place.runs(first) == ["FINISHED"]


@pytest.fixture
def canned(place: Place, first: UUID, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Training takes no time; nothing of it is written before its end anyway."""
    del first

    def train(*given: Any) -> TrainedDayAhead:
        given[-1]("fitting to all issues")
        return place.trained[0]

    monkeypatch.setattr(day_ahead_training, "train_day_ahead", train)
    return place


def test_stopped_worker__requeues_and_another_completes(canned: Place) -> None:
    request_id, stop = canned.request(), threading.Event()
    assert canned.work(request_id, lambda _: stop.set(), stop) == "requeued"
    assert (canned.find(request_id).status, canned.versions(request_id)) == ("approved", [])
    assert canned.work(request_id) == "completed"
    assert len(canned.versions(request_id)) == 1


def test_cancelled__before_it_is_registered__leaves_no_version(canned: Place) -> None:
    request_id = canned.request()

    def cancel(step: str) -> None:
        if step == "registering":
            with transaction(canned.settings, canned.tenant) as connection:
                queue.cancel(connection, canned.tenant, request_id)

    assert canned.work(request_id, cancel) == "cancelled"
    assert (canned.find(request_id).status, canned.versions(request_id)) == ("failed", [])
    with transaction(canned.settings, canned.tenant) as connection:
        queue.retry(connection, canned.tenant, request_id)
    assert canned.work(request_id) == "completed"
    assert len(canned.versions(request_id)) == 1


def test_cancelled_or_failed__while_it_is_registered__completes_with_its_version(
    canned: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id, register = canned.request(), day_ahead_tracking.register_model

    def cancelled(*given: Any) -> Any:
        version = register(*given)
        with transaction(canned.settings, canned.tenant) as connection:
            queue.cancel(connection, canned.tenant, request_id)
        return version

    monkeypatch.setattr(day_ahead_tracking, "register_model", cancelled)
    assert canned.work(request_id) == "completed"
    (version,) = canned.versions(request_id)
    assert canned.find(request_id).outcome.startswith(f"completed: version {version.version} ")

    # the registry went on with it when the job had failed
    request_id, asked = canned.request(), []

    def lost(*given: Any) -> Any:
        asked.append(given)
        raise ConflictError("no answer")

    monkeypatch.setattr(day_ahead_tracking, "register_model", lost)
    assert canned.work(request_id) == "failed"
    assert (canned.find(request_id).status, canned.versions(request_id)) == ("failed", [])
    with client_of_its_own(), registry.tenant_scope(canned.tenant):
        register(*asked[0])
    with transaction(canned.settings) as connection:
        connection.execute("UPDATE jobs SET clean_after = now() WHERE job_id = %s", [request_id])
    with client_of_its_own():
        Worker(canned.settings, [RetrainTask(canned.settings)], threading.Event()).remove_orphans()
    (version,) = canned.versions(request_id)
    request = canned.find(request_id)
    assert (request.status, request.new_version, request.error) == ("completed", version.version, None)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Lineage events that were sent: their state and outputs."""
    events: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(
        lineage_events,
        "_send",
        lambda run, state, _: events.append((state, [each.name for each in run.outputs])),
    )
    return events


def test_answer_that_is_lost__is_asked_for_again_without_a_second_version(
    canned: Place, told: list[tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id, register = canned.request(), day_ahead_tracking.register_model

    def twice(*given: Any) -> Any:
        register(*given)
        return register(*given)

    monkeypatch.setattr(day_ahead_tracking, "register_model", twice)
    assert canned.work(request_id) == "completed"
    (version,) = canned.versions(request_id)
    assert told == [("START", []), ("COMPLETE", [f"models/{canned.model}/{version.version}"])]


@pytest.mark.parametrize("is_back", [True, False])
def test_lineage__of_a_version_whose_answer_is_lost__is_complete_once_it_is_found(
    canned: Place, told: list[tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch, *, is_back: bool
) -> None:
    request_id, register, search = canned.request(), day_ahead_tracking.register_model, versions.search

    def away(*_: Any) -> Any:
        raise ServiceDownError("MLflow", "mlflow:5000", "refused")

    def lost(*given: Any) -> Any:
        register(*given)
        if not is_back:
            monkeypatch.setattr(versions, "search", away)
        away()

    monkeypatch.setattr(day_ahead_tracking, "register_model", lost)
    outcome = canned.work(request_id)
    monkeypatch.setattr(versions, "search", search)
    (version,) = canned.versions(request_id)
    complete = ("COMPLETE", [f"models/{canned.model}/{version.version}"])
    if is_back:
        assert (outcome, told) == ("completed", [("START", []), complete])
        return
    assert (outcome, told) == ("requeued", [("START", []), ("FAIL", [])])
    with transaction(canned.settings) as connection:
        connection.execute("UPDATE jobs SET next_at = now() WHERE job_id = %s", [request_id])
    assert canned.work(request_id) == "completed"
    assert told[2:] == [("START", []), complete]
    assert canned.versions(request_id) == [version]


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(step: str) -> Callable[[], None]:
    """Dies as soon as this step begins."""

    def install() -> None:
        attempt = RetrainAttempt.run

        def run(self: RetrainAttempt, lease: Any) -> Any:
            self.task.on_step = lambda text: die() if text == step else None
            return attempt(self, lease)

        RetrainAttempt.run = run  # type: ignore[method-assign]

    return install


def replaced(where: Any, name: str, made: Callable[[Any], Any]) -> Callable[[], None]:
    return lambda: setattr(where, name, made(getattr(where, name)))


def then_die(function: Any) -> Any:
    return lambda *given, **named: die(function(*given, **named))


def die_while(function: Any) -> Any:
    def run(*given: Any) -> Any:
        threading.Timer(0.15, die).start()
        return function(*given)

    return run


#: Where a worker is killed, by what its process does for it.
KILLS: dict[str, Callable[[], None]] = {
    "acquired": replaced(RetrainAttempt, "clean", lambda _: die),
    "planning": before("planning"),
    "training": before("fitting to all issues"),
    "trained": before("logging to MLflow"),
    "logging": replaced(day_ahead_tracking, "_log_backtest", lambda _: die),
    "logged": before("registering"),
    "while it is registered": replaced(day_ahead_tracking, "register_model", die_while),
    "registered": replaced(day_ahead_tracking, "register_model", then_die),
    "completed": replaced(queue, "complete", then_die),
}
#: That one a version is there, and nobody but the registry knows.
QUICK = "registered"


def _killed(settings: Settings, job_id: UUID, install: Callable[[], None]) -> None:
    install()
    worker = Worker(settings, [RetrainTask(settings)], threading.Event())
    job = worker.acquire(job_id)
    assert job is not None
    worker.run_job(job)


@pytest.mark.parametrize(
    "moment", [pytest.param(each, marks=[] if each == QUICK else pytest.mark.long) for each in KILLS]
)
def test_killed__leaves_one_version_or_none_and_running_again_completes(canned: Place, moment: str) -> None:
    request_id = canned.request()
    # forked: a fresh interpreter would import and train
    process = multiprocessing.get_context("fork").Process(
        target=_killed, args=(canned.settings, request_id, KILLS[moment])
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    left = len(canned.versions(request_id))
    assert left == {"registered": 1, "completed": 1}.get(moment, left if "while" in moment else 0)
    if moment != "completed":
        assert canned.work(request_id) == "held"
        with transaction(canned.settings) as connection:
            connection.execute("UPDATE jobs SET lease_until = now() WHERE job_id = %s", [request_id])
        assert canned.work(request_id) == "completed"
    assert canned.work(request_id) == "held"
    (version,) = canned.versions(request_id)
    request = canned.find(request_id)
    assert (request.status, request.new_version) == ("completed", version.version)
    assert "RUNNING" not in canned.runs(request_id)


def test_model_that_left_production__fails_with_the_reason(place: Place) -> None:
    request_id = place.request()
    with transaction(place.settings) as connection:
        connection.execute(
            "UPDATE jobs SET arguments = %s WHERE job_id = %s", [json.dumps({"model": "nobody"}), request_id]
        )
    assert place.work(request_id) == "failed"
    assert "nobody" in str(place.find(request_id).error)


def version_of(**parameters: str) -> Any:
    document = json.dumps({"hyperparameters": parameters})
    return SimpleNamespace(
        tenant="t", model="m", version=2, semantic_version="v1.1.0", description=None, run_id=None,
        tags={"ai_hub.card": document},
    )  # fmt: skip


CARD = ModelCard("day_ahead", [], [], "electricity", ["a"], "kW", horizon_hours=48, quantiles=[0.1, 0.5, 0.9])


def test_recipe__of_a_version_that_does_not_say_it__is_refused() -> None:
    with pytest.raises(ConflictError, match="which weeks"):
        recipe(version_of(window_start="2026-01-01T00:00:00+00:00"), CARD, ["a"])
    with pytest.raises(ConflictError, match="No meter that m v1"):
        recipe(version_of(), CARD, [])
