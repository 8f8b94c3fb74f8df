"""The task that trains a model anew: the recipe of the version in production, its meters and new ones."""

from __future__ import annotations

from collections.abc import Callable  # of dataclasses
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ai_hub.db.transactions import transaction
from ai_hub.errors import ConflictError, ServiceDownError
from ai_hub.forecasting.retraining import KIND, new_meters
from ai_hub.jobs.queue import Job
from ai_hub.jobs.worker import DEFAULT_RETRY, RetryStrategy
from ai_hub.registry.versions import REQUEST_TAG
from ai_hub.settings import Settings  # of a dataclass
from mlflow_plugins.lineage_events import lineage_run, model_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.forecasting.card import ModelCard
    from ai_hub.forecasting.day_ahead_training import Horizon
    from ai_hub.forecasting.train import TrainingPlan
    from ai_hub.jobs.worker import Lease
    from ai_hub.registry import ModelVersion
    from mlflow_plugins.lineage_events import LineageRun

_WEEK: Final = timedelta(weeks=1)


@dataclass
class RetrainTask:
    """See `ai_hub.jobs.worker.Task`."""

    settings: Settings
    #: called with each step of an attempt
    on_step: Callable[[str], None] = lambda _: None
    kind: str = field(default=KIND, init=False)
    retry: RetryStrategy = field(default=DEFAULT_RETRY, init=False)
    #: the registry may go on with what a worker that is gone has asked for
    late_s: float = field(default=60, init=False)

    def attempt(self, job: Job) -> RetrainAttempt:
        """See `Task.attempt`."""
        return RetrainAttempt(self, job)

    def maintain(self) -> None:
        """Nothing is left to maintain."""


@dataclass(frozen=True)
class RetrainAttempt:
    """See `ai_hub.jobs.worker.Attempt`."""

    task: RetrainTask
    job: Job

    def clean(self) -> None:
        """Mark the runs that killed attempts have left open as killed."""
        from mlflow import MlflowClient  # noqa: PLC0415  # takes seconds, and exports need none

        from ai_hub.registry import enter_tenant  # noqa: PLC0415
        from ai_hub.registry.server import readable_errors  # noqa: PLC0415

        with readable_errors():
            enter_tenant(self.job.tenant_id)
            client = MlflowClient()
            experiment = client.get_experiment_by_name(self._model)
            condition = f"tags.{REQUEST_TAG} = '{self.job.job_id}' AND attributes.status = 'RUNNING'"
            for run in client.search_runs([experiment.experiment_id], condition) if experiment else ():
                client.set_terminated(run.info.run_id, "KILLED")

    def result(self) -> dict[str, Any] | None:
        """The version of this request; None: there is none.

        The attempt that registered it may have ended as failed, so lineage is told of it anew.
        """
        if (result := self._registered()) is not None:
            with lineage_run(self.job.tenant_id, f"retrain/{self._model}") as lineage:
                self._describe(lineage, result)
        return result

    def _registered(self) -> dict[str, Any] | None:
        from ai_hub.registry.versions import search  # noqa: PLC0415  # see above
        from mlflow_plugins.registration.publishing import KEY_TAG  # noqa: PLC0415

        for version in search(self.job.tenant_id, self._model):
            # not by the request's own tag, which anybody may set
            if version.tags.get(KEY_TAG) == str(self.job.job_id):
                return {
                    "version": version.version,
                    "semantic_version": version.semantic_version,
                    "run_id": version.run_id,
                }
        return None

    def run(self, lease: Lease) -> dict[str, Any]:
        """Train and register, unless an earlier attempt has: the registry takes one version of a request."""
        from ai_hub.features.store import open_store  # noqa: PLC0415  # see above
        from ai_hub.forecasting.day_ahead_tracking import log_day_ahead  # noqa: PLC0415
        from ai_hub.forecasting.day_ahead_training import train_day_ahead  # noqa: PLC0415
        from ai_hub.forecasting.production import card_of  # noqa: PLC0415
        from ai_hub.forecasting.tracking import describe_training  # noqa: PLC0415
        from ai_hub.registry import production_version  # noqa: PLC0415
        from ai_hub.registry.server import readable_errors  # noqa: PLC0415
        from mlflow_plugins.registration.publishing import KEY_TAG  # noqa: PLC0415

        def on_step(step: str) -> None:
            self.task.on_step(step)
            lease.check()

        def on_logged() -> None:
            self.task.on_step("registering")
            lease.confirm()

        on_step("planning")
        if (result := self.result()) is not None:
            return result
        version = production_version(self.job.tenant_id, self._model)
        card = card_of(version)
        with transaction(self.task.settings) as connection:
            meters = sorted({*_present(connection, version, card), *new_meters(connection, version, card)})
        plan, horizon = recipe(version, card, meters)
        key = str(self.job.job_id)
        with lineage_run(plan.tenant, f"retrain/{plan.model}") as lineage:
            try:
                with readable_errors():
                    trained = train_day_ahead(open_store(self.task.settings), plan, horizon, on_step)
                    lease.progress = 0.8
                    on_step("logging to MLflow")
                    logged = log_day_ahead(
                        plan.tenant,
                        trained,
                        register=True,
                        tags={REQUEST_TAG: key, KEY_TAG: key},
                        on_logged=on_logged,
                    )
            except (ConflictError, ServiceDownError) as error:
                # what a killed attempt had asked for was done meanwhile, or the registry's answer got lost
                try:
                    result = self._registered()
                except ServiceDownError:
                    raise error from None
                if result is None:
                    raise
                self._describe(lineage, result)
                return result
            describe_training(lineage, plan.model, trained.source, logged)
        result = self._registered()
        assert result is not None  # noqa: S101  # was registered
        return result

    def _describe(self, lineage: LineageRun, result: dict[str, Any]) -> None:
        """Say of an event which version there is; its rows may be those of another attempt."""
        lineage.outputs = [model_version(self._model, result["version"], result["semantic_version"])]

    @property
    def _model(self) -> str:
        return str(self.job.arguments["model"])


