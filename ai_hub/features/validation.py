"""Rows of features against the limits of their fields (`feast_plugins.windows.Limits`).

Ranges and shares of nulls are pandera schemas, made from the tags of a view's fields.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from feast.types import Float32, Float64, Int32, Int64

from ai_hub.errors import BadInputError
from ai_hub.ingest.findings import Finding
from ai_hub.ingest.options import FindingKind
from feast_plugins.errors import DeclarationError
from feast_plugins.windows.declarations import LOOKBACK_TAG
from feast_plugins.windows.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt
    import pandera.pandas as pandera
    from feast import FeatureService, Field

    #: tenant and asset
    Entity = tuple[str, str]
    #: tenant, asset and subject
    _Key = tuple[str, str, str]

_NUMBERS: Final = frozenset({Int32, Int64, Float32, Float64})
_LARGEST: Final = sys.float_info.max
#: Columns of the rows that are checked, beside the features.
KEYS: Final = ("tenant_id", "asset_id", "event_timestamp")


@dataclass(frozen=True)
class LimitedField:
    """A field of a feature view that has limits."""

    view: str
    name: str
    limits: Limits
    #: how far it looks back
    lookback: timedelta
    is_number: bool

    @property
    def subject(self) -> str:
        """As findings name it."""
        return f"{self.view}.{self.name}"


def limited_fields(view: str, fields: Iterable[Field]) -> list[LimitedField]:
    """Those of a view's fields that have limits.

    Raises:
        BadInputError: tags say limits that cannot be.
    """
    limited = []
    for each in fields:
        tags = each.tags or {}
        try:
            limits = Limits.of(tags)
            lookback = timedelta(hours=float(tags.get(LOOKBACK_TAG, 0)))
        except (DeclarationError, ValueError) as error:
            raise BadInputError(
                f"{view}.{each.name}: {error}", hint="Correct its tags, and run `feast apply`."
            ) from error
        if limits is not None:
            limited.append(LimitedField(view, each.name, limits, lookback, each.dtype in _NUMBERS))
    return limited


def fields_of_service(service: FeatureService) -> list[LimitedField]:
    """The service's features that have limits.

    Raises:
        BadInputError: tags say limits that cannot be.
    """
    return [
        limited
        for view in service.feature_view_projections
        for limited in limited_fields(view.name, view.features)
    ]


@dataclass(frozen=True)
class Violation:
    """Rows of one asset that break the limits of a feature."""

    tenant: str
    #: the asset; of views with other keys `key=value`
    entity: str
    field: LimitedField
    kind: FindingKind
    #: times of the rows
    first: datetime
    last: datetime
    #: rows that break the limits, and all that were checked
    rows: int
    checked: int
    #: value of the first row
    example: float | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the policy of the feature is to refuse."""
        return self.field.limits.on_violation == "refuse"

    def as_dict(self) -> dict[str, Any]:
        """The violation for JSON."""
        return {
            "tenant_id": self.tenant,
            "asset_id": self.entity,
            "policy": self.field.limits.on_violation,
            **self.finding().as_dict(),
        }

    def finding(self) -> Finding:
        """The violation as it is stored."""
        limits = self.field.limits
        detail: dict[str, Any] = {"rows": self.rows, "checked": self.checked}
        if self.kind is FindingKind.FEATURE_RANGE:
            # JSON has no infinity
            detail |= {"limit": str(limits), "example": f"{self.example:.15g}"}
        elif self.kind is FindingKind.FEATURE_NULLS:
            detail |= {"allowed": limits.null_share}
        elif limits.max_age is not None:
            detail = {"max_age_hours": limits.max_age / timedelta(hours=1)}
        return Finding(self.kind, self.first, self.last, detail, self.field.subject)


def violation_lines(violations: Iterable[Violation]) -> list[str]:
    """A line for each feature of a tenant: which rows break which limit, with an example."""
    groups: dict[tuple[str, str, FindingKind], list[Violation]] = defaultdict(list)
    for each in violations:
        groups[each.tenant, each.field.subject, each.kind].append(each)
    return [_line(groups[key]) for key in sorted(groups)]


