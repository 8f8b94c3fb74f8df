"""Oddities of series: what one is, how a check changes the stored ones, and their tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from psycopg.types.json import Jsonb

from ai_hub.ingest.enums import FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psycopg import Connection


@dataclass(frozen=True)
class Finding:
    """One oddity of an asset's series; a gap lies between two readings, a stuck run includes both ends."""

    kind: FindingKind
    first: datetime
    last: datetime
    detail: Mapping[str, Any] = field(hash=False)

    def overlaps(self, other: Finding) -> bool:
        """Whether both tell of the same oddity."""
        if self.kind is not other.kind:
            return False
        if self.kind is FindingKind.GAP:
            return self.first < other.last and other.first < self.last
        return self.first <= other.last and other.first <= self.last

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind.value,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            **self.detail,
        }


@dataclass
class Changes:
    """What makes the stored findings those of the series."""

    #: To store; each also under its own key if that is stored already.
    put: list[Finding] = field(default_factory=list)
    #: Those of `put` that nothing stored told of.
    new: list[Finding] = field(default_factory=list)
    #: Stored ones whose oddity goes on under another first timestamp.
    moved: list[Finding] = field(default_factory=list)
    #: Stored ones that are no longer so.
    resolved: list[Finding] = field(default_factory=list)


def reconcile(stored: list[Finding], found: list[Finding]) -> Changes:
    """Compare open findings with what the series shows now, over the same range.

    One that grew or shrank stays one finding; what is left of a gap after a part was filled is not new.
    """
    changes = Changes()
    known = {(each.kind, each.first): each for each in stored}
    current = {(each.kind, each.first) for each in found}
    ended = [each for key, each in known.items() if key not in current]
    for each in found:
        same = known.get((each.kind, each.first))
        if same == each:
            continue
        changes.put.append(each)
        if same is not None:
            continue
        if before := next((one for one in ended if one.overlaps(each)), None):
            ended.remove(before)
            changes.moved.append(before)
        elif not any(one.overlaps(each) for one in stored):
            changes.new.append(each)
    changes.resolved = ended
    return changes


_SERIES = [FindingKind.GAP.value, FindingKind.STUCK.value, FindingKind.LOOKS_LIKE_REGISTER.value]
#: Those that the database finds itself, whoever writes readings.
_OF_DATABASE = [
    *(FindingKind.REGISTER_FAULT.value, FindingKind.REGISTER_GAP.value),
    FindingKind.UNKNOWN_INTERVAL.value,
]


@dataclass(frozen=True)
class Due:
    """Readings from `first` to `last` were written and are not checked yet."""

    asset_id: str
    change_id: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class Stored:
    """A finding as it is stored."""

    asset_id: str
    finding: Finding
    detected_at: datetime
    resolved_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "asset_id": self.asset_id,
            **self.finding.as_dict(),
            "detected_at": self.detected_at.isoformat(),
            "resolved_at": self.resolved_at and self.resolved_at.isoformat(),
        }


def due(connection: Connection[Any], tenant: str, asset_ids: Iterable[str]) -> list[Due]:
    """Checks these assets wait for."""
    rows = connection.execute(
        "SELECT asset_id, change_id, first_timestamp, last_timestamp FROM data_checks_due"
        " WHERE tenant_id = %s AND asset_id = ANY (%s::text[]) ORDER BY asset_id",
        [tenant, list(asset_ids)],
    )
    return [Due(*row) for row in rows]


def settle_due(connection: Connection[Any], tenant: str, done: Sequence[Due]) -> set[str]:
    """Strike these checks off; the assets nothing was written to since."""
    rows = connection.execute(
        "DELETE FROM data_checks_due AS due"
        " USING unnest(%s::text[], %s::bigint[]) AS done (asset_id, change_id)"
        " WHERE due.tenant_id = %s AND due.asset_id = done.asset_id AND due.change_id = done.change_id"
        " RETURNING due.asset_id",
        [[each.asset_id for each in done], [each.change_id for each in done], tenant],
    )
    return {asset_id for (asset_id,) in rows}


