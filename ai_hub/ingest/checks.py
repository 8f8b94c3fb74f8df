"""Checks of the stored series around written readings, whose findings are stored in `data_findings`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ai_hub.ingest import assets
from ai_hub.ingest.detection import BLOCK, Detector, RegisterDetector
from ai_hub.ingest.findings import DueCheck, Finding, FindingsRepository, reconcile
from ai_hub.ingest.options import FindingKind, Reading
from ai_hub.ingest.units import is_amount, rule_of
from ai_hub.times import Micros, from_micros, to_micros

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
    connection: Connection[Any], tenant: str, asset_ids: Iterable[str], *, since: datetime | None = None
) -> Outcome:
    """Run the due checks of these assets, including those of a killed run.

    An asset that another run is writing to is checked by that run.

    Args:
        connection: In autocommit mode.
        tenant: Tenant of the assets.
        asset_ids: The assets.
        since: Also return findings that the database itself has stored or resolved since then.
    """
    outcome = Outcome()
    asset_ids = list(asset_ids)
    repository = FindingsRepository(connection, tenant)
    due_checks = repository.due_checks(asset_ids)
    registered = assets.find(connection, tenant, [due_check.asset_id for due_check in due_checks])
    repository.review_intervals([due_check.asset_id for due_check in due_checks])
    for batch in _batches(due_checks):
        results = [
            examine(
                Series(connection, tenant, due_check.asset_id),
                due_check,
                rule_of(registered[due_check.asset_id].kind if due_check.asset_id in registered else ""),
                is_register=_is_register(registered.get(due_check.asset_id)),
            )
            for due_check in batch
        ]
        with connection.transaction():
            _store(repository, results, outcome)
    if since is not None:
        new, resolved = repository.database_findings(asset_ids, since)
        outcome.new += new
        outcome.resolved += resolved
    return outcome


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


def is_within(finding: Finding, start: datetime, end: datetime) -> bool:
    """Whether a finding belongs to a range: a gap overlaps it, a stuck run touches it."""
    if finding.kind is FindingKind.GAP:
        return finding.first < end and start < finding.last
    return finding.first <= end and start <= finding.last


def _store(repository: FindingsRepository, results: list[CheckResult], outcome: Outcome) -> None:
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
    repository.apply(changes)
    for asset_id, change in changes.items():
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
