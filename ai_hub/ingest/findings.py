"""Findings about series: what a finding is, how a check changes the stored ones, and their tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from psycopg.types.json import Jsonb

from ai_hub.ingest.options import FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psycopg import Connection


@dataclass(frozen=True)
class Finding:
    """An anomaly of an asset's series, such as a gap.

    A gap lies between the readings at `first` and `last`; a stuck run includes both.
    """

    kind: FindingKind
    first: datetime
    last: datetime
    detail: Mapping[str, Any] = field(hash=False)
    #: `view.feature` of a finding about a feature.
    subject: str = ""

    def overlaps(self, other: Finding) -> bool:
        """Whether both are parts of the same anomaly."""
        if self.kind is not other.kind:
            return False
        if self.kind is FindingKind.GAP:
            return self.first < other.last and other.first < self.last
        return self.first <= other.last and other.first <= self.last

    def as_dict(self) -> dict[str, Any]:
        """The finding for JSON."""
        return {
            "kind": self.kind.value,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            **({"feature": self.subject} if self.subject else {}),
            **self.detail,
        }


@dataclass
class Changes:
    """Changes of stored findings."""

    #: To insert or replace.
    upserted: list[Finding] = field(default_factory=list)
    #: Those of `upserted` that overlap no stored one.
    new: list[Finding] = field(default_factory=list)
    #: Stored ones that continue under another first timestamp; to delete.
    moved: list[Finding] = field(default_factory=list)
    #: Stored ones that the series no longer has.
    resolved: list[Finding] = field(default_factory=list)


def reconcile(stored: list[Finding], current: list[Finding]) -> Changes:
    """Compare open stored findings with the current ones of the same range.

    A finding that grew or shrank is the same finding; the rest of a partly filled gap is not new.
    """
    changes = Changes()
    stored_by_key = {(finding.kind, finding.first): finding for finding in stored}
    current_keys = {(finding.kind, finding.first) for finding in current}
    ended = [finding for key, finding in stored_by_key.items() if key not in current_keys]
    for finding in current:
        same = stored_by_key.get((finding.kind, finding.first))
        if same == finding:
            continue
        changes.upserted.append(finding)
        if same is not None:
            continue
        if before := next((other for other in ended if other.overlaps(finding)), None):
            ended.remove(before)
            changes.moved.append(before)
        elif not any(other.overlaps(finding) for other in stored):
            changes.new.append(finding)
    changes.resolved = ended
    return changes


_SERIES = [FindingKind.GAP.value, FindingKind.STUCK.value, FindingKind.LOOKS_LIKE_REGISTER.value]
#: Kinds that triggers of the database find.
_OF_DATABASE = [
    *(FindingKind.REGISTER_FAULT.value, FindingKind.REGISTER_GAP.value),
    FindingKind.UNKNOWN_INTERVAL.value,
]


#: Findings about readings, and temperatures, that are probably wrong.
SUSPECTS: Final = (
    *(FindingKind.ERROR_CODE, FindingKind.COPIED, FindingKind.UNIT_JUMP, FindingKind.CLOCK_SHIFT),
    *(FindingKind.MIDNIGHT_SUN, FindingKind.NEGATIVE, FindingKind.RAMP, FindingKind.FROZEN_WEATHER),
)


#: Open findings that checks of features find; the words of their index.
_OPEN_FEATURE: Final = (
    "resolved_at IS NULL AND kind IN ('feature_range', 'feature_nulls', 'feature_stale', 'feature_skew')"
)


@dataclass(frozen=True)
class DueCheck:
    """A pending check of the readings written from `first` to `last`."""

    asset_id: str
    change_id: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class StoredFinding:
    """A finding as it is stored."""

    asset_id: str
    finding: Finding
    detected_at: datetime
    resolved_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """The finding for JSON."""
        return {
            "asset_id": self.asset_id,
            **self.finding.as_dict(),
            "detected_at": self.detected_at.isoformat(),
            "resolved_at": self.resolved_at and self.resolved_at.isoformat(),
        }


FIND: Final = (
    "SELECT asset_id, kind, first_timestamp, last_timestamp, detail, subject, detected_at, resolved_at"
    " FROM data_findings WHERE tenant_id = %s AND (%s::text IS NULL OR asset_id = %s)"
    " AND (NOT %s OR resolved_at IS NULL) ORDER BY asset_id, first_timestamp, kind, subject LIMIT %s"
)


class FindingsRepository:
    """Findings of a tenant (`data_findings`), and the checks that are due (`data_checks_due`)."""

    def __init__(self, connection: Connection[Any], tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    def due_checks(self, asset_ids: Iterable[str]) -> list[DueCheck]:
        """Due checks of these assets."""
        rows = self._connection.execute(
            "SELECT asset_id, change_id, first_timestamp, last_timestamp FROM data_checks_due"
            " WHERE tenant_id = %s AND asset_id = ANY (%s::text[]) ORDER BY asset_id",
            [self._tenant, list(asset_ids)],
        )
        return [DueCheck(*row) for row in rows]

    def delete_due_checks(self, checks: Sequence[DueCheck]) -> set[str]:
        """Delete these checks; returns the assets that were not written to since the checks were read."""
        rows = self._connection.execute(
            "DELETE FROM data_checks_due AS due"
            " USING unnest(%s::text[], %s::bigint[]) AS done (asset_id, change_id)"
            " WHERE due.tenant_id = %s AND due.asset_id = done.asset_id AND due.change_id = done.change_id"
            " RETURNING due.asset_id",
            [
                [due.asset_id for due in checks],
                [due.change_id for due in checks],
                self._tenant,
            ],
        )
        return {asset_id for (asset_id,) in rows}

    def open_series_findings(
        self, ranges: Mapping[str, tuple[datetime, datetime]]
    ) -> dict[str, list[Finding]]:
        """Open findings of series, by asset, that overlap or touch the asset's range."""
        rows = self._connection.execute(
            "SELECT asset_id, kind, first_timestamp, last_timestamp, detail"
            " FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[])"
            " AS ranges (asset_id, start, until)"
            " JOIN data_findings USING (asset_id) WHERE tenant_id = %s AND kind = ANY (%s::text[])"
            " AND resolved_at IS NULL AND first_timestamp <= until AND last_timestamp >= start"
            " ORDER BY asset_id, first_timestamp",
            [
                list(ranges),
                [start for start, _ in ranges.values()],
                [until for _, until in ranges.values()],
                self._tenant,
                _SERIES,
            ],
        )
        return _by_asset(rows)

    def open_suspects(self, asset_id: str) -> list[Finding]:
        """Open findings about suspect readings of an asset."""
        rows = self._connection.execute(
            "SELECT asset_id, kind, first_timestamp, last_timestamp, detail FROM data_findings"
            " WHERE tenant_id = %s AND asset_id = %s AND kind = ANY (%s::text[]) AND resolved_at IS NULL"
            " ORDER BY first_timestamp",
            [self._tenant, asset_id, [kind.value for kind in SUSPECTS]],
        )
        return _by_asset(rows)[asset_id]

    def open_feature_findings(self) -> dict[str, list[Finding]]:
        """Open findings about features, by asset."""
        rows = self._connection.execute(
            "SELECT asset_id, kind, first_timestamp, last_timestamp, detail, subject FROM data_findings"  # noqa: S608
            f" WHERE tenant_id = %s AND {_OPEN_FEATURE} ORDER BY asset_id, first_timestamp",
            [self._tenant],
        )
        return _by_asset(rows)

    def database_findings(
        self, asset_ids: Iterable[str], since: datetime
    ) -> tuple[list[tuple[str, Finding]], list[tuple[str, Finding]]]:
        """New and resolved findings of these assets that triggers of the database stored since `since`."""
        rows = self._connection.execute(
            "SELECT asset_id, kind, first_timestamp, last_timestamp, detail, resolved_at IS NULL"
            " FROM data_findings WHERE tenant_id = %s AND asset_id = ANY (%s::text[])"
            " AND kind = ANY (%s::text[])"
            " AND (detected_at >= %s) = (resolved_at IS NULL) AND coalesce(resolved_at, detected_at) >= %s"
            " ORDER BY asset_id, first_timestamp",
            [self._tenant, list(asset_ids), _OF_DATABASE, since, since],
        ).fetchall()
        findings = [
            (is_open, (asset_id, Finding(FindingKind(kind), first, last, detail)))
            for asset_id, kind, first, last, detail, is_open in rows
        ]
        return [finding for is_open, finding in findings if is_open], [
            finding for is_open, finding in findings if not is_open
        ]

    def review_intervals(self, asset_ids: Iterable[str]) -> None:
        """Check again the readings whose interval was unknown."""
        self._connection.execute(
            "SELECT review_unknown_interval(tenant_id, asset_id) FROM data_findings"
            " WHERE tenant_id = %s AND asset_id = ANY (%s::text[]) AND kind = 'unknown_interval'"
            " AND resolved_at IS NULL",
            [self._tenant, list(asset_ids)],
        )

    def apply(self, changes: Mapping[str, Changes]) -> None:
        """Store the changes of a check, by asset, within the caller's transaction."""
        moved = [(asset_id, finding) for asset_id, change in changes.items() for finding in change.moved]
        resolved = [
            (asset_id, finding) for asset_id, change in changes.items() for finding in change.resolved
        ]
        if moved:
            self._connection.execute(
                "DELETE FROM data_findings AS stored"
                " USING unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[])"
                " AS gone (asset_id, kind, first, subject)"
                " WHERE tenant_id = %s AND stored.asset_id = gone.asset_id AND stored.kind = gone.kind"
                " AND stored.subject = gone.subject AND first_timestamp = gone.first",
                [*_keys(moved), self._tenant],
            )
        if resolved:
            self._connection.execute(
                "UPDATE data_findings AS stored SET resolved_at = now()"
                " FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[])"
                " AS gone (asset_id, kind, first, subject)"
                " WHERE tenant_id = %s AND stored.asset_id = gone.asset_id AND stored.kind = gone.kind"
                " AND stored.subject = gone.subject AND first_timestamp = gone.first",
                [*_keys(resolved), self._tenant],
            )
        self.save(
            [(asset_id, finding, True) for asset_id, change in changes.items() for finding in change.upserted]
        )

    def save(self, findings: Sequence[tuple[str, Finding, bool]]) -> None:
        """Insert or replace findings: asset, finding and whether it is open."""
        if not findings:
            return
        self._connection.execute(
            "INSERT INTO data_findings AS stored"
            " (tenant_id, asset_id, kind, first_timestamp, subject, last_timestamp, detail, resolved_at)"
            " SELECT %s, asset_id, kind, first, subject, last, detail, CASE WHEN NOT is_open THEN now() END"
            " FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::timestamptz[],"
            " %s::jsonb[], %s::bool[]) AS findings (asset_id, kind, first, subject, last, detail, is_open)"
            " ON CONFLICT (tenant_id, asset_id, kind, subject, first_timestamp) DO UPDATE SET"
            " last_timestamp = excluded.last_timestamp, detail = excluded.detail,"
            " resolved_at = excluded.resolved_at,"
            " detected_at = CASE WHEN stored.resolved_at IS NULL THEN stored.detected_at ELSE now() END",
            [
                self._tenant,
                *_keys([(asset_id, finding) for asset_id, finding, _ in findings]),
                [finding.last for _, finding, _ in findings],
                [Jsonb(dict(finding.detail)) for _, finding, _ in findings],
                [is_open for *_, is_open in findings],
            ],
        )

    def merge_clock_changes(self, clock_changes: Sequence[tuple[str, Finding]]) -> list[tuple[str, Finding]]:
        """Store findings of clock changes of a file; returns those that were not stored before.

        The larger counts are stored, so that neither the order of files nor repetition matters. A clock
        change without rejected rows needs no repair and is stored as resolved.
        """
        rows = self._connection.execute(
            "SELECT asset_id, stored.kind, first_timestamp, last_timestamp, detail"
            " FROM data_findings AS stored"
            " JOIN unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[])"
            " AS seen (asset_id, kind, first, subject)"
            " USING (asset_id, subject) WHERE tenant_id = %s AND stored.kind = seen.kind"
            " AND first_timestamp = seen.first"
            " FOR UPDATE OF stored",
            [*_keys(clock_changes), self._tenant],
        )
        stored = {
            (asset, kind, first): Finding(FindingKind(kind), first, last, detail)
            for asset, kind, first, last, detail in rows
        }
        changed, new = [], []
        for asset_id, finding in clock_changes:
            earlier = stored.get((asset_id, finding.kind.value, finding.first))
            if earlier is None:
                new.append((asset_id, finding))
            else:
                larger = {
                    name: max(finding.detail[name], earlier.detail[name]) for name in ("rows", "rejected")
                }
                finding = Finding(finding.kind, finding.first, finding.last, {**earlier.detail, **larger})  # noqa: PLW2901
            if finding != earlier:
                changed.append((asset_id, finding, finding.detail["rejected"] > 0))
        self.save(changed)
        return new

    def find(
        self,
        *,
        asset_id: str | None = None,
        only_open: bool = False,
        limit: int | None = None,
    ) -> list[StoredFinding]:
        """Stored findings of the tenant, by asset and time."""
        rows = self._connection.execute(FIND, [self._tenant, asset_id, asset_id, only_open, limit])
        return [
            StoredFinding(asset, Finding(FindingKind(kind), first, last, detail, subject), detected, resolved)
            for asset, kind, first, last, detail, subject, detected, resolved in rows
        ]


