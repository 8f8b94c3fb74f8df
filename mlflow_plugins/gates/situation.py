"""What the database says about a wished promotion: read before the gates, again under the model's lock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlflow_plugins.lifecycle import audit, rules, stages
from mlflow_plugins.lifecycle.audit import ModelKey
from mlflow_plugins.people.actor import Actor
from mlflow_plugins.registration import records
from mlflow_plugins.registration.cards import METRICS_TAG

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mlflow_plugins.lifecycle.stages import Cause, VersionRow


@dataclass(frozen=True)
class Registered:
    """Where a version came from, and where its sealed files are: nowhere for one older than this registry."""

    version: int
    semantic_version: str | None
    source: str
    run_id: str | None
    location: str | None
    manifest_sha256: str | None
    #: the tag `ai_hub.metrics`: what the caller of the registration measured
    given_metrics: str | None


@dataclass(frozen=True)
class Situation:
    """A wish to promote, and everything in the database that the gates' verdicts depend on."""

    model: ModelKey
    candidate: Registered
    stage: str
    production: Registered | None
    actor: Actor
    reason: str | None
    registered_by: str | None
    staged_at_ms: int | None

    @property
    def rollback(self) -> bool:
        """Whether the version is to come back from the archive."""
        return self.stage == rules.ARCHIVED

    def still_holds(self, present: Situation, *, production_matters: bool) -> bool:
        """Whether verdicts about this situation are true of the `present` one as well."""
        return self == present if production_matters else self == replace(present, production=self.production)


def read(session: Session, model: ModelKey, version: VersionRow, cause: Cause) -> Situation:
    """The present situation; tags that the transition will use up are read and left."""
    cause = stages.with_request(session, model, version, stages.with_tags(session, version, cause))
    inside = stages.versions_of(session, model, rules.PRODUCTION)
    return Situation(
        model=model,
        candidate=registered(session, model, version),
        stage=version.current_stage,
        production=registered(session, model, inside[-1]) if inside else None,
        actor=cause.actor,
        reason=cause.reason,
        registered_by=version.user_id,
        staged_at_ms=audit.entered_at(session, model, version.version, rules.STAGING),
    )


def registered(session: Session, model: ModelKey, version: VersionRow) -> Registered:
    """What the database says about a version itself."""
    record = records.find(session, model, version.version)
    return Registered(
        version=version.version,
        semantic_version=stages.semantic_version(session, version),
        source=version.source,
        run_id=version.run_id,
        location=record.location if record else None,
        manifest_sha256=record.manifest_sha256 if record else None,
        given_metrics=stages.tag(session, version, METRICS_TAG),
    )