def _line(group: Sequence[Violation]) -> str:
    limits = group[0].field.limits
    rows = f"{sum(each.rows for each in group):,} of {sum(each.checked for each in group):,} rows"
    assets = group[0].entity if len(group) == 1 else f"{len(group):,} assets"
    match group[0].kind:
        case FindingKind.FEATURE_RANGE:
            worst = max(group, key=lambda each: each.rows)
            what = (
                f"{rows} of {assets} are {limits}, such as {worst.example:.15g} of {worst.entity} "
                f"at {worst.first:%Y-%m-%d %H:%MZ}"
            )
        case FindingKind.FEATURE_NULLS:
            worst = max(group, key=lambda each: each.rows / each.checked)
            what = (
                f"{rows} of {assets} have no value, more than {limits.null_share:.0%}, such as "
                f"{worst.rows:,} of {worst.checked:,} of {worst.entity} from {worst.first:%Y-%m-%d %H:%MZ}"
            )
        case _:
            worst = min(group, key=lambda each: each.last)
            what = (
                f"no value of {assets} for more than {limits.max_age}, such as of {worst.entity} "
                f"since {worst.last:%Y-%m-%d %H:%MZ}"
            )
    policy = "refused" if group[0].is_refused else "warning"
    return f"{policy}: {group[0].tenant} {group[0].field.subject}: {what}"


def range_schema(fields: Iterable[LimitedField]) -> pandera.DataFrameSchema:
    """Schema of rows: a number is finite and within the limits of its field, or missing."""
    return _schema(
        {each.name: (each.limits.minimum, each.limits.maximum) for each in fields if each.is_number}
    )


def _schema(ranges: Mapping[str, tuple[float | None, float | None]]) -> pandera.DataFrameSchema:
    import pandera.pandas as pandera  # noqa: PLC0415  # half a second, and few commands check

    def check(low: float | None, high: float | None) -> pandera.Check:
        # infinite numbers are beyond the largest
        return pandera.Check.in_range(-_LARGEST if low is None else low, _LARGEST if high is None else high)

    return pandera.DataFrameSchema(
        {name: pandera.Column("float64", check(*bounds), nullable=True) for name, bounds in ranges.items()}
    )


def _failures(schema: pandera.DataFrameSchema, rows: pd.DataFrame) -> Any:
    """Cells that break a schema: `index` of the row and `column`."""
    from pandera.errors import SchemaErrors  # noqa: PLC0415  # see above

    try:
        schema.validate(rows, lazy=True)
    except SchemaErrors as errors:
        cases: Any = errors.failure_cases
        if cases["index"].isna().any():  # the frame itself is wrong, which is a bug of ours
            raise
        return cases[["index", "column"]].astype({"index": "int64"})
    return pd.DataFrame({"index": pd.Series(dtype="int64"), "column": pd.Series(dtype=object)})


