# ruff: noqa: E501 - SQL as it is sent
"""History of views with a horizon: each entity row is an issue, whose features of targets are computed here.

Features of the issue are joined as those of other views, of the newest row whose readings were available. What
features of targets look at is read for some assets at a time, so memory is bounded beside the result.

Of an asset whose readings say when they arrived (`available_at`), a step is known when the last of its readings is. The
newest row is then the one after the newest step that was known, and numbers that look at a step which came later are null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import dbapi
from psycopg import sql

from feast_plugins.offline.as_of import (
    NO_TIME,
    UNKNOWN,
    AsOf,
    Index,
    SortKey,
    microseconds,
    steps,
    with_deletions,
)
from feast_plugins.offline.entities import Entities
from feast_plugins.offline.views import AsOfFilter, ViewRead, read_rows
from feast_plugins.postgres.session import TIME, fetch
from feast_plugins.windows.declarations import Declaration
from feast_plugins.windows.features import READING, TOTAL, WEATHER, WEATHER_AGE, series_of
from feast_plugins.windows.leads import evaluate, reaches
from feast_plugins.windows.vintages import (
    EMPTY,
    Arrivals,
    Asset,
    Grid,
    Issues,
    Known,
    Series,
    Vintages,
    Weather,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

#: Steps of all assets of a batch, and issues that are evaluated at once.
_BATCH_STEPS: Final = 400_000
_AT_ONCE: Final = 4096
#: Steps of all issues that numbers look at, at once.
_LOOKED_AT: Final = 4_000_000
_US: Final = timedelta(microseconds=1)
_COMMA: Final = sql.SQL(", ")
_OF_READINGS: Final = frozenset({READING, TOTAL})
#: As declarations.SERIES_KEYS has them, but the two that need no register.
_ZONES: Final = ("price_zone", "group", "weather_station")
_REGISTER: Final = """\
SELECT tenant_id, asset_id, timezone, latitude, longitude,
    (extract(epoch FROM {available_after}) * 1000000)::bigint AS available_after, is_amount IS NULL AS is_plain,
    weather_asset_id, price_zone, "group", weather_station
FROM assets WHERE tenant_id = ANY ({tenants}) AND asset_id = ANY ({assets})"""
_WEATHER: Final = """\
SELECT k.number, weather."timestamp", {available} AS available_at, {columns}
FROM unnest({tenants}::text[], {names}::text[]) WITH ORDINALITY AS k (tenant_id, name, number)
JOIN weather_features AS weather ON weather.tenant_id = k.tenant_id AND weather.asset_id = k.name
WHERE weather."timestamp" > {first} AND weather."timestamp" < {end} AND weather.available_at <= {latest}{known}"""
_SERIES: Final = """\
SELECT k.number, issues."timestamp", {available} AS available_at, issues.value
FROM unnest({tenants}::text[], {names}::text[]) WITH ORDINALITY AS k (tenant_id, name, number)
JOIN covariates AS issues ON issues.tenant_id = k.tenant_id AND issues.zone = k.name AND issues.series = {series}
WHERE issues."timestamp" >= {first} AND issues."timestamp" < {end} AND issues.available_at <= {latest}{known}"""
#: A total is known when the readings of all members are.
_OF_GROUP: Final = """\
greatest(available_after, (
    SELECT max(members.available_after) FROM assets AS members
    WHERE members.tenant_id = assets.tenant_id AND members."group" = assets."group"
))"""
#: Whose readings a value is made of: those of an asset, or of all members of a group.
_SOURCES: Final = """\
WITH sources AS (
    SELECT * FROM unnest({tenants}::text[], {names}::text[], {are_groups}::boolean[], {numbers}::bigint[])
        AS sources (tenant_id, name, is_group, number)
),
of AS (
    SELECT tenant_id, name AS member, number FROM sources WHERE NOT is_group
    UNION ALL
    SELECT sources.tenant_id, members.asset_id, number
    FROM sources JOIN assets AS members ON members.tenant_id = sources.tenant_id AND members."group" = sources.name
    WHERE is_group
)
"""
_LONGEST: Final = """\
SELECT number, (extract(epoch FROM max(longest_delay)) * 1000000)::bigint AS longest
FROM of
JOIN asset_spans AS spans ON spans.tenant_id = of.tenant_id AND spans.asset_id = of.member
WHERE longest_delay IS NOT NULL
GROUP BY number"""
_ARRIVALS: Final = """\
SELECT number, time_bucket({step}, readings."timestamp") AS step, max(readings.available_at) AS given,
    bool_or(readings.available_at IS NULL) AS is_by_rule