def tenants_with_feature_findings(connection: Connection[Any], tenants: Iterable[str] | None) -> set[str]:
    """Those of the tenants (None: of all) that have open findings about features."""
    names = None if tenants is None else list(tenants)
    rows = connection.execute(
        "SELECT DISTINCT tenant_id FROM data_findings"  # noqa: S608  # constants
        f" WHERE (%s::text[] IS NULL OR tenant_id = ANY (%s::text[])) AND {_OPEN_FEATURE}",
        [names, names],
    )
    return {tenant for (tenant,) in rows}


def clock(connection: Connection[Any]) -> datetime:
    """The database's time."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has a row
    time: datetime = row[0]
    return time


def _by_asset(rows: Iterable[tuple[Any, ...]]) -> dict[str, list[Finding]]:
    """Findings from rows of an asset, a kind, and the rest of a finding in its order."""
    by_asset = defaultdict(list)
    for asset_id, kind, *rest in rows:
        by_asset[asset_id].append(Finding(FindingKind(kind), *rest))
    return by_asset


def _keys(findings: Sequence[tuple[str, Finding]]) -> tuple[list[str], list[str], list[datetime], list[str]]:
    return (
        [asset_id for asset_id, _ in findings],
        [finding.kind.value for _, finding in findings],
        [finding.first for _, finding in findings],
        [finding.subject for _, finding in findings],
    )
