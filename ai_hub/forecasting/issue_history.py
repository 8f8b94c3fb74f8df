"""Issues from Feast's history, and the values of the meters they are about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
from feast import FeatureService, FeatureView
from psycopg import sql

from ai_hub.db.connection import connect
from ai_hub.errors import BadInputError
from ai_hub.forecasting.backtest import Meters
from ai_hub.forecasting.dataset import HOURS, KNOWN_HOURS
from ai_hub.forecasting.day_ahead import Recipe
from ai_hub.forecasting.issues import (
    HOUR,
    WEEK,
    Floats,
    Inputs,
    Instants,
    IssueRows,
    StepValues,
    Strings,
    instants,
)
from feast_plugins.offline.issues import matrix
from feast_plugins.postgres import session
from feast_plugins.windows.declarations import VALUE_OF_STEP, Declaration, declaration_of
from feast_plugins.windows.features import (
    READING,
    Difference,
    Expression,
    Lag,
    SameHour,
    SunPosition,
    Window,
    WindPower,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feast import FeatureStore


#: Feature rows that are asked of Feast at once.
_BATCH: Final = 5_000
#: What naive forecasts and levels look back before the first issue.
_BEFORE: Final = 5 * WEEK
#: Types of features that trees take.
_NUMBERS: Final = frozenset({"DOUBLE", "FLOAT", "INT64", "INT32", "BOOL"})


@dataclass(frozen=True)
class IssueFeatures:
    """What a feature service with a horizon gives."""

    service: FeatureService
    declaration: Declaration
    recipe: Recipe
    #: query of the view's rows, and that of their versions
    query: str
    versions: str


def issue_features(store: FeatureStore, service: FeatureService, levels: Sequence[float]) -> IssueFeatures:
    """What a model of a feature service reads, and which of it says what is usual for an asset.

    Raises:
        BadInputError: the service has no view with a horizon, several, or no features of the steps ahead.
    """
    found: list[tuple[Declaration, FeatureView]] = []
    scalars: dict[str, Expression | None] = {}
    arrays: dict[str, Expression] = {}
    for projection in service.feature_view_projections:
        view = store.registry.get_any_feature_view(projection.name, store.project)
        declaration = declaration_of(view)
        of_targets = declaration.of_targets if declaration else {}
        if declaration and declaration.horizon is not None and isinstance(view, FeatureView):
            found.append((declaration, view))
        for feature in projection.features:
            if feature.name in of_targets:
                arrays[feature.name] = of_targets[feature.name]
            elif feature.dtype.to_value_type().name in _NUMBERS:
                scalars[feature.name] = declaration.features.get(feature.name) if declaration else None
    if len(found) != 1 or not arrays:
        has = "several views" if len(found) > 1 else "no features of the steps ahead of a view"
        raise BadInputError(
            f"Feature service {service.name} has {has if found else 'no view'} with a horizon.",
            hint="Train on one with features of the steps ahead, such as day_ahead; declare it by "
            "declared_view(horizon=…), see docs/declared-features.md.",
        )
    both = scalars | arrays
    ((declaration, view),) = found
    source = view.batch_source
    assert source is not None  # noqa: S101  # of a declared view
    return IssueFeatures(
        service,
        declaration,
        Recipe(
            Inputs(
                tuple(scalars),
                tuple(arrays),
                in_unit=frozenset(name for name, each in both.items() if _is_in_unit(each)),
                usual=frozenset(name for name, each in both.items() if _is_usual(each)),
            ),
            tuple(levels),
            next((name for name, each in arrays.items() if each == SunPosition("elevation")), None),
            wind=next((name for name, each in arrays.items() if isinstance(each, WindPower)), None),
        ),
        query=source.get_table_query_string(),
        versions=source.tags.get("versions", ""),
    )


def _is_in_unit(of: Expression | None) -> bool:
    """Whether a feature doubles where all readings do."""
    if isinstance(of, Difference):
        return all(_is_in_unit(each) for each in (of.left, of.right) if isinstance(each, Expression))
    leaves = list(of.leaves()) if of is not None else []
    return (
        len(leaves) == 1
        and leaves[0] is of
        and leaves[0].column == READING
        and getattr(of, "function", "") != "count"
    )


def _is_usual(of: Expression | None) -> bool:
    is_mean = isinstance(of, Lag) or (
        isinstance(of, SameHour | Window) and of.function in {"mean", "first", "last"}
    )
    return is_mean and _is_in_unit(of)


def read_issues(
    store: FeatureStore,
    features: IssueFeatures,
    tenant: str,
    assets: Sequence[str],
    issues: Sequence[datetime],
    *,
    leads: int | None = None,
) -> IssueRows:
    """Features of issues of assets as known at issue, from Feast's history; actual values are not read.

    Rows are as known at the time the store is open at, see `open_store`; with `leads`, the first ones alone.
    """
    each = max(_BATCH // max(len(assets), 1), 1)
    inputs, n = features.recipe.inputs, len(issues) * len(assets)
    leads = leads or features.declaration.leads
    found_assets: list[Strings] = []
    issued_at: list[Instants] = []
    # a year of quarter hours takes a gigabyte, which is there once
    scalars = {name: np.empty(n) for name in inputs.scalars}
    arrays = {name: np.empty((n, leads)) for name in inputs.arrays}
    at = 0
    for first in range(0, len(issues), each):
        part = _read(store, features, tenant, assets, issues[first : first + each])
        rows = slice(at, at := at + len(part))
        found_assets.append(part.assets)
        issued_at.append(part.issued_at)
        for name, values in scalars.items():
            values[rows] = part.scalars[name]
        for name, wide in arrays.items():
            wide[rows] = part.arrays[name][:, :leads]
    return IssueRows(
        tenant,
        np.concatenate(found_assets),
        np.concatenate(issued_at),
        features.declaration.step,
        scalars,
        arrays,
    )


def _read(
    store: FeatureStore,
    features: IssueFeatures,
    tenant: str,
    assets: Sequence[str],
    issues: Sequence[datetime],
) -> IssueRows:
    entities = pd.DataFrame(
        {
            "tenant_id": tenant,
            "asset_id": np.tile(np.array(assets, object), len(issues)),
            "event_timestamp": pd.to_datetime(np.repeat(instants(issues), len(assets)), utc=True),
        }
    )
    table = store.get_historical_features(entity_df=entities, features=features.service).to_arrow()
    times = table["event_timestamp"].cast(pa.timestamp("us", "UTC")).to_numpy()
    inputs, leads = features.recipe.inputs, features.declaration.leads
    return IssueRows(
        tenant,
        np.array(table["asset_id"].to_pylist(), str),
        times.astype("datetime64[us]"),
        features.declaration.step,
        {name: _numbers(table[name]) for name in inputs.scalars},
        {name: matrix(table[name], leads) for name in inputs.arrays},
    )


def _numbers(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


_ASSETS: Final = """
SELECT asset_id, available_after,
    capacity * coalesce(unit_factor, 1) / CASE WHEN is_amount THEN interval_seconds / 3600.0 ELSE 1 END
