"""`train`: from a tenant's readings to a registered model, one for each kind of meter."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ai_hub.db.connection import connect
from ai_hub.errors import BadInputError
from ai_hub.features.checks import check_training_rows
from ai_hub.features.store import feature_references, get_service, stored_views
from ai_hub.features.validation import violation_lines
from ai_hub.forecasting import dataset
from ai_hub.forecasting.card import ModelCard
from ai_hub.forecasting.dataset import Window, end_of_data, split_by_time
from ai_hub.forecasting.evaluation import evaluate
from ai_hub.forecasting.fitting import fit
from ai_hub.forecasting.tracking import Logged, Trained, log
from ai_hub.forecasting.training_rows import FeatureRows
from ai_hub.ingest.findings import clock
from feast_plugins.windows.declarations import LOOKBACK_TAG, declaration_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from feast import FeatureService, FeatureStore


# Share of training hours without a feature from which a model is trusted to do without it. The first day of
# every meter lacks yesterday's value, which teaches nothing.
_LEARNED_GAPS = 0.05
#: Meters of one unit that an error names.
_NAMED = 5


@dataclass(frozen=True)
class TrainingPlan:
    """What to train: a tenant's meters of one kind, on a feature service, over some weeks."""

    tenant: str
    service: str
    kind: str
    assets: tuple[str, ...]
    model: str
    weeks: int = 56
    holdout_weeks: int = 4
    #: end of the window; None: the end of the data
    until: datetime | None = None


def plan(
    tenant: str,
    service: str,
    *,
    kind: str | None = None,
    assets: Sequence[str] = (),
    model: str | None = None,
    prefix: str = "demand-forecast",
    known_at: datetime | None = None,
) -> list[TrainingPlan]:
    """One plan for each kind of meter the tenant has (or that is asked for), or had at `known_at`.

    Raises:
        BadInputError: one model name for several kinds.
        NotFoundError: no such meters.
    """
    by_kind = dataset.meters(tenant, kind, assets, known_at)
    if model and len(by_kind) > 1:
        raise BadInputError(
            f"--model {model} names one model, but there are meters of {' and '.join(by_kind)}.",
            hint="Choose one with --kind, or leave --model out.",
        )
    return [
        TrainingPlan(tenant, service, of, tuple(chosen), model or f"{prefix}-{of}")
        for of, chosen in by_kind.items()
    ]


def train(store: FeatureStore, plan: TrainingPlan, on_step: Callable[[str], None]) -> Trained:
    """Build the training set, fit and evaluate; nothing is written but findings about its features.

    Rows are read as known at the time the store is opened for, see `open_store`.

    Raises:
        BadInputError: too little data, meters that measure different things, features of the steps ahead, or
            ones that break limits whose policy is to refuse.
        NotFoundError: no such feature service or no readings.
    """
    service = get_service(store, plan.service)
    if _looks_ahead(store, service):
        raise BadInputError(
            f"Feature service {plan.service} has features of the steps ahead; a next-hour model reads none.",
            hint="Give --horizon, such as --horizon 48h.",
        )
    unit = unit_of(plan)
    known_at = store.config.offline_store.known_at
    end = plan.until or end_of_data(plan.tenant, plan.assets, known_at)
    window = Window.ending(end, weeks=plan.weeks, holdout_weeks=plan.holdout_weeks)
    on_step("reading features and values")
    data = dataset.build(store, service, plan.tenant, plan.assets, window)
    source = source_of(store, service, plan.tenant, window.start, window.end)
    # findings are about rows as they are now
    checked = check_training_rows(service, data.rows, store_findings=known_at is None)
    if checked.refused:
        raise BadInputError(
            f"Features break their limits: {'; '.join(violation_lines(checked.refused))}.",
            hint="Correct the readings, or declare other limits (see docs/declared-features.md).",
        )
    split = split_by_time(data.rows, window)
    on_step(f"fitting LightGBM to {len(split.train) + len(split.validation):,} hours")
    fitted = fit(split, data.features)
    on_step("evaluating on held-out weeks")
    rows = data.rows[data.rows["event_timestamp"] < window.holdout]
    card = ModelCard(
        feature_service=plan.service,
        features=data.features,
        optional=[name for name in data.features if rows[name].isna().mean() >= _LEARNED_GAPS],
        kind=plan.kind,
        assets=sorted(plan.assets),
        unit=unit,
        known_at=known_at.isoformat() if known_at else None,
    )
    return Trained(
        name=plan.model,
        card=card,
        references=feature_references(service),
        window=window,
        source=source,
        split=split,
        booster=fitted.booster,
        rounds=fitted.rounds,
        evaluation=evaluate(fitted.booster, split, data.features, data.rows),
        without_features=data.without_features,
        warnings=violation_lines(checked.violations),
    )


def source_of(
    store: FeatureStore, service: FeatureService, tenant: str, start: datetime, end: datetime
) -> FeatureRows:
    """What rows of [start, end) that were read just now come from.

    They are known at the time the store is open at, else now: nothing that is recorded later is in them.
    """
    known_at = store.config.offline_store.known_at
    if known_at is None:
        with connect() as connection:
            known_at = clock(connection)
    views = [
        store.registry.get_any_feature_view(projection.name, store.project)
        for projection in service.feature_view_projections
    ]
    lookbacks = [int((field.tags or {}).get(LOOKBACK_TAG, 0)) for view in views for field in view.features]
    return FeatureRows(
        tenant=tenant,
        feature_service=service.name,
        tables=stored_views(store, service),
        start=start,
        end=end,
        readings_from=start - timedelta(hours=max(lookbacks)),
        known_at=known_at,
    )


def _looks_ahead(store: FeatureStore, service: FeatureService) -> bool:
    for projection in service.feature_view_projections:
        declaration = declaration_of(store.registry.get_any_feature_view(projection.name, store.project))
        if declaration and any(each.name in declaration.of_targets for each in projection.features):
            return True
    return False


def train_and_log(
    store: FeatureStore, plan: TrainingPlan, *, register: bool, on_step: Callable[[str], None]
) -> tuple[Trained, Logged]:
    """Train, then log and (if asked) register the model."""
    trained = train(store, plan, on_step)
    on_step("logging to MLflow")
    return trained, log(plan.tenant, trained, register=register)


def unit_of(plan: TrainingPlan) -> str | None:
    """Unit of the meters' hours, see `reading_scale` in the database; None: not said of any.

    Raises:
        BadInputError: the meters measure different things, which one model must not mix.
    """
    query = (
        "SELECT feature_unit, is_amount IS NULL, array_agg(asset_id ORDER BY asset_id) FROM assets"
        " WHERE tenant_id = %s AND asset_id = ANY(%s) GROUP BY 1, 2 ORDER BY 1, 2"
    )
    with connect() as connection:
        groups = connection.execute(query, [plan.tenant, list(plan.assets)]).fetchall()
    if len(groups) > 1:
        parts = [
            f"{', '.join(assets[:_NAMED])}{' and others' if len(assets) > _NAMED else ''}"
            f" in {unit or 'no known unit'}{', averaged as they are' if is_plain else ''}"
            for unit, is_plain, assets in groups
        ]
        raise BadInputError(
            f"The {plan.kind} meters of {plan.tenant} cannot be trained together: {'; '.join(parts)}.",
            hint="Say what they are with `ai-hub asset add ASSET --unit kWh`, or choose some with --asset.",
        )
    return groups[0][0] if groups else None