def open_series_findings(
    connection: Connection[Any], tenant: str, ranges: Mapping[str, tuple[datetime, datetime]]
) -> dict[str, list[Finding]]:
    """Open gaps and stuck runs of each asset that lie in its range or touch it."""
    rows = connection.execute(
        "SELECT asset_id, kind, first_timestamp, last_timestamp, detail"
        " FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[]) AS wanted (asset_id, start, until)"
        " JOIN data_findings USING (asset_id) WHERE tenant_id = %s AND kind = ANY (%s::text[])"
        " AND resolved_at IS NULL AND first_timestamp <= until AND last_timestamp >= start"
        " ORDER BY asset_id, first_timestamp",
        [
            list(ranges),
            [start for start, _ in ranges.values()],
            [until for _, until in ranges.values()],
            tenant,
            _SERIES,
        ],
    )
    found = defaultdict(list)
    for asset_id, kind, first, last, detail in rows:
        found[asset_id].append(Finding(FindingKind(kind), first, last, detail))
    return found


def clock(connection: Connection[Any]) -> datetime:
    """The database's time."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has a row
    time: datetime = row[0]
    return time


def of_database(
    connection: Connection[Any], tenant: str, asset_ids: Iterable[str], since: datetime
) -> tuple[list[tuple[str, Finding]], list[tuple[str, Finding]]]:
    """What the database has found of these assets, and what is no longer so, since an instant."""
    rows = connection.execute(
        "SELECT asset_id, kind, first_timestamp, last_timestamp, detail, resolved_at IS NULL"
        " FROM data_findings WHERE tenant_id = %s AND asset_id = ANY (%s::text[]) AND kind = ANY (%s::text[])"
        " AND (detected_at >= %s) = (resolved_at IS NULL) AND coalesce(resolved_at, detected_at) >= %s"
        " ORDER BY asset_id, first_timestamp",
        [tenant, list(asset_ids), _OF_DATABASE, since, since],
    ).fetchall()
    found = [
        (is_open, (asset_id, Finding(FindingKind(kind), first, last, detail)))
        for asset_id, kind, first, last, detail, is_open in rows
    ]
    return [one for is_open, one in found if is_open], [one for is_open, one in found if not is_open]


def review_intervals(connection: Connection[Any], tenant: str, asset_ids: Iterable[str]) -> None:
    """Look again at readings whose interval was not known."""
    connection.execute(
        "SELECT review_unknown_interval(tenant_id, asset_id) FROM data_findings"
        " WHERE tenant_id = %s AND asset_id = ANY (%s::text[]) AND kind = 'unknown_interval'"
        " AND resolved_at IS NULL",
        [tenant, list(asset_ids)],
    )


def apply(connection: Connection[Any], tenant: str, changes: Mapping[str, Changes]) -> None:
    """Store what a check found, by asset; the caller's transaction makes it one change."""
    moved = [(asset_id, one) for asset_id, each in changes.items() for one in each.moved]
    resolved = [(asset_id, one) for asset_id, each in changes.items() for one in each.resolved]
    if moved:
        connection.execute(
            "DELETE FROM data_findings AS stored"
            " USING unnest(%s::text[], %s::text[], %s::timestamptz[]) AS gone (asset_id, kind, first)"
            " WHERE tenant_id = %s AND stored.asset_id = gone.asset_id AND stored.kind = gone.kind"
            " AND first_timestamp = gone.first",
            [*_keys(moved), tenant],
        )
    if resolved:
        connection.execute(
            "UPDATE data_findings AS stored SET resolved_at = now()"
            " FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) AS gone (asset_id, kind, first)"
            " WHERE tenant_id = %s AND stored.asset_id = gone.asset_id AND stored.kind = gone.kind"
            " AND first_timestamp = gone.first",
            [*_keys(resolved), tenant],
        )
    put(connection, tenant, [(asset_id, one, True) for asset_id, each in changes.items() for one in each.put])


