"""Skew: features that were served online and are others in history, by the samples of online/sampling.py."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psycopg import sql

from ai_hub.db.connection import connect
from ai_hub.features.online.sampling import plain
from ai_hub.ingest.findings import Changes, Finding, FindingsRepository
from ai_hub.ingest.options import FindingKind
from feast_plugins.windows.features import CALENDAR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from feast import FeatureStore, FeatureView
    from psycopg import Connection

#: Samples of a tenant that are compared at once.
_BATCH: Final = 5_000
#: A row in history may be newer by that when it is served: it is materialized behind a refresh.
_DELAY: Final = timedelta(hours=1)
#: Clocks of the service and the database differ.
_CLOCKS: Final = timedelta(seconds=10)
#: Features may be of single precision.
_RELATIVE: Final = 1e-6
_ABSOLUTE: Final = 1e-9
#: What versions of rows have from the register as it is now, and what tells its time zone; until when that
#: was another one the register says.
_TELLS_ZONE: Final = frozenset(("timezone", "local_time"))
_OF_ZONE: Final = frozenset(("timezone", *CALENDAR))
#: Tag of a source: query of all versions of its rows, see feast_plugins.offline.views.
_VERSIONS_TAG: Final = "versions"
_TENANTS: Final = (
    "SELECT DISTINCT tenant_id FROM served_features WHERE %(tenants)s::text[] IS NULL"
    " OR tenant_id = ANY (%(tenants)s) ORDER BY 1"
)
_TAKE: Final = """
DELETE FROM served_features WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM served_features WHERE tenant_id = %s ORDER BY served_at LIMIT %s FOR UPDATE SKIP LOCKED
)) RETURNING asset_id, view_name, event_timestamp, served_at, features
"""
_ZONES: Final = "SELECT asset_id, timezone_since FROM assets WHERE tenant_id = %s AND asset_id = ANY (%s)"
# of each sample the versions that were stored when it was served, and whether they were present at some time
# in the delay before
_HISTORY: Final = """
SELECT sample.number, source.created_timestamp <= sample.served_at,
    source.superseded_at IS NULL OR source.superseded_at > sample.served_at - %(delay)s::interval, {columns}
FROM unnest(%(assets)s::text[], %(times)s::timestamptz[], %(served)s::timestamptz[])
    WITH ORDINALITY AS sample (asset, at, served_at, number)
JOIN ({versions}) AS source
    ON source.asset_id = sample.asset AND source.event_timestamp = sample.at
    AND source.created_timestamp <= sample.served_at + %(clocks)s::interval
WHERE source.tenant_id = %(tenant)s AND source.asset_id = ANY (%(assets)s)
    AND source.event_timestamp BETWEEN %(first)s AND %(last)s
