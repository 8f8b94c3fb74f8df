"""Checks of features: stored rows, training sets, and rows on their way to Redis; what is found is stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, ReadOnlySqlTransaction

from ai_hub.db.connection import connect
from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.features.store import JOIN_KEYS
from ai_hub.features.validation import (
    KEYS,
    Checker,
    LimitedField,
    Violation,
    fields_of_service,
    limited_fields,
)
from ai_hub.ingest.findings import Changes, Finding, FindingsRepository, tenants_with_feature_findings
from ai_hub.ingest.options import FindingKind
from feast_plugins.postgres import session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pandas as pd
    from feast import FeatureService, FeatureStore, FeatureView
    from psycopg import Connection

    from ai_hub.features.validation import Entity

    #: tenant, asset and `view.feature`
    Key = tuple[str, str, str]

_TENANT: Final = JOIN_KEYS[0]
#: Rows that a schema validates at once.
_CHUNK: Final = 200_000


@dataclass(frozen=True)
class Outcome:
    """What a check has seen."""

    violations: list[Violation]
    #: rows that were checked, by view
    rows: dict[str, int] = field(default_factory=dict)
    #: those of `violations` that no open finding told before
    new: list[Violation] = field(default_factory=list)
    #: open findings that the rows no longer show
    resolved: int = 0

    @property
    def refused(self) -> list[Violation]:
        """Violations of features whose policy is to refuse."""
        return [each for each in self.violations if each.is_refused]


def check_features(
    store: FeatureStore,
    *,
    view: str | None = None,
    tenants: Sequence[str] | None = None,
    since: timedelta,
    now: datetime | None = None,
) -> Outcome:
    """Check the present rows of views with limits, and store what is found.

    Args:
        store: of the views.
        view: only this one; None: all that have limits and the key `tenant_id`.
        tenants: only these; None: all.
        since: rows of this time before `now`, or of the longest `max_age` if that is longer.
        now: default: the present time.

    Raises:
        BadInputError: the view cannot be checked, or tags say limits that cannot be.
        NotFoundError: there is no such view.
    """
    now = now or datetime.now(UTC)
    views = _views(store, view)
    violations: list[Violation] = []
    rows: dict[str, int] = {}
    starts: dict[str, datetime] = {}
    fresh: set[Key] = set()
    with connect(application_name="ai-hub check features") as connection:
        spans = _spans(connection, tenants)
        connection.commit()  # the embedded server makes others wait for an open transaction
        for each, fields in views:
            start = now - max([since, *(field.limits.max_age or since for field in fields)])
            checker = _check_view(store, each, fields, spans, _Range(tenants, start, now))
            rows[each.name] = checker.rows
            # an asset that has no row any more is judged, too
            expected = spans if set(each.join_keys) == set(JOIN_KEYS) else {}
            latest = dict.fromkeys([*expected, *checker.newest()], start)
            latest |= {key: max(start, first) for key, first in expected.items()}
            stale, of_view = checker.ages(now, latest)
            violations += [*checker.ranges(), *checker.nulls(), *stale]
            fresh |= of_view
            starts |= {field.subject: start for field in fields}

        registered = store.list_feature_views() if view is None else []
        names = {each.name for each in registered}
        limited = {field.subject for each in registered for field in limited_fields(each.name, each.features)}

        def is_seen(tenant: str, entity: str, finding: Finding) -> bool:
            if finding.subject not in starts:
                # it has no limits any more; or is a view's of another project, which was not checked
                return finding.subject.partition(".")[0] in names and finding.subject not in limited
            if finding.kind is FindingKind.FEATURE_STALE:
                return (tenant, entity, finding.subject) in fresh
            return finding.first >= starts[finding.subject]

        new, resolved = _record(
            connection,
            violations,
            tenants=tenants,
            subjects=None if view is None else set(starts),
            kinds={FindingKind.FEATURE_RANGE, FindingKind.FEATURE_NULLS, FindingKind.FEATURE_STALE},
            is_seen=is_seen,
        )
    return Outcome(violations, rows, new, resolved)


def check_training_rows(service: FeatureService, rows: pd.DataFrame, *, store_findings: bool) -> Outcome:
    """Check a training set with the columns `KEYS` and the service's features.

    Open findings stay open: the set has not all rows of its time.

    Args:
        service: whose features they are.
        rows: the training set.
        store_findings: not of rows as they were known earlier.
    """
    fields = fields_of_service(service)
    if not fields or rows.empty:
        return Outcome([])
    tenants = rows["tenant_id"].unique().tolist()
    with connect(application_name="ai-hub train") as connection:
        checker = Checker(fields, _spans(connection, tenants))
        connection.commit()
        for first in range(0, len(rows), _CHUNK):
            checker.add(rows[first : first + _CHUNK])
        violations = [*checker.ranges(), *checker.nulls()]
        new: list[Violation] = []
        if store_findings and violations:
            kinds = {FindingKind.FEATURE_RANGE, FindingKind.FEATURE_NULLS}
            subjects = {each.subject for each in fields}
            # a login of a tenant may read features and store nothing
            with suppress(InsufficientPrivilege, ReadOnlySqlTransaction):
                new, _ = _record(
                    connection,
                    violations,
                    tenants=tenants,
                    subjects=subjects,
                    kinds=kinds,
                    is_seen=lambda *_: False,
                )
    return Outcome(violations, {service.name: checker.rows}, new)


class NewestRowsCheck:
    """Checks the newest rows of assets on their way to the online store: ranges and ages.

    A share of nulls needs more rows than one.
    """

    def __init__(self, fields: Sequence[LimitedField], now: datetime) -> None:
        self._fields = fields
        self._checker = Checker(fields, {})
        self._now = now
        #: rows that were refused
        self.refused = 0

    def accepted(self, batch: pa.RecordBatch, names: Sequence[str], time: str) -> pa.RecordBatch:
        """The rows of a batch, whose columns are `names`, without those that are refused."""
        table = pa.Table.from_batches([batch]).rename_columns(list(names))
        columns = [*KEYS[:2], time, *(each.name for each in self._fields)]
        rows = table.select(columns).to_pandas().rename(columns={time: KEYS[2]})
        refused = self._checker.add(rows)
        for each in self._fields:
            if each.limits.on_violation == "refuse" and each.limits.max_age is not None:
                refused |= (self._now - rows[KEYS[2]] > each.limits.max_age).to_numpy()
        self.refused += int(refused.sum())
        return batch.filter(pa.array(~refused)) if refused.any() else batch

    def judge(self) -> tuple[list[Violation], Mapping[Entity, datetime], set[Key]]:
        """Violations, the time of each asset's row, and features whose age is known to be within limits."""
        times = self._checker.newest()
        stale, fresh = self._checker.ages(self._now, times)
        return [*self._checker.ranges(), *stale], times, fresh

    @property
    def subjects(self) -> set[str]:
        """What findings are about."""
        return {each.subject for each in self._fields}