FROM assets WHERE tenant_id = %(tenant)s AND asset_id = ANY(%(assets)s)
"""
# Of assets whose readings say when they arrived: a step is known when the last of its readings is.
_ARRIVED: Final = """
SELECT asset_id, start AS event_timestamp,
    extract(epoch FROM greatest(known - start - %(step)s, '0'))::float8 / 3600 AS value
FROM (
    SELECT readings.asset_id, time_bucket(%(step)s, readings."timestamp") AS start,
        max(coalesce(
            readings.available_at,
            time_bucket(%(step)s, readings."timestamp") + %(step)s + coalesce(assets.available_after, '0')
        )) AS known
    FROM asset_spans AS spans
    JOIN timeseries_data AS readings
        ON readings.tenant_id = spans.tenant_id AND readings.asset_id = spans.asset_id
    LEFT JOIN assets ON assets.tenant_id = spans.tenant_id AND assets.asset_id = spans.asset_id
    WHERE spans.tenant_id = %(tenant)s AND spans.asset_id = ANY(%(assets)s)
        AND spans.longest_delay IS NOT NULL
        AND readings.in_features AND readings."timestamp" >= %(start)s AND readings."timestamp" < %(end)s
    GROUP BY readings.asset_id, time_bucket(%(step)s, readings."timestamp")
) AS steps
"""
# The value of a step is in the row which begins when it ends.
_STEPS: Final = f"""
SELECT asset_id, event_timestamp, {VALUE_OF_STEP} AS value FROM ({{}}) AS rows
WHERE tenant_id = %(tenant)s AND asset_id = ANY(%(assets)s)
    AND event_timestamp > %(start)s AND event_timestamp <= %(end)s AND {VALUE_OF_STEP} IS NOT NULL