"""


class _Sample(NamedTuple):
    asset: str
    view: str
    time: datetime
    served_at: datetime
    features: Mapping[str, Any]


@dataclass
class Skew:
    """What a check has come to."""

    #: rows that were compared
    compared: int = 0
    #: those of which no version was stored when they were served, and of views without versions of their rows
    not_compared: int = 0
    #: features of assets that differ, by tenant and asset
    found: list[tuple[str, str, Finding]] = field(default_factory=list)
    #: open findings that newer rows no longer show
    resolved: int = 0


def check_served(store: FeatureStore, *, tenants: Sequence[str] | None = None) -> Skew:
    """Compare the samples of served features with history, and store what differs as findings.

    A value is the same if history had it at some time of the hour before it was served. What was compared is
    deleted in the transaction that stores the findings.

    Args:
        store: of the views.
        tenants: only these; None: all.
    """
    views = {view.name: view for view in store.list_feature_views()}
    skew = Skew()
    with connect(application_name="ai-hub check features") as connection:
        names = [name for (name,) in connection.execute(_TENANTS, {"tenants": tenants and list(tenants)})]
        connection.commit()
        for tenant in names:
            while _check_batch(connection, views, tenant, skew) == _BATCH:
                pass
    return skew


def _check_batch(
    connection: Connection[Any], views: Mapping[str, FeatureView], tenant: str, skew: Skew
) -> int:
    with connection.transaction():
        samples = [_Sample(*row) for row in connection.execute(_TAKE, [tenant, _BATCH])]
        by_view: dict[str, list[_Sample]] = defaultdict(list)
        for each in samples:
            by_view[each.view].append(each)
        changes: dict[str, Changes] = defaultdict(Changes)
        repository = FindingsRepository(connection, tenant)
        stored = {
            (asset, finding.subject): finding
            for asset, findings in repository.open_feature_findings().items()
            for finding in findings
            if finding.kind is FindingKind.FEATURE_SKEW
        }
        for view, of_view in by_view.items():
            source = views[view].batch_source if view in views else None
            versions = (source.tags or {}).get(_VERSIONS_TAG) if source else None
            if versions is None:
                skew.not_compared += len(of_view)
                continue
            rows, by_feature = _compare(connection, tenant, view, versions, of_view)
            skew.compared += rows
            skew.not_compared += len(of_view) - rows
            for (asset, subject), compared in by_feature.items():
                finding = _finding(subject, compared)
                before = stored.get((asset, subject))
                if finding is not None:
                    if before is not None:
                        finding = Finding(
                            finding.kind,
                            min(before.first, finding.first),
                            max(before.last, finding.last),
                            finding.detail,
                            subject,
                        )
                        changes[asset].moved += [before] if before.first != finding.first else []
                    changes[asset].upserted.append(finding)
                    skew.found.append((tenant, asset, finding))
                elif before is not None and max(each.time for each in compared) > before.last:
                    changes[asset].resolved.append(before)
                    skew.resolved += 1
        repository.apply(changes)
    return len(samples)


class _Compared(NamedTuple):
    """A feature of a row: what was served, and what history had; one is the same if there is any."""

    time: datetime
    online: Any
    offline: Sequence[Any]

    @property
    def is_same(self) -> bool:
        return any(_are_same(self.online, each) for each in self.offline)


def _compare(
    connection: Connection[Any], tenant: str, view: str, versions: str, samples: Sequence[_Sample]
) -> tuple[int, dict[tuple[str, str], list[_Compared]]]:
    """How many rows are compared, and what by asset and `view.feature`.

    Features that history does not store are left out, and so are samples of rows that it had not stored by
    then: they were computed when they were read, or their asset is gone.
    """
    # a query of the feature repository
    relation = sql.SQL(versions.replace("%", "%%"))
    described = connection.execute(sql.SQL("SELECT * FROM ({}) AS source LIMIT 0").format(relation), {})
    columns = {column.name for column in described.description or ()}
    names = sorted(columns & {name for each in samples for name in each.features})
    query = sql.SQL(_HISTORY).format(
        columns=sql.SQL(", ").join(sql.Identifier("source", name) for name in names) or sql.SQL("NULL"),
        versions=relation,
    )
    rows: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    stored: set[int] = set()  # not only just after it, as a clock may tell
    for number, is_stored, is_present, *values in connection.execute(
        query,
        {
            "tenant": tenant,
            "assets": [each.asset for each in samples],
            "times": [each.time for each in samples],
            "served": [each.served_at for each in samples],
            "first": min(each.time for each in samples),
            "last": max(each.time for each in samples),
            "clocks": _CLOCKS,
            "delay": _DELAY,
        },
    ):
        stored |= {number} if is_stored else set()
        if is_present:
            rows[number].append(dict(zip(names, values, strict=False)))
    zones = dict(connection.execute(_ZONES, [tenant, [each.asset for each in samples]]).fetchall())
    found: dict[tuple[str, str], list[_Compared]] = defaultdict(list)
    for number, each in enumerate(samples, 1):
        for name in names:
            if number in stored and name in each.features:
                offline = [plain(row[name]) for row in rows[number]]
                if name in _OF_ZONE and _zone_changed(each, rows[number], zones.get(each.asset)):
                    continue
                found[each.asset, f"{view}.{name}"].append(_Compared(each.time, each.features[name], offline))
    return len(stored), found


def _zone_changed(sample: _Sample, rows: Sequence[Mapping[str, Any]], since: datetime | None) -> bool:
    """Whether it was served with another time zone than the register has, which may have had that one then.

    Args:
        sample: what was served.
        rows: its versions in history, with the time zone of the register.
        since: when the register has had it; None: nobody knows.
    """
    if since is not None and since < sample.served_at - _DELAY:
        return False
    served = {name: sample.features[name] for name in _TELLS_ZONE & sample.features.keys()}
    return any(
        row.get(name, value) != value for row in rows for name, value in served.items() if value is not None
    )


def _finding(subject: str, compared: Sequence[_Compared]) -> Finding | None:
    """What differs; None: nothing does."""
    different = sorted((each for each in compared if not each.is_same), key=lambda each: each.time)
    if not different:
        return None
    example = different[-1]
    detail = {
        "rows": len(different),
        "checked": len(compared),
        "online": example.online,
        "offline": example.offline[-1] if example.offline else None,
    }
    return Finding(FindingKind.FEATURE_SKEW, different[0].time, example.time, detail, subject)


def _are_same(online: Any, offline: Any) -> bool:
    if isinstance(online, list) and isinstance(offline, list):
        return len(online) == len(offline) and all(map(_are_same, online, offline))
    if isinstance(online, int | float) and isinstance(offline, int | float):
        return math.isclose(online, offline, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return bool(online == offline)


def skew_lines(skew: Skew) -> Iterator[str]:
    """A line for each feature of a tenant, and one that says what was compared."""
    groups: dict[tuple[str, str], list[tuple[str, Finding]]] = defaultdict(list)
    for tenant, asset, finding in skew.found:
        groups[tenant, finding.subject].append((asset, finding))
    for (tenant, subject), group in sorted(groups.items()):
        asset, finding = group[-1]
        yield (
            f"{tenant}: {subject} was served with other values than history has, of {len(group):,} asset(s):"
            f" {asset} {finding.detail['online']} instead of {finding.detail['offline']}"
            f" at {finding.last:%Y-%m-%d %H:%MZ}"
        )
    if skew.compared or skew.not_compared:
        left = f", {skew.not_compared:,} could not be" if skew.not_compared else ""
        yield (
            f"{skew.compared:,} served rows compared with history{left}; {skew.resolved:,} findings resolved"
        )