def newest_rows_checks(views: Iterable[FeatureView], now: datetime) -> dict[str, NewestRowsCheck]:
    """Checks of the views that have limits, by their names."""
    limited = {each.name: limited_fields(each.name, each.features) for each in views}
    return {name: NewestRowsCheck(fields, now) for name, fields in limited.items() if fields}


def record_newest(connection: Connection[Any], checks: Collection[NewestRowsCheck]) -> Outcome:
    """Store what the checks of newest rows found. An older row's finding stays open."""
    if not checks:
        return Outcome([])
    violations: list[Violation] = []
    times: dict[Key, datetime] = {}
    fresh: set[Key] = set()
    subjects: set[str] = set()
    for check in checks:
        found, of_view, fresh_of_view = check.judge()
        violations += found
        fresh |= fresh_of_view
        subjects |= check.subjects
        times |= {(*key, subject): at for key, at in of_view.items() for subject in check.subjects}

    def is_seen(tenant: str, entity: str, finding: Finding) -> bool:
        key = (tenant, entity, finding.subject)
        if finding.kind is FindingKind.FEATURE_STALE:
            return key in fresh
        return finding.first == finding.last == times.get(key)

    new, resolved = _record(
        connection,
        violations,
        tenants=sorted({tenant for tenant, _, _ in times}),
        subjects=subjects,
        kinds={FindingKind.FEATURE_RANGE, FindingKind.FEATURE_STALE},
        is_seen=is_seen,
    )
    return Outcome(violations, {}, new, resolved)


