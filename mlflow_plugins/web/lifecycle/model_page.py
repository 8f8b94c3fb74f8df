"""Everything the page of one model shows, from a fixed number of queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlflow_plugins.lifecycle import audit, rules
from mlflow_plugins.lifecycle.audit import Transition
from mlflow_plugins.registration import records
from mlflow_plugins.registration.cards import METRICS_TAG
from mlflow_plugins.web.lifecycle import metrics, overview, tables
from mlflow_plugins.web.lifecycle.metrics import Metrics
from mlflow_plugins.web.lifecycle.plot import Point

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.store.lifecycle_store import LifecycleStore
    from mlflow_plugins.web.lifecycle.metrics import Comparison


#: How much one page has room for.
CANDIDATES: Final = 20
RECENT: Final = 100


@dataclass(frozen=True)
class Version:
    """A version as the page shows it; `entry` is how it came to its stage, None when older than the trail."""

    version: int
    semantic_version: str | None
    stage: str
    description: str | None
    run_id: str | None
    registered_ms: int
    entry: Transition | None
    metrics: Metrics | None
    #: why the metrics cannot be shown
    problem: str | None
    size_bytes: int

    @property
    def label(self) -> str:
        """For example `2 (v1.0.1)`."""
        return f"{self.version} ({self.semantic_version})" if self.semantic_version else str(self.version)


@dataclass(frozen=True)
class ModelPage:
    """One model."""

    tenant: str
    name: str
    #: newest first
    versions: list[Version]
    #: numbers of the archived versions that were in production, the one that left last in front
    returnable: list[int]
    #: the newest entry of the audit trail: what a form has seen
    seen: int
    metric: str | None
    metric_names: list[str] = field(default_factory=list)

    @property
    def production(self) -> Version | None:
        """The version in production."""
        return next(iter(self._in(rules.PRODUCTION)), None)

    @property
    def waiting(self) -> int:
        """How many versions are in Staging."""
        return len(self._in(rules.STAGING))

    @property
    def candidates(self) -> list[Version]:
        """The newest versions in Staging, newest first."""
        return self._in(rules.STAGING)[:CANDIDATES]

    @property
    def recent(self) -> list[Version]:
        """The newest versions, whatever their stage, newest first."""
        return self.versions[:RECENT]

    @property
    def archived(self) -> list[Version]:
        """Archived versions, newest first."""
        return self._in(rules.ARCHIVED)

    @property
    def earlier(self) -> list[Version]:
        """What can come back into production, the last one in front."""
        by_number = {version.version: version for version in self.versions}
        return [by_number[number] for number in self.returnable]

    @property
    def points(self) -> list[Point]:
        """The chosen metric over the recent versions, oldest first."""
        return [
            Point(
                version.version,
                version.semantic_version or str(version.version),
                version.stage,
                (version.metrics or {}).get(self.metric or ""),
            )
            for version in reversed(self.recent)
        ]

    def comparisons(self, candidate: Version) -> list[Comparison]:
        """A candidate's metrics beside production's."""
        production = self.production.metrics if self.production else None
        return metrics.compare(candidate.metrics or {}, production or {})

    def _in(self, stage: str) -> list[Version]:
        return [version for version in self.versions if version.stage == stage]


def assemble(store: LifecycleStore, tenant: str, name: str, metric: str | None = None) -> ModelPage:
    """Read a model; `metric` is the one to plot, default the first in the alphabet.

    Raises:
        MlflowException: 404, there is no such model.
    """
    with store.ManagedSessionMaker() as session:
        model = overview.find_model(session, tenant, name)
        rows = session.execute(_versions_of(model)).all()
        entries = audit.present_entries(session, model)
        promoted = audit.last_in_production(session, model)
        found = records.registered(session, model)
        given = tables.tag_of_versions(session, model, METRICS_TAG)
    measured = _measured(rows)
    origins = {row.version: (given.get(row.version), row.source, row.run_id) for row in rows}
    seen, problems = metrics.read((record for record in found if record.version in measured), origins, tenant)
    sizes = {record.version: record.size_bytes or 0 for record in found}
    versions = [
        Version(
            row.version,
            row.semantic_version,
            row.current_stage,
            row.description,
            row.run_id,
            row.creation_time,
            entries.get(row.version),
            seen.get(row.version),
            problems.get(row.version),
            sizes.get(row.version, 0),
        )
        for row in rows
    ]
    archived = {version.version for version in versions if version.stage == rules.ARCHIVED}
    names = sorted({key for values in seen.values() for key in values})
    return ModelPage(
        tenant,
        name,
        versions,
        [number for number in promoted if number in archived],
        max((entry.id for entry in entries.values()), default=0),
        metric if metric in names else next(iter(names), None),
        names,
    )


def _measured(rows: Sequence[sa.Row[Any]]) -> set[int]:
    """The versions whose metrics the page has a place for; `rows` are the newest first."""
    numbers = {stage: [row.version for row in rows if row.current_stage == stage] for stage in rules.ALLOWED}
    recent = {row.version for row in rows[:RECENT]}
    return recent.union(numbers[rules.PRODUCTION], numbers[rules.STAGING][:CANDIDATES])


def _versions_of(model: ModelKey) -> sa.Select[Any]:
    newest_first = tables.versions.c.version.desc()
    return (
        tables.select_versions(model.workspace)
        .where(tables.versions.c.name == model.name)
        .order_by(newest_first)
    )