def put(connection: Connection[Any], tenant: str, findings: Sequence[tuple[str, Finding, bool]]) -> None:
    """Store findings of assets, each with whether it is open, over what is stored under the same key."""
    if not findings:
        return
    connection.execute(
        "INSERT INTO data_findings AS stored"
        " (tenant_id, asset_id, kind, first_timestamp, last_timestamp, detail, resolved_at)"
        " SELECT %s, asset_id, kind, first, last, detail, CASE WHEN NOT is_open THEN now() END"
        " FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::jsonb[], %s::bool[])"
        " AS given (asset_id, kind, first, last, detail, is_open)"
        " ON CONFLICT (tenant_id, asset_id, kind, first_timestamp) DO UPDATE SET"
        " last_timestamp = excluded.last_timestamp, detail = excluded.detail,"
        " resolved_at = excluded.resolved_at,"
        " detected_at = CASE WHEN stored.resolved_at IS NULL THEN stored.detected_at ELSE now() END",
        [
            tenant,
            *_keys([(asset_id, one) for asset_id, one, _ in findings]),
            [one.last for _, one, _ in findings],
            [Jsonb(dict(one.detail)) for _, one, _ in findings],
            [is_open for *_, is_open in findings],
        ],
    )


def merge_clock_changes(
    connection: Connection[Any], tenant: str, seen: Sequence[tuple[str, Finding]]
) -> list[tuple[str, Finding]]:
    """Store what a file showed of clock changes; those nobody knew of.

    The larger counts stay, so that no order of files and no repetition makes a difference. One that cost no
    row is nothing to mend, so it is stored as resolved.
    """
    rows = connection.execute(
        "SELECT asset_id, stored.kind, first_timestamp, last_timestamp, detail FROM data_findings AS stored"
        " JOIN unnest(%s::text[], %s::text[], %s::timestamptz[]) AS seen (asset_id, kind, first)"
        " USING (asset_id) WHERE tenant_id = %s AND stored.kind = seen.kind AND first_timestamp = seen.first"
        " FOR UPDATE OF stored",
        [*_keys(seen), tenant],
    )
    known = {
        (asset, kind, first): Finding(FindingKind(kind), first, last, detail)
        for asset, kind, first, last, detail in rows
    }
    changed, new = [], []
    for asset_id, one in seen:
        before = known.get((asset_id, one.kind.value, one.first))
        if before is None:
            new.append((asset_id, one))
        else:
            larger = {name: max(one.detail[name], before.detail[name]) for name in ("rows", "rejected")}
            one = Finding(one.kind, one.first, one.last, {**before.detail, **larger})  # noqa: PLW2901
        if one != before:
            changed.append((asset_id, one, one.detail["rejected"] > 0))
    put(connection, tenant, changed)
    return new


FIND: Final = (
    "SELECT asset_id, kind, first_timestamp, last_timestamp, detail, detected_at, resolved_at"
    " FROM data_findings WHERE tenant_id = %s AND (%s::text IS NULL OR asset_id = %s)"
    " AND (NOT %s OR resolved_at IS NULL) ORDER BY asset_id, first_timestamp, kind LIMIT %s"
)


def find(
    connection: Connection[Any],
    tenant: str,
    *,
    asset_id: str | None = None,
    only_open: bool = False,
    limit: int | None = None,
) -> list[Stored]:
    """Stored findings of a tenant, by asset and time."""
    rows = connection.execute(FIND, [tenant, asset_id, asset_id, only_open, limit])
    return [
        Stored(asset, Finding(FindingKind(kind), first, last, detail), detected, resolved)
        for asset, kind, first, last, detail, detected, resolved in rows
    ]


def _keys(findings: Sequence[tuple[str, Finding]]) -> tuple[list[str], list[str], list[datetime]]:
    return (
        [asset_id for asset_id, _ in findings],
        [one.kind.value for _, one in findings],
        [one.first for _, one in findings],
    )
