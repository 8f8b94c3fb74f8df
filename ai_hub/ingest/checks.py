"""Checks of the stored series around written readings, whose findings are stored in `data_findings`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ai_hub.errors import NotFoundError
from ai_hub.ingest import assets
from ai_hub.ingest.detection import BLOCK, Detector, RegisterDetector
from ai_hub.ingest.findings import Changes, DueCheck, Finding, FindingsRepository, reconcile
from ai_hub.ingest.options import UNKNOWN, FindingKind, Reading
from ai_hub.ingest.policies import find_quality_policy, reapply_findings
from ai_hub.ingest.suspects import CONTEXT, REACH, Meter, frozen_weather, suspects
from ai_hub.ingest.units import is_amount, rule_of
from ai_hub.times import Micros, from_micros, to_micros

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from psycopg import Connection

    from ai_hub.ingest.assets import Asset
    from ai_hub.ingest.units import KindRule

#: Readings fetched at once.
PAGE_ROWS = 20_000
# What the server counts timestamps from.
_SERVER_EPOCH = 946_684_800_000_000


class Edge(NamedTuple):
    """The reading next to a range; `at` is in microseconds since 1970."""

    at: int
    value: float


class Series:
    """The stored readings of one asset of one tenant; instants are in microseconds since 1970."""

    def __init__(self, connection: Connection[Any], tenant: str, asset_id: str) -> None:
        self._connection = connection
        self._key = {"tenant": tenant, "asset": asset_id}

    def before(self, at: int) -> Edge | None:
        """The last reading before an instant."""
        return self._edge(
            'SELECT "timestamp", value FROM timeseries_data WHERE tenant_id = %(tenant)s'
            ' AND asset_id = %(asset)s AND "timestamp" < %(at)s ORDER BY "timestamp" DESC LIMIT 1',
            at,
        )

    def since(self, at: int) -> Edge | None:
        """The first reading from an instant on."""
        return self._edge(
            'SELECT "timestamp", value FROM timeseries_data WHERE tenant_id = %(tenant)s'
            ' AND asset_id = %(asset)s AND "timestamp" >= %(at)s ORDER BY "timestamp" LIMIT 1',
            at,
        )

    def parts(self, start: int, end: int) -> Iterator[tuple[Micros, npt.NDArray[np.float64]]]:
        """Times and values of [start, end) in order of time, in parts of whole blocks."""
        pending: list[tuple[Micros, npt.NDArray[np.float64]]] = []
        while True:
            times, values = self._page(start, end)
            pending.append((times, values))
            is_last = len(times) < PAGE_ROWS
            # the last block may continue on the next page
            cut = len(times) if is_last else int(np.searchsorted(times // BLOCK, times[-1] // BLOCK))
            if is_last or cut:
                complete = [*pending[:-1], (times[:cut], values[:cut])]
                yield np.concatenate([t for t, _ in complete]), np.concatenate([v for _, v in complete])
                pending = [(times[cut:], values[cut:])]
            if is_last:
                return
            start = int(times[-1]) + 1

    def read(self, start: datetime, end: datetime) -> tuple[Micros, npt.NDArray[np.float64]]:
        """Times and values of [start, end)."""
        parts = list(self.parts(to_micros(start), to_micros(end)))
        return np.concatenate([times for times, _ in parts]), np.concatenate([values for _, values in parts])

    def temperatures(self, start: datetime, end: datetime) -> tuple[Micros, npt.NDArray[np.float64]]:
        """Times and temperatures of [start, end), as the newest row of each time has them."""
        rows = self._connection.execute(
            'SELECT DISTINCT ON ("timestamp") "timestamp", temperature FROM weather_features'
            " WHERE tenant_id = %(tenant)s AND asset_id = %(asset)s AND temperature IS NOT NULL"
            ' AND "timestamp" >= %(start)s AND "timestamp" < %(end)s'
            ' ORDER BY "timestamp", available_at DESC',
            {**self._key, "start": start, "end": end},
        ).fetchall()
        times = np.array([to_micros(at) for at, _ in rows], dtype=np.int64)
        return times, np.array([value for _, value in rows], dtype=np.float64)

    def feeds_in(self, until: datetime) -> bool:
        """Whether readings of the year before are negative on more than one of twenty days."""
        row = self._connection.execute(
            "SELECT 20 * count(DISTINCT day) FILTER (WHERE value < 0) > count(DISTINCT day)"
            " FROM timeseries_data, time_bucket(INTERVAL '1 day', \"timestamp\") AS day"
            ' WHERE tenant_id = %(tenant)s AND asset_id = %(asset)s AND "timestamp" < %(until)s'
            " AND \"timestamp\" >= %(until)s - INTERVAL '1 year'",
            {**self._key, "until": until},
        ).fetchone()
        return row is not None and bool(row[0])

    def _page(self, start: int, end: int) -> tuple[Micros, npt.NDArray[np.float64]]:
        """Times and values from `start`, as two byte strings: six times as fast as rows (embedded server)."""
        row = self._connection.execute(
            "SELECT string_agg(timestamptz_send(at), ''::bytea ORDER BY at),"
            " string_agg(float8send(value), ''::bytea ORDER BY at)"
            ' FROM (SELECT "timestamp" AS at, value FROM timeseries_data WHERE tenant_id = %(tenant)s'
            ' AND asset_id = %(asset)s AND "timestamp" >= %(start)s AND "timestamp" < %(end)s'
            ' ORDER BY "timestamp" LIMIT %(limit)s) AS page',
            {**self._key, "start": from_micros(start), "end": from_micros(end), "limit": PAGE_ROWS},
            binary=True,
        ).fetchone()
        times, values = (column or b"" for column in row or (b"", b""))
        return (
            np.frombuffer(times, dtype=">i8").astype(np.int64) + _SERVER_EPOCH,
            np.frombuffer(values, dtype=">f8").astype(np.float64),
        )

    def _edge(self, query: Any, at: int) -> Edge | None:
        row = self._connection.execute(query, {**self._key, "at": from_micros(at)}).fetchone()
        return None if row is None else Edge(to_micros(row[0]), row[1])


#: Assets whose findings are stored in one transaction.
BATCH = 20


@dataclass(frozen=True)
class CheckResult:
    """The findings of one asset between two readings."""

    due_check: DueCheck
    start: datetime
    end: datetime
    findings: list[Finding]


@dataclass
class Outcome:
    """New and resolved findings, by asset."""

    new: list[tuple[str, Finding]] = field(default_factory=list)
    resolved: list[tuple[str, Finding]] = field(default_factory=list)


def check(
    connection: Connection[Any],
    tenant: str,
    asset_ids: Iterable[str],
    *,
    since: datetime | None = None,
    clock: bool = False,
) -> Outcome:
    """Run the due checks of these assets, including those of a killed run.

    An asset that another run is writing to is checked by that run.

    Args:
        connection: In autocommit mode.
        tenant: Tenant of the assets.
        asset_ids: The assets.
        since: Also return findings that the database itself has stored or resolved since then.
        clock: Whether clock shifts are looked for, too; those that are stored stay as they are otherwise.
    """
    outcome = Outcome()
    asset_ids = list(asset_ids)
    repository = FindingsRepository(connection, tenant)
    due_checks = repository.due_checks(asset_ids)
    registered = assets.find(connection, tenant, [due_check.asset_id for due_check in due_checks])
    repository.review_intervals([due_check.asset_id for due_check in due_checks])
    for batch in _batches(due_checks):
        results, suspect_changes = [], {}
        for due_check in batch:
            asset_id, series = due_check.asset_id, Series(connection, tenant, due_check.asset_id)
            asset = registered.get(asset_id)
            results.append(
                examine(
                    series, due_check, rule_of(asset.kind if asset else ""), is_register=_is_register(asset)
                )
            )
            stored = repository.open_suspects(asset_id)
            suspect_changes[asset_id] = examine_suspects(
                connection, series, due_check, asset, stored, clock=clock
            )
        with connection.transaction():
            _store(repository, results, suspect_changes, outcome)
            # within the transaction: whoever changes the policy waits for its end, and goes over all readings
            if suspect_changes and not find_quality_policy(connection, tenant)["found"]:
                for asset_id, change in suspect_changes.items():
                    for first, last in sorted(change.ranges):
                        reapply_findings(connection, tenant, asset_id, first, last)
    if since is not None:
        new, resolved = repository.database_findings(asset_ids, since)
        outcome.new += new
        outcome.resolved += resolved
    return outcome


def check_stored(
    connection: Connection[Any], tenant: str, asset_ids: Sequence[str] | None = None
) -> tuple[list[str], Outcome]:
    """Check everything that is stored of these assets (None: of all); returns which they are.

    Args:
        connection: In autocommit mode.
        tenant: Tenant of the assets.
        asset_ids: The assets.

    Raises:
        NotFoundError: nothing is stored of one of them.
    """
    # what a killed run leaves due is checked by the next
    rows = connection.execute(
        "INSERT INTO data_checks_due AS due (tenant_id, asset_id, first_timestamp, last_timestamp)"
        " SELECT tenant_id, asset_id, min(first_at), max(last_at) FROM ("
        "  SELECT tenant_id, asset_id, first_hour, last_hour + INTERVAL '1 hour' FROM asset_spans"
        "  WHERE isfinite(first_hour) AND isfinite(last_hour)"
        '  UNION ALL SELECT tenant_id, asset_id, min("timestamp"), max("timestamp") FROM weather_features'
        "  WHERE tenant_id = %(tenant)s GROUP BY tenant_id, asset_id"
        " ) AS spans (tenant_id, asset_id, first_at, last_at)"
        " WHERE tenant_id = %(tenant)s AND (%(assets)s::text[] IS NULL OR asset_id = ANY (%(assets)s))"
        " GROUP BY tenant_id, asset_id"
        " ON CONFLICT (tenant_id, asset_id) DO UPDATE SET change_id = excluded.change_id,"
        " first_timestamp = least(due.first_timestamp, excluded.first_timestamp),"
        " last_timestamp = greatest(due.last_timestamp, excluded.last_timestamp)"
        " RETURNING asset_id",
        {"tenant": tenant, "assets": asset_ids},
    )
    stored = sorted(asset_id for (asset_id,) in rows)
    if missing := set(asset_ids or ()) - set(stored):
        raise NotFoundError(
            f"Nothing is stored of {', '.join(sorted(missing))} of tenant {tenant}.",
            hint=f"See `ai-hub asset list --tenant {tenant}`.",
        )
    return stored, check(connection, tenant, stored, clock=True)


def _is_register(asset: Asset | None) -> bool | None:
    """Whether an asset is a register; None where neither its unit nor its reading says so."""
    if asset is not None and (
        asset.reading is Reading.REGISTER or is_amount(asset.unit, asset.reading) is False
    ):
        return asset.reading is Reading.REGISTER
    return None


def examine(
    series: Series, due_check: DueCheck, rule: KindRule, *, is_register: bool | None = False
) -> CheckResult:
    """Detect findings in the written blocks and next to them.

    Reads whole blocks (weeks), also those of the neighbouring readings, and more while a run of equal values
    that may be stuck continues beyond them.
    """
    start = _block(to_micros(due_check.first))
    end = _block(to_micros(due_check.last)) + BLOCK
    before, after = series.before(start), series.since(end)
    scope = (before.at if before else start, after.at if after else end)
    first_block = _block(before.at) if before else start
    end_block = _block(after.at) + BLOCK if after else end
    while True:
        detector, register_detector = Detector(rule, is_register=bool(is_register)), RegisterDetector()
        for times, values in series.parts(first_block, end_block):
            detector.feed(times, values)
            register_detector.feed(times, values)
        findings = detector.finish()
        if is_register is None and register_detector.longest is not None:
            findings.append(register_detector.longest)
        opening, closing = detector.opening, detector.closing
        reach = end_block - first_block
        previous = (
            opening
            and not detector.is_idle(opening)
            and opening.last >= scope[0]
            and series.before(first_block)
        )
        following = (
            closing
            and not detector.is_idle(closing)
            and closing.first <= scope[1]
            and series.since(end_block)
        )
        if opening and previous and previous.value == opening.value:
            first_block = _block(previous.at) - reach
        elif closing and following and following.value == closing.value:
            end_block = _block(following.at) + BLOCK + reach
        else:
            break
    checked_range = (from_micros(scope[0]), from_micros(scope[1]))
    return CheckResult(
        due_check, *checked_range, [finding for finding in findings if is_within(finding, *checked_range)]
    )


@dataclass
class SuspectChanges(Changes):
    """Changes of findings about suspect readings."""

    #: First and last reading of what is or was found otherwise, and of what was written to.
    ranges: set[tuple[datetime, datetime]] = field(default_factory=set)


def examine_suspects(
    connection: Connection[Any],
    series: Series,
    due_check: DueCheck,
    asset: Asset | None,
    stored: list[Finding],
    *,
    clock: bool,
) -> SuspectChanges:
    """Detect suspect readings around the written ones.

    What is stored there is judged anew as a whole, however long ago it began; and with what it was copied
    from. Without `clock` no clock shift is found, nor judged anew.
    """
    judged = [finding for finding in stored if clock or finding.kind is not FindingKind.CLOCK_SHIFT]
    start, end = due_check.first - REACH, due_check.last + REACH
    near: list[Finding] = []
    while len(near) < len(
        near := [finding for finding in judged if finding.first <= end and start <= finding.last]
    ):
        start = min(start, *(finding.first for finding in near))
        end = max(end, *(finding.last for finding in near))
    first = min([start, *(_source(finding) for finding in near)]) - CONTEXT
    last = end + CONTEXT
    times, values = series.read(first, last)
    meter = Meter(
        kind=asset.kind if asset else UNKNOWN,
        timezone=asset.timezone if asset else "UTC",
        elevation=_elevation(connection, asset),
    )
    findings = suspects(times, values, meter, clock=clock)
    # a year is read only where its answer matters
    if any(finding.kind is FindingKind.NEGATIVE for finding in findings) and series.feeds_in(last):
        findings = suspects(times, values, replace(meter, is_net=True), clock=clock)
    findings += frozen_weather(*series.temperatures(first, last))
    findings = [finding for finding in findings if finding.first <= end and start <= finding.last]
    ranges = {
        (finding.first, finding.last)
        for finding in (*near, *findings, *stored)
        if (finding in near) != (finding in findings)
        or (finding.first <= due_check.last and due_check.first <= finding.last)
    }
    return SuspectChanges(**vars(reconcile(near, findings)), ranges=ranges)


def _source(finding: Finding) -> datetime:
    """When what a finding is about was copied from; else when it began."""
    source = finding.detail.get("copy_of")
    return datetime.fromisoformat(source) if source else finding.first


def _elevation(
    connection: Connection[Any], asset: Asset | None
) -> Callable[[Micros], npt.NDArray[np.float64]] | None:
    """Elevation of the sun over an asset, in degrees."""
    if asset is None or asset.latitude is None or asset.longitude is None:
        return None

    def elevation(times: Micros) -> npt.NDArray[np.float64]:
        rows = connection.execute(
            "SELECT sun_position('elevation', 'epoch'::timestamptz + at * INTERVAL '1 microsecond', %s, %s)"
            " FROM unnest(%s::bigint[]) WITH ORDINALITY AS times (at, place) ORDER BY place",
            [asset.latitude, asset.longitude, times.tolist()],
        ).fetchall()
        return np.array([degrees for (degrees,) in rows], dtype=np.float64)

    return elevation


def is_within(finding: Finding, start: datetime, end: datetime) -> bool:
    """Whether a finding belongs to a range: a gap overlaps it, a stuck run touches it."""
    if finding.kind is FindingKind.GAP:
        return finding.first < end and start < finding.last
    return finding.first <= end and start <= finding.last


def _store(
    repository: FindingsRepository,
    results: list[CheckResult],
    suspect_changes: dict[str, SuspectChanges],
    outcome: Outcome,
) -> None:
    """Store the findings of assets that no other run has written to since they were read."""
    unchanged = repository.delete_due_checks([result.due_check for result in results])
    results = [result for result in results if result.due_check.asset_id in unchanged]
    stored_findings = repository.open_series_findings(
        {result.due_check.asset_id: (result.start, result.end) for result in results}
    )
    changes = {}
    for result in results:
        before = [
            finding
            for finding in stored_findings.get(result.due_check.asset_id, [])
            if is_within(finding, result.start, result.end)
        ]
        changes[result.due_check.asset_id] = reconcile(
            before, [_extended(finding, before) for finding in result.findings]
        )
    for asset_id in suspect_changes.keys() - changes.keys():
        del suspect_changes[asset_id]
    repository.apply(changes)
    repository.apply(suspect_changes)
    for asset_id, change in (*changes.items(), *suspect_changes.items()):
        outcome.new += [(asset_id, finding) for finding in change.new]
        outcome.resolved += [(asset_id, finding) for finding in change.resolved]


def _extended(finding: Finding, stored_findings: list[Finding]) -> Finding:
    """A register-like stretch, extended by a stored one that begins in blocks that were not read."""
    if finding.kind is not FindingKind.LOOKS_LIKE_REGISTER:
        return finding
    for stored in stored_findings:
        if stored.overlaps(finding) and stored.first < finding.first:
            finding = Finding(
                finding.kind, stored.first, finding.last, {**finding.detail, "from": stored.detail["from"]}
            )
    return finding


def _block(at: int) -> int:
    return at - at % BLOCK


def _batches(due_checks: list[DueCheck]) -> Iterator[list[DueCheck]]:
    for first in range(0, len(due_checks), BATCH):
        yield due_checks[first : first + BATCH]