FROM of
JOIN timeseries_data AS readings ON readings.tenant_id = of.tenant_id AND readings.asset_id = of.member
WHERE readings.in_features AND readings."timestamp" >= {first} AND readings."timestamp" < {end}
GROUP BY number, time_bucket({step}, readings."timestamp")"""
#: So long after its last reading an asset has rows, and so long before an issue the newest known step may be at most,
#: where that is not less than its rule allows.
_ROWS_LAST: Final = timedelta(hours=168)
_FARTHEST: Final = timedelta(days=90)
#: Some series were always known, which Arrow has no time for.
_SINCE: Final = "greatest({0}.available_at, TIMESTAMPTZ '1900-01-01 00:00+00')"
_SINCE_INGESTED: Final = "greatest({0}.available_at, {0}.ingested_at)"


@dataclass(frozen=True)
class Owner:
    """An asset, and whose values of weather and series it uses; None: nobody's."""

    tenant: str
    zones: Mapping[str, str | None]


@dataclass(frozen=True)
class IssueHistory:
    """Entity rows of a view with a horizon; their times are begins of steps."""

    declaration: Declaration
    read: ViewRead
    entities: Entities
    as_of_filter: AsOfFilter
    #: number of the asset of each row; -1: a key is missing
    assets: Integers
    register: Sequence[Asset]
    owners: Sequence[Owner]
    #: of readings that say when they arrived; None: none does, or they are known when they were ingested
    arrivals: Arrivals | None = None
    #: steps from the newest known one to an issue at most, by asset that `arrivals` has
    longest: Integers = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(
        cls, connection: dbapi.Connection, entities: Entities, read: ViewRead, as_of_filter: AsOfFilter
    ) -> IssueHistory:
        """The entity rows, with what the register has of their assets."""
        declaration = read.declaration
        assert declaration is not None  # noqa: S101  # only views with a horizon come here
        step_us = declaration.step // _US
        times = entities.times
        begins = np.where(times == NO_TIME, 0, times - times % step_us)
        issues = _at(entities, pa.array(begins, mask=times == NO_TIME))
        space, _ = issues.resolve_keys(tuple(read.keys), (pa.string(),) * len(read.keys))
        numbers, examples = np.unique(space.rows, return_index=True)
        rows = issues.table.take(pa.array(examples[numbers != UNKNOWN]))
        names = {column: rows[name].cast(pa.string()).to_pylist() for name, column in read.keys.items()}
        keys = list(zip(names["tenant_id"], names["asset_id"], strict=True))
        has_totals = TOTAL in {
            leaf.column for each in declaration.features.values() for leaf in each.leaves()
        }
        register, owners = _register(connection, keys, _OF_GROUP if has_totals else "available_after")
        found = cls(declaration, read, issues, as_of_filter, space.rows, register, owners)
        if as_of_filter.by_row:  # a version was known when it was stored, whatever its readings say
            return found
        groups = [each.zones["group"] if has_totals else None for each in owners]
        sources = [
            (tenant, asset if group is None else group, group is not None)
            for (tenant, asset), group in zip(keys, groups, strict=True)
        ]
        return found._with_arrivals(connection, sources)

    def _with_arrivals(
        self, connection: dbapi.Connection, sources: Sequence[tuple[str, str, bool]]
    ) -> IssueHistory:
        """Read when steps were known, where readings say it.

        Args:
            connection: to read from.
            sources: of each asset, whose readings count: tenant, name, and whether it is that of a group.
        """
        distinct = list(dict.fromkeys(sources))
        query = sql.SQL(_SOURCES + _LONGEST).format(**_literals(distinct, range(len(distinct))))
        given = fetch(connection, query) if distinct else None
        if given is None or not given.num_rows:
            return self
        numbers, step_us = given["number"].to_numpy(), self.declaration.step // _US
        row_of = np.full(len(distinct), -1)
        row_of[numbers] = np.arange(len(numbers))
        number_of = {each: number for number, each in enumerate(distinct)}
        source_of_asset = np.array([number_of[each] for each in sources], np.int64)
        rows = row_of[source_of_asset]
        is_given = np.zeros(len(self.assets), bool)
        is_given[self._has_issue] = rows[self.assets[self._has_issue]] >= 0
        steps = self.entities.times[is_given] // step_us
        if not steps.size:
            return self
        # assets of a group have the delay of its latest member
        after_of = np.zeros(len(distinct), np.int64)
        after_of[source_of_asset] = self._after
        longest = np.minimum(given["longest"].to_numpy() + _ROWS_LAST // _US, _FARTHEST // _US)
        # readings that do not say it are known by the rule, for as long as those of other assets
        longest = -(-np.maximum(longest, after_of[numbers] + _ROWS_LAST // _US) // step_us)
        leaves = [leaf for each in self.declaration.features.values() for leaf in each.leaves()]
        reach = max((leaf.offsets()[1] for leaf in leaves if leaf.column in _OF_READINGS), default=0)
        ttl = 0 if self.read.ttl is None else self.read.ttl // self.declaration.step
        first = int(steps.min()) - int(longest.max()) - reach - ttl
        end = int(steps.max())
        query = sql.SQL(_SOURCES + _ARRIVALS).format(
            step=sql.Literal(self.declaration.step),
            first=_time(first * step_us),
            end=_time(end * step_us),
            **_literals(distinct, numbers.tolist()),
        )
        table = fetch(connection, query)
        known = np.full((len(numbers), end - first), EMPTY)
        places = row_of[table["number"].to_numpy()]
        at = microseconds(table["step"]) // step_us
        after = after_of[table["number"].to_numpy()]
        by_rule = np.where(table["is_by_rule"].to_numpy(), (at + 1) * step_us + after, NO_TIME)
        arrived = np.maximum(np.maximum(microseconds(table["given"]), by_rule), (at + 1) * step_us)
        known[places, at - first] = -(-arrived // step_us)
        return replace(self, arrivals=Arrivals(rows, first, known), longest=longest)

    @property
    def _has_issue(self) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = (self.entities.times != NO_TIME) & (self.assets != UNKNOWN)
        return found

    @cached_property
    def _delays(self) -> Integers:
        """From the newest known step to each entity row, in microseconds; -1: too far for it to have a row."""
        found = np.append(self._after, 0)[self.assets]
        if self.arrivals is not None:
            step_us = self.declaration.step // _US
            rows = np.flatnonzero(self._has_issue)
            steps = self.entities.times[rows] // step_us
            issues = Issues(self.register, self.assets[rows], steps, step_us, self.arrivals)
            is_given = issues.has_arrivals
            longest = self.longest[self.arrivals.rows[issues.assets[is_given]]]
            delays = issues.delays[is_given]
            found[rows[is_given]] = np.where(delays <= longest, delays * step_us, -1)
        return found

    @property
    def features_of_issue(self) -> ViewRead:
        """The read of those features that a row of its own time has, and of that time."""
        own = [name for name in self.read.features if name not in self.declaration.of_targets]
        return replace(self.read, features=tuple(dict.fromkeys([*own, self.read.time])), declaration=None)

    @property
    def _after(self) -> Integers:
        """How long after the end of a step the readings of each asset are available, in microseconds."""
        return np.array([each.available_after for each in self.register], np.int64)

    @property
    def delays(self) -> Integers | None:
        """Where entity rows keep their times: what rows are later known by, by asset."""
        return self._after if self.as_of_filter.by_row else None

    def available(self) -> Entities:
        """The entity rows at the times up to which their readings were available.

        Where versions are told by the time of issue, that stays, and rows are later by `delays`.
        """
        if self.as_of_filter.by_row or not self._delays.any():
            return self.entities
        times, delays = self.entities.times, self._delays
        return _at(self.entities, pa.array(times - delays, mask=(times == NO_TIME) | (delays < 0)))

    def features(self, connection: dbapi.Connection, of_issue: pa.Table) -> pa.Table:
        """All features of each entity row, null where it has no row.

        Args:
            connection: to read what features of targets look at.
            of_issue: what `features_of_issue` reads of the times of `available`.
        """
        of_issue = of_issue.combine_chunks()
        has_row = of_issue[self.read.time].is_valid().to_numpy() & (self.assets != UNKNOWN)
        targets = {
            name: each for name, each in self.declaration.of_targets.items() if name in self.read.features
        }
        leads = self.declaration.leads
        arrays = {name: np.empty((len(has_row), leads)) for name in targets}
        for values in arrays.values():
            values[~has_row] = np.nan
        for rows in self._batches(np.flatnonzero(has_row)) if targets else ():
            batch = _Batch(self, connection, rows, targets)
            for part, found in batch.evaluated():
                for name, values in found.items():
                    arrays[name][part] = values
        columns = {
            name: _lists(arrays[name], has_row) if name in arrays else self._known(name, of_issue, has_row)
            for name in self.read.features
        }
        return pa.table(columns)

    def _known(
        self, name: str, of_issue: pa.Table, has_row: npt.NDArray[np.bool_]
    ) -> pa.Array | pa.ChunkedArray:
        """A number of each issue; null where it looks at a step of which something came later."""
        each = self.declaration.features.get(name)
        leaves = [leaf for leaf in each.leaves() if leaf.column in _OF_READINGS] if each else []
        if self.arrivals is None or not leaves:
            return of_issue[name]
        step_us = self.declaration.step // _US
        rows = np.flatnonzero(has_row)
        rows = rows[self.arrivals.rows[self.assets[rows]] >= 0]
        events = microseconds(of_issue[self.read.time])
        is_late = np.zeros(len(has_row), bool)
        nearest = min(leaf.offsets()[0] for leaf in leaves)
        farthest = max(leaf.offsets()[1] for leaf in leaves)
        at_once = max(_LOOKED_AT // (farthest - nearest + 1), 1)
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            looked_at = (events[part] // step_us)[:, None] - np.arange(nearest, farthest + 1)
            known = self.arrivals.at(self.assets[part], looked_at)
            issued = self.entities.times[part, None] // step_us
            is_late[part] = ((known > issued) & (known != EMPTY)).any(axis=1)
        return pc.if_else(pa.array(is_late), None, of_issue[name])

    def _batches(self, rows: Integers) -> Iterator[Integers]:
        """Positions of entity rows, those of some assets at a time."""
        order = rows[np.argsort(self.assets[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(self.assets[order], prepend=UNKNOWN))
        of_step = self.entities.times[order] // (self.declaration.step // _US)
        first, last = (
            each.reduceat(of_step, starts) if len(order) else of_step for each in (np.minimum, np.maximum)
        )
        begin = 0
        for number in range(1, len(starts) + 1):
            span = last[begin:number].max() - first[begin:number].min() + 1 + self.declaration.leads
            is_full = number < len(starts) and span * (number + 1 - begin) > _BATCH_STEPS
            if number == len(starts) or is_full:
                yield order[starts[begin] : starts[number] if number < len(starts) else len(order)]
                begin = number


@dataclass(frozen=True)
class Versions:
    """Values of steps in several versions, of which each issue knows those that existed at its own time."""

    #: number of the first step, and of steps of an asset
    first: int
    width: int
    #: of each version: number of the asset and step, event, creation and end, as `with_deletions` has them
    rows: tuple[Integers, Integers, Integers, Integers | None]
    values: Floats

    @cached_property
    def _index(self) -> tuple[Index, Integers, int]:
        since, keys, best = steps(*with_deletions(*self.rows))
        count = int(keys.max(initial=-1)) + 1
        return Index.of(SortKey.of(count, since), keys, since), best, count

    def known(self, issues: Issues, first: int, end: int) -> Known:
        """As of `Grid`."""
        index, best, count = self._index
        at = issues.ahead(first, end) - self.first
        is_inside = (at >= 0) & (at < self.width) & issues.are_known(first, end)
        keys = np.where(is_inside, issues.assets[:, None] * self.width + at, UNKNOWN).ravel()
        keys[keys >= count] = UNKNOWN
        times = np.repeat(issues.times, end - first)
        positions = index.newest(AsOf.of(keys, times))
        versions = np.append(best, UNKNOWN)[positions]
        return Known(first, np.append(self.values, np.nan)[versions].reshape(at.shape))


@dataclass(frozen=True)
class _Batch:
    """Issues of some assets, and what their features of targets look at."""

    of: IssueHistory
    connection: dbapi.Connection
    rows: Integers
    targets: Mapping[str, object]
    #: what is read, by column
    _columns: dict[str, Callable[[Issues], Mapping[str, Known]]] = field(default_factory=dict)

    def evaluated(self) -> Iterator[tuple[Integers, dict[str, Floats]]]:
        """Positions of some of the rows, and their features of targets."""
        declaration = self.of.declaration
        numbers, assets = np.unique(self.of.assets[self.rows], return_inverse=True)
        register = [self.of.register[number] for number in numbers]
        owners = [self.of.owners[number] for number in numbers]
        step_us = declaration.step // _US
        arrivals = None if self.of.arrivals is None else self.of.arrivals.of(numbers)
        issues = Issues(register, assets, self.of.entities.times[self.rows] // step_us, step_us, arrivals)
        needs = reaches(
            (declaration.features[name] for name in self.targets),
            declaration.leads,
            int(issues.delays.max()),
        )
        sources = list(self._sources(needs, issues, owners))
        for first in range(0, len(issues), _AT_ONCE):
            part = issues.part(slice(first, first + _AT_ONCE))
            columns = {name: each for source in sources for name, each in source(part).items()}
            features = {name: declaration.features[name] for name in self.targets}
            yield (
                self.rows[first : first + _AT_ONCE],
                evaluate(features, columns, part, declaration.step, declaration.leads),
            )

    def _sources(
        self, needs: Mapping[str, tuple[int, int]], issues: Issues, owners: Sequence[Owner]
    ) -> Iterator[Callable[[Issues], Mapping[str, Known]]]:
        """What is read at once, each as what of it some issues know."""
        if readings := {column: needs[column] for column in (READING, TOTAL) if column in needs}:
            yield self._readings(readings, issues)
        if weather := {column: needs[column] for column in WEATHER if column in needs}:
            yield self._weather(weather, issues, owners)
        for column, reach in needs.items():
            if column not in {READING, TOTAL, *WEATHER}:
                yield self._series(column, reach, issues, owners)

    def _readings(
        self, needs: Mapping[str, tuple[int, int]], issues: Issues
    ) -> Callable[[Issues], Mapping[str, Known]]:
        first = min(first for first, _ in needs.values())
        names = {column: self.of.declaration.steps_read[column] for column in needs}
        step = self.of.declaration.step
        # the row after a step has its value
        read = replace(self.of.read, features=tuple(names.values()), ttl=-first * step, declaration=None)
        table = self.of.entities.table.take(pa.array(self.rows))
        entities = replace(self.of.entities, table=table)
        as_of, rows = read_rows(
            self.connection, read, read.candidates(entities, self.of.as_of_filter), entities
        )
        lowest = int(issues.steps.min()) + first
        width = int(issues.steps.max()) - lowest
        # numbers of assets there are in the order of the rows
        number_of = np.full(int(as_of.keys.max()) + 1, -1)
        number_of[as_of.keys] = issues.assets
        assets, places = number_of[rows.keys], rows.event // issues.step_us - 1 - lowest
        is_inside = (places >= 0) & (places < width) & (assets >= 0) & (rows.event % issues.step_us == 0)
        order = np.arange(len(places)) if rows.created is None else np.argsort(rows.created, kind="stable")
        at = order[is_inside[order]]  # of several versions the last one is written last
        columns: dict[str, Grid | Versions] = {}
        for column, name in names.items():
            values = rows.features[name].combine_chunks().to_numpy(zero_copy_only=False).astype(np.float64)
            if self.of.as_of_filter.by_row and rows.created is not None:
                ended = None if rows.ended is None else rows.ended[at]
                versions = assets[at] * width + places[at], rows.event[at], rows.created[at], ended
                columns[column] = Versions(lowest, width, versions, values[at])
                continue
            grid = np.full((len(issues.register), width), np.nan)
            grid[assets[at], places[at]] = values[at]
            columns[column] = Grid(lowest, grid)
        return lambda part: {column: each.known(part, *needs[column]) for column, each in columns.items()}

    def _weather(
        self, needs: Mapping[str, tuple[int, int]], issues: Issues, owners: Sequence[Owner]
    ) -> Callable[[Issues], Mapping[str, Known]]:
        first, end = min(first for first, _ in needs.values()), max(end for _, end in needs.values())
        stations, numbers = _numbered([(each.tenant, each.zones["weather"]) for each in owners])
        table = self._vintages(
            _WEATHER,
            stations,
            issues,
            first - WEATHER_AGE * timedelta(hours=1) // self.of.declaration.step,
            end,
            relation="weather",
            columns=_COMMA.join(sql.Identifier("weather", name) for name in needs),
        )
        lowest, highest = int(issues.steps.min()) + first, int(issues.steps.max()) + end
        weather = Weather(_vintages(table, needs), numbers, lowest, highest)
        return lambda part: weather.known(part, list(needs), first, end)

    def _series(
        self, column: str, reach: tuple[int, int], issues: Issues, owners: Sequence[Owner]
    ) -> Callable[[Issues], Mapping[str, Known]]:
        name, key = series_of(column)
        zones, numbers = _numbered([(each.tenant, each.zones[key]) for each in owners])
        hour = timedelta(hours=1) // self.of.declaration.step
        table = self._vintages(
            _SERIES,
            zones,
            issues,
            reach[0] - hour,
            reach[1] + hour,
            relation="issues",
            series=sql.Literal(name),
        )
        lowest, highest = int(issues.steps.min()) + reach[0], int(issues.steps.max()) + reach[1]
        series = Series(_vintages(table, ["value"])["value"], numbers, lowest, highest)
        return lambda part: {column: series.known(part, *reach)}

    def _vintages(
        self,
        template: str,
        names: Sequence[tuple[str, str]],
        issues: Issues,
        first: int,
        end: int,
        *,
        relation: str,
        **parts: sql.Composable,
    ) -> pa.Table:
        """Rows with the number (from 1) of whose they are, of the steps from `first` to before `end` after the issues."""
        step_us = issues.step_us
        by_row, at = self.of.as_of_filter.by_row, self.of.as_of_filter.at
        known: sql.Composable = sql.SQL("")
        if at is not None:
            known = sql.SQL(" AND {} <= {}").format(sql.Identifier(relation, "ingested_at"), sql.Literal(at))
        query = sql.SQL(template).format(
            available=sql.SQL((_SINCE_INGESTED if by_row else _SINCE).format(relation)),
            tenants=sql.Literal([tenant for tenant, _ in names]),
            names=sql.Literal([name for _, name in names]),
            first=_time((int(issues.steps.min()) + first) * step_us),
            end=_time((int(issues.steps.max()) + end) * step_us),
            latest=_time(int(issues.times.max())),
            known=known,
            **parts,
        )
        return fetch(self.connection, query)


def _at(entities: Entities, times: pa.Array) -> Entities:
    """The entity rows at other times, in microseconds since 1970."""
    index = entities.table.column_names.index(entities.time)
    column = times.cast(pa.timestamp("us")).cast(TIME)
    return replace(entities, table=entities.table.set_column(index, entities.time, column))


def _register(
    connection: dbapi.Connection, keys: Sequence[tuple[str, str]], available_after: str
) -> tuple[list[Asset], list[Owner]]:
    """What the register has of assets, and whose values they use, in their order."""
    known = {}
    if keys:
        query = sql.SQL(_REGISTER).format(
            available_after=sql.SQL(available_after),
            tenants=sql.Literal(sorted({tenant for tenant, _ in keys})),
            assets=sql.Literal(sorted({asset for _, asset in keys})),
        )
        known = {(row["tenant_id"], row["asset_id"]): row for row in fetch(connection, query).to_pylist()}
    register, owners = [], []
    for tenant, name in keys:
        row = known.get((tenant, name), {})
        latitude, longitude = row.get("latitude"), row.get("longitude")
        register.append(
            Asset(
                row.get("timezone", "UTC"),
                np.nan if latitude is None else latitude,
                np.nan if longitude is None else longitude,
                row.get("available_after", 0),
                row.get("is_plain", True),
            )
        )
        zones = {"tenant": "", "asset": name, "weather": row.get("weather_asset_id") or name}
        owners.append(Owner(tenant, zones | {key: row.get(key) for key in _ZONES}))
    return register, owners


def _literals(sources: Sequence[tuple[str, str, bool]], numbers: Sequence[int]) -> dict[str, sql.Literal]:
    """Some of the sources, with their numbers."""
    return {
        "tenants": sql.Literal([sources[number][0] for number in numbers]),
        "names": sql.Literal([sources[number][1] for number in numbers]),
        "are_groups": sql.Literal([sources[number][2] for number in numbers]),
        "numbers": sql.Literal(list(numbers)),
    }


def _numbered(names: Sequence[tuple[str, str | None]]) -> tuple[list[tuple[str, str]], Integers]:
    """The distinct names of these, and the number of each one's; -1: it has none."""
    distinct = list(dict.fromkeys((tenant, name) for tenant, name in names if name is not None))
    number_of = {each: number for number, each in enumerate(distinct)}
    numbers = [-1 if name is None else number_of[tenant, name] for tenant, name in names]
    return distinct, np.array(numbers, np.int64)


def _vintages(table: pa.Table, columns: Iterable[str]) -> dict[str, Vintages]:
    return Vintages.of(
        table["number"].to_numpy() - 1,
        microseconds(table["timestamp"]),
        microseconds(table["available_at"]),
        {name: table[name].to_numpy().astype(np.float64) for name in columns},
    )


def _lists(values: Floats, is_valid: npt.NDArray[np.bool_]) -> pa.ListArray:
    """Lists of doubles, with NaN for missing ones; null where a row has none."""
    rows, leads = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * leads)
    mask = None if is_valid.all() else pa.array(~is_valid)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()), mask=mask)


def _time(microseconds: int) -> sql.Literal:
    seconds, rest = divmod(microseconds, 1_000_000)
    return sql.Literal(f"{np.datetime64(seconds, 's')}.{rest:06}+00")


def matrix(column: pa.Array | pa.ChunkedArray, leads: int) -> Floats:
    """Lists of a history's column as an array of the shape (rows, leads); NaN where a row is null."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    found = np.full((len(column), leads), np.nan)
    first = 0
    for chunk in chunks:
        is_valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        found[first : first + len(chunk)][is_valid] = (
            chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, leads)
        )
        first += len(chunk)
    return found