def _views(store: FeatureStore, name: str | None) -> list[tuple[FeatureView, list[LimitedField]]]:
    """Views that can be checked, with their limits."""
    views = {each.name: each for each in store.list_feature_views()}
    if name is not None and name not in views:
        raise NotFoundError(
            f"There is no feature view {name!r}.", hint=f"Registered: {', '.join(sorted(views))}."
        )
    found = []
    for each in (
        [views[name]] if name is not None else sorted(views.values(), key=lambda view: str(view.name))
    ):
        fields = limited_fields(each.name, each.features)
        reason = (
            "no field of it has limits (see `feast_plugins.windows.Limits`)"
            if not fields
            else "it has no key tenant_id"
            if _TENANT not in each.join_keys
            else "its rows are not in Postgres"
            if not isinstance(each.batch_source, PostgreSQLSource)
            else None
        )
        if reason is None:
            found.append((each, fields))
        elif name is not None:
            raise BadInputError(f"{name} cannot be checked: {reason}.")
    return found


def _spans(connection: Connection[Any], tenants: Sequence[str] | None) -> dict[Entity, datetime]:
    """Hour of the first reading of assets."""
    rows = connection.execute(
        "SELECT tenant_id, asset_id, first_hour FROM asset_spans"
        " WHERE isfinite(first_hour) AND (%s::text[] IS NULL OR tenant_id = ANY (%s::text[]))",
        [tenants and list(tenants), tenants and list(tenants)],
    )
    return {(tenant, asset): first for tenant, asset, first in rows}


@dataclass(frozen=True)
class _Range:
    """Which rows are read: of these tenants (None: of all), between two times."""

    tenants: Sequence[str] | None
    start: datetime
    end: datetime


def _check_view(
    store: FeatureStore,
    view: FeatureView,
    fields: Sequence[LimitedField],
    spans: Mapping[Entity, datetime],
    rows: _Range,
) -> Checker:
    is_of_assets = set(view.join_keys) == set(JOIN_KEYS)
    checker = Checker(fields, spans if is_of_assets else {})
    others = [key for key in view.join_keys if key != _TENANT]
    names = [_TENANT, *others, KEYS[2], *(each.name for each in fields)]
    with (
        session.connect(store.config.offline_store) as connection,
        session.stream(connection, _query(view, others, fields, rows)) as batches,
    ):
        for table in _chunks(batches):
            frame = table.rename_columns(names).to_pandas()
            if not is_of_assets:
                texts = [key + "=" + frame[key].astype(str) for key in others]
                frame["asset_id"] = texts[0].str.cat(texts[1:], sep=", ") if texts else ""
            if frame[KEYS[2]].dt.tz is None:
                frame[KEYS[2]] = frame[KEYS[2]].dt.tz_localize("UTC")
            checker.add(frame)
    return checker