"""  # noqa: S608  # constants
_KNOWN_STEPS: Final = f"""{_STEPS}
    AND created_timestamp <= %(known_at)s AND (superseded_at IS NULL OR superseded_at > %(known_at)s)
"""


def read_meters(
    store: FeatureStore,
    features: IssueFeatures,
    tenant: str,
    assets: Sequence[str],
    span: tuple[datetime, datetime],
) -> Meters:
    """The assets, and the values of their steps from five weeks before a span to its end.

    Raises:
        BadInputError: there are no values.
    """
    start, end = span[0] - _BEFORE, span[1]
    step = features.declaration.step
    with connect() as connection:
        rows = connection.execute(_ASSETS, {"tenant": tenant, "assets": list(assets)}).fetchall()
    if step == HOUR:
        values = _hour_values(store, tenant, assets, start, end)
    else:
        values = view_values(store, features, tenant, assets, (start, end))
    if values is None:
        raise BadInputError(
            f"There are no values of {', '.join(assets)} (tenant {tenant})"
            f" from {start:%Y-%m-%d} to {end:%Y-%m-%d}.",
            hint="Choose another --until or more --weeks.",
        )
    return Meters(
        values,
        {asset: available_after or timedelta(0) for asset, available_after, _ in rows},
        {asset: float(capacity) for asset, _, capacity in rows if capacity is not None},
        _arrivals(store, values, {"tenant": tenant, "assets": list(assets), "start": start, "end": end}),
    )


def _arrivals(store: FeatureStore, values: StepValues, span: dict[str, Any]) -> StepValues | None:
    """As of `Meters`."""
    found = _values(store, sql.SQL(_ARRIVED), span | {"step": values.step}, values.step, timedelta(0))
    if found is None:
        return None
    starts = values.start + np.arange(values.values.shape[1]) * np.timedelta64(values.step)  # noqa: PD011
    hours = found.at(values.assets, np.broadcast_to(starts, values.values.shape))  # noqa: PD011
    return replace(values, values=hours)


def _hour_values(
    store: FeatureStore, tenant: str, assets: Sequence[str], start: datetime, end: datetime
) -> StepValues | None:
    known_at = store.config.offline_store.known_at
    query = sql.SQL(HOURS if known_at is None else KNOWN_HOURS)
    values = {"tenant": tenant, "assets": list(assets), "start": start, "end": end, "known_at": known_at}
    return _values(store, query, values, HOUR, timedelta(0))


def view_values(
    store: FeatureStore,
    features: IssueFeatures,
    tenant: str,
    assets: Sequence[str],
    span: tuple[datetime, datetime],
) -> StepValues | None:
    """Values of the steps in a span, from the rows of the view that are stored; None: there are none."""
    known_at = store.config.offline_store.known_at
    query, source = (_STEPS, features.query) if known_at is None else (_KNOWN_STEPS, features.versions)
    values = {
        "tenant": tenant,
        "assets": list(assets),
        "start": span[0],
        "end": span[1],
        "known_at": known_at,
    }
    step = features.declaration.step
    # the source is what `feast apply` has registered
    return _values(store, sql.SQL(query).format(sql.SQL(source)), values, step, step)


def _values(
    store: FeatureStore,
    query: sql.SQL | sql.Composed,
    values: dict[str, Any],
    step: timedelta,
    behind: timedelta,
) -> StepValues | None:
    """Values of steps, which begin so long before the times of the rows; in columns, as they are millions."""
    with connect() as connection:
        text = psycopg.ClientCursor(connection).mogrify(query, values)
    with session.connect(store.config.offline_store) as reader:
        table = session.fetch(reader, text)
    if not table.num_rows:
        return None
    assets = table["asset_id"].combine_chunks().dictionary_encode()
    times = table["event_timestamp"].cast(pa.timestamp("us", "UTC")).to_numpy().astype("datetime64[us]")
    return StepValues.of(
        np.array(assets.dictionary.to_pylist(), str),
        assets.indices.to_numpy(),
        times - np.timedelta64(behind),
        table["value"].to_numpy(),
        step,
    )


def with_actual(rows: IssueRows, meters: Meters) -> IssueRows:
    """The rows with what came of them."""
    actual = meters.values.at(rows.assets, rows.starts)  # noqa: PD011  # no pandas
    return replace(rows, actual=actual, actual_known=meters.known_at(rows))
