"""Issues from Feast's history, and the values of the meters they are about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureService, FeatureView
from psycopg import sql

from ai_hub.db.connection import connect
from ai_hub.errors import BadInputError
from ai_hub.forecasting import TARGET
from ai_hub.forecasting.backtest import Meters
from ai_hub.forecasting.dataset import read_hours
from ai_hub.forecasting.day_ahead import Recipe
from ai_hub.forecasting.issues import HOUR, WEEK, Floats, Inputs, IssueRows, StepValues, instants
from feast_plugins.offline.issues import matrix
from feast_plugins.windows.declarations import VALUE_OF_STEP, Declaration, declaration_of
from feast_plugins.windows.features import READING, Difference, Expression, Lag, SameHour, SunPosition, Window

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
    parts = [
        _read(store, features, tenant, assets, issues[first : first + each])
        for first in range(0, len(issues), each)
    ]
    inputs = features.recipe.inputs
    return IssueRows(
        tenant,
        np.concatenate([part.assets for part in parts]),
        np.concatenate([part.issued_at for part in parts]),
        features.declaration.step,
        {name: np.concatenate([part.scalars[name] for part in parts]) for name in inputs.scalars},
        {name: np.concatenate([part.arrays[name][:, :leads] for part in parts]) for name in inputs.arrays},
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
# The value of a step is in the row which begins when it ends.
_STEPS: Final = f"""
SELECT asset_id, event_timestamp, {VALUE_OF_STEP} FROM ({{}}) AS rows
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
    step, known_at = features.declaration.step, store.config.offline_store.known_at
    with connect() as connection:
        rows = connection.execute(_ASSETS, {"tenant": tenant, "assets": list(assets)}).fetchall()
    if step == HOUR:
        values = _hour_values(tenant, assets, start, end, known_at)
    else:
        values = view_values(features, tenant, assets, (start, end), known_at)
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
    )


def _hour_values(
    tenant: str, assets: Sequence[str], start: datetime, end: datetime, known_at: datetime | None
) -> StepValues | None:
    hours = read_hours(tenant, assets, start, end, known_at)
    if hours.empty:
        return None
    starts = hours["event_timestamp"].dt.tz_localize(None).to_numpy("datetime64[us]")
    return StepValues.of(hours["asset_id"].to_numpy(str), starts, hours[TARGET].to_numpy(float), HOUR)


def view_values(
    features: IssueFeatures,
    tenant: str,
    assets: Sequence[str],
    span: tuple[datetime, datetime],
    known_at: datetime | None = None,
) -> StepValues | None:
    """Values of the steps in a span, from the rows of the view that are stored; None: there are none."""
    query, source = (_STEPS, features.query) if known_at is None else (_KNOWN_STEPS, features.versions)
    values = {
        "tenant": tenant,
        "assets": list(assets),
        "start": span[0],
        "end": span[1],
        "known_at": known_at,
    }
    with connect() as connection:
        # the source is what `feast apply` has registered
        rows = connection.execute(sql.SQL(query).format(sql.SQL(source)), values).fetchall()
    if not rows:
        return None
    names, times, numbers = zip(*rows, strict=True)
    step = features.declaration.step
    return StepValues.of(
        np.array(names, str), instants(at - step for at in times), np.array(numbers, float), step
    )


def with_actual(rows: IssueRows, meters: Meters) -> IssueRows:
    """The rows with what came of them."""
    return replace(rows, actual=meters.values.at(rows.assets, rows.starts))  # noqa: PD011  # no pandas