def _present(connection: Any, version: ModelVersion, card: ModelCard) -> list[str]:
    """Meters of a version that are still there and in its unit."""
    rows = connection.execute(
        "SELECT asset_id FROM assets WHERE tenant_id = %s AND asset_id = ANY (%s)"
        " AND feature_unit IS NOT DISTINCT FROM %s",
        [version.tenant, card.assets, card.unit],
    )
    return [asset for (asset,) in rows]


def recipe(version: ModelVersion, card: ModelCard, meters: Sequence[str]) -> tuple[TrainingPlan, Horizon]:
    """How a version was trained, as `ai-hub train` takes it, for these meters and the newest weeks.

    Raises:
        ConflictError: none of its meters is left, or it does not say how it was trained.
    """
    from ai_hub.forecasting.day_ahead_training import Horizon  # noqa: PLC0415  # see above
    from ai_hub.forecasting.issues import IssueRule  # noqa: PLC0415
    from ai_hub.forecasting.train import TrainingPlan  # noqa: PLC0415
    from ai_hub.registry.metadata import model_metadata  # noqa: PLC0415

    label = f"{version.model} {version.semantic_version or version.version}"
    anew = f"Train it with `ai-hub train --tenant {version.tenant} --horizon …`."
    if not meters:
        raise ConflictError(f"No meter that {label} was trained on is left in {card.unit}.", hint=anew)
    parameters = model_metadata(version).metadata.get("hyperparameters", {})
    try:
        start, holdout, end = (
            datetime.fromisoformat(parameters[name])
            for name in ("window_start", "holdout_start", "window_end")
        )
    except (KeyError, ValueError) as error:
        raise ConflictError(f"{label} does not say which weeks it was trained on.", hint=anew) from error
    assert card.horizon_hours is not None  # noqa: S101  # of `card_of`
    plan = TrainingPlan(
        version.tenant,
        card.feature_service,
        card.kind,
        tuple(meters),
        version.model,
        weeks=round((end - start) / _WEEK),
        holdout_weeks=round((end - holdout) / _WEEK),
    )
    horizon = Horizon(
        length=timedelta(hours=card.horizon_hours),
        step=timedelta(minutes=card.step_minutes) if card.step_minutes else None,
        levels=tuple(card.quantiles or ()),
        point=card.point or "median",
        issue=IssueRule.parse(card.issue) if card.issue else None,
        monotone=card.monotone or {},
        estimator=card.estimator,
    )
    return plan, horizon
