"""What the page of one model shows, from a fixed number of queries, and what the gates say about candidates.

Some gates read all of a version's files, so a page asks by itself only while these are small.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlflow_plugins.gates import policy
from mlflow_plugins.gates.policy import PolicyError
from mlflow_plugins.lifecycle import audit, rules
from mlflow_plugins.lifecycle.audit import Transition
from mlflow_plugins.registration import records
from mlflow_plugins.registration.model_metadata import METRICS_TAG
from mlflow_plugins.web.lifecycle import metrics, overview
from mlflow_plugins.web.lifecycle.metrics import Metrics, Point

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from mlflow_plugins.gates.gate import Assessment
    from mlflow_plugins.lifecycle.audit import ModelKey
    from mlflow_plugins.store.lifecycle_store import LifecycleStore
    from mlflow_plugins.web.lifecycle.metrics import Comparison


#: How much one page has room for.
CANDIDATES: Final = 20
RECENT: Final = 100
#: Later than every version.
_ALL: Final = 2**63


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


#: A `Version`, or the row it is made of.
_Row = TypeVar("_Row", bound=Any)


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
    #: only candidates, and only versions in the list and the plot, that are older than these
    staged_before: int = _ALL
    before: int = _ALL

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
        """A page of versions in Staging, newest first."""
        return _page(self._in(rules.STAGING), self.staged_before, CANDIDATES)

    @property
    def older_candidates(self) -> int | None:
        """What the page after that of `candidates` begins before; None when there is none."""
        return _next(self._in(rules.STAGING), self.candidates)

    @property
    def recent(self) -> list[Version]:
        """A page of versions, whatever their stage, newest first."""
        return _page(self.versions, self.before, RECENT)

    @property
    def older(self) -> int | None:
        """What the page after that of `recent` begins before; None when there is none."""
        return _next(self.versions, self.recent)

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


def assemble(
    store: LifecycleStore,
    tenant: str,
    name: str,
    metric: str | None = None,
    *,
    staged_before: int | None = None,
    before: int | None = None,
) -> ModelPage:
    """Read a model.

    Args:
        store: the registry.
        tenant: whose model.
        name: its name.
        metric: the one to plot; default: the one the gates judge by, else the first in the alphabet.
        staged_before: only candidates older than this version.
        before: only versions older than this one in the list and the plot.

    Raises:
        MlflowException: 404, there is no such model.
    """
    with store.ManagedSessionMaker() as session:
        model = overview.find_model(session, tenant, name)
        rows = session.execute(_versions_of(model)).all()
        entries = audit.present_entries(session, model)
        promoted = audit.last_in_production(session, model)
        found = records.registered(session, model)
        given = overview.tag_of_versions(session, model, METRICS_TAG)
    page = ModelPage(tenant, name, [], [], 0, None, [], staged_before or _ALL, before or _ALL)
    measured = _measured(rows, page)
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
    return replace(
        page,
        versions=versions,
        returnable=[number for number in promoted if number in archived],
        seen=max((entry.id for entry in entries.values()), default=0),
        metric=metric if metric in names else _default_metric(tenant, name, names),
        metric_names=names,
    )


def _default_metric(tenant: str, name: str, names: list[str]) -> str | None:
    """The first of `names` that the gates judge by, else the first of all."""
    try:
        judged = policy.current().judged_metrics(tenant, name)
    except PolicyError:
        judged = []  # what is wrong with the policy stands where the gates are asked
    return next((metric for metric in [*judged, *names] if metric in names), None)


def _measured(rows: Sequence[sa.Row[Any]], page: ModelPage) -> set[int]:
    """The versions whose metrics the page has a place for; `rows` are the newest first."""
    numbers = {stage: [row for row in rows if row.current_stage == stage] for stage in rules.ALLOWED}
    chosen = (
        *_page(rows, page.before, RECENT),
        *_page(numbers[rules.STAGING], page.staged_before, CANDIDATES),
        *numbers[rules.PRODUCTION],
    )
    return {row.version for row in chosen}


def _page(newest_first: Sequence[_Row], before: int, size: int) -> list[_Row]:
    return [row for row in newest_first if row.version < before][:size]


def _next(newest_first: Sequence[Version], page: list[Version]) -> int | None:
    return page[-1].version if page and page[-1].version != newest_first[-1].version else None


def _versions_of(model: ModelKey) -> sa.Select[Any]:
    newest_first = overview.version_table.c.version.desc()
    return (
        overview.select_versions(model.workspace)
        .where(overview.version_table.c.name == model.name)
        .order_by(newest_first)
    )


#: Asked about without being told to: the newest candidates, while their files are this small together.
_MOST_ASSESSED: Final = 5
_MOST_BYTES: Final = 128 * 2**20


def assess_candidates(store: LifecycleStore, model: ModelPage, asked: int | None) -> dict[int, Assessment]:
    """What promoting each candidate would meet, by version; `asked` is one the visitor wants in any case."""
    chosen, size = set(), 0
    for version in model.candidates[:_MOST_ASSESSED]:
        size += version.size_bytes
        if size <= _MOST_BYTES:
            chosen.add(version.version)
    chosen |= {version.version for version in model.candidates if version.version == asked}
    return {number: store.gates(model.name, number) for number in sorted(chosen)}