def _query(
    view: FeatureView, others: Sequence[str], fields: Sequence[LimitedField], rows: _Range
) -> sql.Composed:
    """The present rows of a view: tenant, other keys, time and features."""
    source = view.batch_source
    assert source is not None  # noqa: S101  # see `_views`
    original = {feature: column for column, feature in source.field_mapping.items()}

    def column(name: str) -> sql.Identifier:
        return sql.Identifier("source", original.get(name, name))

    keys, time = [column(_TENANT), *map(column, others)], column(source.timestamp_field)
    conditions = [
        sql.SQL("{} >= {}").format(time, sql.Literal(rows.start)),
        sql.SQL("{} <= {}").format(time, sql.Literal(rows.end)),
    ]
    if rows.tenants is not None:
        conditions.append(sql.SQL("{} = ANY({})").format(keys[0], sql.Literal(list(rows.tenants))))
    comma = sql.SQL(", ")
    distinct: sql.Composable = sql.SQL("")
    order: sql.Composable = sql.SQL("")
    # a source that tells its versions has only the present row of each time
    if source.created_timestamp_column and "versions" not in (source.tags or {}):
        one = comma.join([*keys, time])
        distinct = sql.SQL("DISTINCT ON ({}) ").format(one)
        created = column(source.created_timestamp_column)
        order = sql.SQL(" ORDER BY {}, {} DESC NULLS LAST").format(one, created)
    return sql.SQL("SELECT {}{} FROM {} AS source WHERE {}{}").format(
        distinct,
        comma.join([*keys, time, *(column(each.name) for each in fields)]),
        sql.SQL(source.get_table_query_string()),
        sql.SQL(" AND ").join(conditions),
        order,
    )


def _chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches put together: a schema has a cost of its own."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.num_rows for each in waiting) >= _CHUNK:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _record(
    connection: Connection[Any],
    violations: Sequence[Violation],
    *,
    tenants: Sequence[str] | None,
    subjects: set[str] | None,
    kinds: set[FindingKind],
    is_seen: Callable[[str, str, Finding], bool],
) -> tuple[list[Violation], int]:
    """Store violations as findings, in one transaction a tenant.

    A feature of an asset has one open finding of a kind, from the first row that broke its limits. It tells
    what the last check saw.

    Args:
        connection: not in autocommit mode.
        violations: what was seen.
        tenants: who was checked; None: everybody.
        subjects: what was checked; None: everything.
        kinds: that were checked.
        is_seen: whether all rows of an open finding were checked, given its tenant, asset and itself.

    Returns:
        The violations that no open finding told, and how many findings were resolved.
    """
    by_tenant: dict[str, dict[tuple[str, FindingKind, str], Violation]] = defaultdict(dict)
    for each in violations:
        by_tenant[each.tenant][each.entity, each.kind, each.field.subject] = each
    new, resolved = [], 0
    for tenant in sorted({*by_tenant, *tenants_with_feature_findings(connection, tenants)}):
        repository = FindingsRepository(connection, tenant)
        stored: dict[tuple[str, FindingKind, str], list[Finding]] = defaultdict(list)
        for entity, findings in repository.open_feature_findings().items():
            for finding in findings:
                if finding.kind in kinds and (subjects is None or finding.subject in subjects):
                    stored[entity, finding.kind, finding.subject].append(finding)
        changes: dict[str, Changes] = defaultdict(Changes)
        for key in {**stored, **by_tenant[tenant]}:
            violation = by_tenant[tenant].get(key)
            before = stored.get(key, [])
            change = changes[key[0]]
            if violation is None:
                change.resolved += [each for each in before if is_seen(tenant, key[0], each)]
                continue
            if not before:
                new.append(violation)
            finding = violation.finding()
            unseen = [each for each in before if not is_seen(tenant, key[0], each)]
            finding = replace(
                finding,
                first=min([finding.first, *(each.first for each in unseen)]),
                last=max([finding.last, *(each.last for each in unseen)]),
            )
            change.moved += [each for each in before if each.first != finding.first]
            if finding not in before:
                change.upserted.append(finding)
        repository.apply(changes)
        resolved += sum(len(change.resolved) for change in changes.values())
        connection.commit()
    connection.commit()
    return new, resolved