class Checker:
    """Checks rows of one view, or of one training set, part after part.

    Memory grows with entities and fields, not with rows.

    Args:
        fields: what is checked.
        starts: when the history of assets begins, by tenant and asset; rows before `start + lookback` do not
            count for shares of nulls. Entities that are not named count from their first row.
    """

    def __init__(self, fields: Sequence[LimitedField], starts: Mapping[Entity, datetime]) -> None:
        self._fields = list(fields)
        index = pd.MultiIndex.from_tuples(list(starts), names=list(KEYS[:2])) if starts else None
        # pandas' types know little of what follows
        self._starts: Any = pd.Series(list(starts.values()), index=index, dtype="datetime64[us, UTC]")
        self._numbers = [each.name for each in fields if each.is_number]
        self._schema = range_schema(fields)
        self._refused = {each.name for each in fields if each.limits.on_violation == "refuse"}
        self._totals: Any = pd.DataFrame()
        self._outside: Any = pd.DataFrame()

    def add(self, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Check rows with the columns `KEYS` and the features; says which have a value that is refused."""
        rows = rows.reset_index(drop=True).astype(dict.fromkeys(self._numbers, "float64"))
        failures = _failures(self._schema, rows[self._numbers])
        self._note_outside(rows, failures)
        self._note_totals(rows)
        refused = np.zeros(len(rows), dtype=bool)
        refused[failures.loc[failures["column"].isin(self._refused), "index"]] = True
        return refused

    def _note_outside(self, rows: Any, failures: Any) -> None:
        if failures.empty:
            return
        at = failures["index"].to_numpy()
        values = np.empty(len(at))
        for name in self._numbers:
            mask = (failures["column"] == name).to_numpy()
            values[mask] = rows[name].to_numpy()[at[mask]]
        cells = rows.loc[at, [*KEYS]].reset_index(drop=True)
        cells = cells.rename(columns={"event_timestamp": "first"})
        cells = cells.assign(last=cells["first"], field=failures["column"].to_numpy(), example=values, rows=1)
        cells = pd.concat([self._outside, cells]) if len(self._outside) else cells
        keys = ["tenant_id", "asset_id", "field"]
        self._outside = (
            cells.sort_values("first", kind="stable")
            .groupby(keys, sort=False)
            .agg(
                first=("first", "first"),
                last=("last", "max"),
                example=("example", "first"),
                rows=("rows", "sum"),
            )
            .reset_index()
        )

    def _note_totals(self, rows: Any) -> None:
        times = rows["event_timestamp"]
        values: dict[str, Any] = {"rows": 1, "newest": times}
        entities = pd.MultiIndex.from_frame(rows[["tenant_id", "asset_id"]])
        begins: Any = None
        for each in self._fields:
            is_null = rows[each.name].isna()
            if each.limits.null_share is not None:
                if begins is None:
                    begins = pd.Series(self._starts.reindex(entities).to_numpy(), index=rows.index)
                    begins = begins.dt.tz_localize("UTC") if begins.dt.tz is None else begins
                is_full = ~(times < begins + each.lookback)
                values[f"checked {each.name}"] = is_full.astype("int64")
                values[f"nulls {each.name}"] = (is_full & is_null).astype("int64")
                null_at = times.where(is_full & is_null)
                values[f"first {each.name}"] = values[f"last {each.name}"] = null_at
            if each.limits.max_age is not None:
                values[f"newest {each.name}"] = times.where(~is_null)
        frame = pd.DataFrame(values, index=rows.index).set_index(entities)
        frame = pd.concat([self._totals, frame]) if len(self._totals) else frame
        how = {name: _TOTALS[str(name).partition(" ")[0]] for name in frame.columns}
        self._totals = frame.groupby(level=[0, 1], sort=False).agg(how)

    @property
    def rows(self) -> int:
        """How many were checked."""
        return int(self._totals["rows"].sum()) if len(self._totals) else 0

    def newest(self) -> dict[Entity, datetime]:
        """Tenants and entities with a row, and the time of their newest one."""
        return self._times("newest")

    def ranges(self) -> list[Violation]:
        """Values outside of their limits."""
        fields = {each.name: each for each in self._fields}
        checked = self._totals["rows"].to_dict() if len(self._outside) else {}
        return [
            Violation(
                row.tenant_id,
                row.asset_id,
                fields[row.field],
                FindingKind.FEATURE_RANGE,
                row.first.to_pydatetime(),
                row.last.to_pydatetime(),
                int(row.rows),
                checked[row.tenant_id, row.asset_id],
                float(row.example),
            )
            for row in self._outside.itertuples()
        ]

    def nulls(self) -> list[Violation]:
        """Shares of rows without a value that are larger than allowed."""
        fields = [each for each in self._fields if each.limits.null_share is not None]
        if not fields or self._totals.empty:
            return []
        totals = self._totals.reset_index(names=["tenant_id", "asset_id"])
        shares = pd.DataFrame(
            {each.name: totals[f"nulls {each.name}"] / totals[f"checked {each.name}"] for each in fields}
        )
        schema = _schema({each.name: (None, each.limits.null_share) for each in fields})
        by_name = {each.name: each for each in fields}
        violations = []
        for at, name in _failures(schema, shares).itertuples(index=False):
            row = totals.iloc[at]
            first, last = row[f"first {name}"].to_pydatetime(), row[f"last {name}"].to_pydatetime()
            counts = int(row[f"nulls {name}"]), int(row[f"checked {name}"])
            kind = FindingKind.FEATURE_NULLS
            violations.append(
                Violation(row["tenant_id"], row["asset_id"], by_name[name], kind, first, last, *counts)
            )
        return violations

    def ages(self, now: datetime, latest: Mapping[Entity, datetime]) -> tuple[list[Violation], set[_Key]]:
        """Features whose newest value is too old, and those whose newest value is known not to be.

        Args:
            now: what ages count to.
            latest: entities that are judged, and the latest time of a value that the rows do not have.
        """
        violations = []
        fresh = set()
        for each in self._fields:
            if each.limits.max_age is None:
                continue
            newest = self._times(f"newest {each.name}")
            for (tenant, entity), latest_time in latest.items():
                time = newest.get((tenant, entity))
                at = time or latest_time
                if now - at > each.limits.max_age:
                    kind = FindingKind.FEATURE_STALE
                    violations.append(Violation(tenant, entity, each, kind, at, at, 1, 1))
                elif time is not None:
                    fresh.add((tenant, entity, each.subject))
        return violations, fresh

    def _times(self, total: str) -> dict[Entity, datetime]:
        """Times among the totals, of entities that have one."""
        if self._totals.empty:
            return {}
        return {key: time.to_pydatetime() for key, time in self._totals[total].dropna().items()}


#: How the totals of parts are put together, by the first word of their columns.
_TOTALS: Final = {
    **dict.fromkeys(("rows", "checked", "nulls"), "sum"),
    **dict.fromkeys(("first",), "min"),
    **dict.fromkeys(("last", "newest"), "max"),
}
