"""Explanations as the REST API answers them, from SHAP contributions, and rows to explain models by."""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import numpy as np
import pyarrow as pa
from pydantic import SecretStr

from ai_hub.db.tenant_scope import service_dsn
from ai_hub.errors import ConflictError, ServiceDownError
from ai_hub.exports.export import Request
from ai_hub.features.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ai_hub.exports.reading import Interrupt
    from ai_hub.forecasting.explanation import ExplainedStep
    from ai_hub.forecasting.log import Row, Run
    from ai_hub.forecasting.models.loading import Contributions
    from ai_hub.registry import ModelVersion
    from ai_hub.settings import Settings

METHOD: Final = "shap"
GLOBAL_METHOD: Final = "shap_global"
_TOP: Final = 3
_SEED: Final = 20
#: Assets whose rows are read; of more, some are drawn.
_MOST_ASSETS: Final = 50
_WEEK_H: Final = 168
_HOUR: Final = timedelta(hours=1)
#: Seconds that reading them may take.
_READ_S: Final = 20.0


def explanation(
    version: ModelVersion,
    columns: Sequence[str],
    row: Mapping[str, Any],
    found: Contributions,
    *,
    base_name: str = "the mean",
    forecast: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The contributions to one prediction, as a document; `forecast`: which step of which one it is."""
    values, base, prediction = found.values[0], float(found.base[0]), float(found.prediction[0])
    order = np.argsort(-np.abs(values), kind="stable")
    names = [columns[index] for index in order]
    contributions = [float(values[index]) for index in order]
    given = [row.get(name) for name in names]
    sums = base + np.cumsum(contributions)
    now, label = datetime.now(UTC), _label(version)
    return {
        "explanation_id": uuid4(),
        "tenant_id": version.tenant,
        "model_name": version.model,
        "model_version": label,
        "feature_importances": [
            {
                "feature_name": name,
                "importance": abs(contribution),
                "value": value,
                "contribution": contribution,
                "rank": rank,
            }
            for rank, (name, value, contribution) in enumerate(
                zip(names, given, contributions, strict=True), start=1
            )
        ],
        "metadata": {
            "explained_at": now,
            "model_name": version.model,
            "model_version": label,
            "explanation_method": METHOD,
            "base_value": base,
            "prediction_value": prediction,
            "samples_used": 1,
        },
        "waterfall_data": [
            {"feature_name": name, "contribution": contribution, "cumulative_value": float(total)}
            for name, contribution, total in zip(names, contributions, sums, strict=True)
        ],
        "force_data": [
            {
                "feature_name": name,
                "feature_value": value,
                "shap_value": contribution,
                "is_positive": contribution > 0,
            }
            for name, value, contribution in zip(names, given, contributions, strict=True)
        ],
        "summary": {
            "top_3_features": names[:_TOP],
            "total_contribution": float(np.abs(values).sum()),
            "explanation": f"The prediction of {prediction:.4g} is {prediction - base:+.4g} from "
            f"{base_name} of {base:.4g}; {names[0]} adds most, {contributions[0]:+.4g}.",
        },
        "forecast": forecast,
    }


def explain_forecast(*arguments: Any, **options: Any) -> ExplainedStep:
    """See `explanation.explain_logged`; for a process beside the service's."""
    from ai_hub.forecasting.explanation import explain_logged  # noqa: PLC0415  # takes seconds

    return explain_logged(*arguments, **options)


def explained_step(run: Run, row: Row, quantile: str | None) -> dict[str, Any]:
    """The step of a forecast that is explained, as a document."""
    quantiles = {"p10": row.q10, "p50": row.q50, "p90": row.q90}
    return {
        "forecast_id": run.run_id,
        "asset_id": row.asset_id,
        "target_time": row.target_time,
        "lead_hours": (row.target_time - run.issued_at) / _HOUR,
        "explained": quantile or "point_forecast",
        "unit": run.unit,
        "point_forecast": row.value,
        "quantiles": quantiles if any(each is not None for each in quantiles.values()) else None,
    }


def global_explanation(version: ModelVersion, columns: Sequence[str], found: Contributions) -> dict[str, Any]:
    """The mean contributions over predictions, as a document."""
    sizes, means = np.abs(found.values).mean(axis=0), found.values.mean(axis=0)
    order = np.argsort(-sizes, kind="stable")
    return {
        "explanation_id": uuid4(),
        "tenant_id": version.tenant,
        "model_name": version.model,
        "model_version": _label(version),
        "global_importances": [
            {
                "feature_name": columns[index],
                "mean_abs_shap": float(sizes[index]),
                "mean_shap": float(means[index]),
                "importance_rank": rank,
            }
            for rank, index in enumerate(order, start=1)
        ],
        "samples_analyzed": len(found.values),
        "generated_at": datetime.now(UTC),
    }


def _label(version: ModelVersion) -> str:
    return version.semantic_version or str(version.version)


def sample_rows(
    settings: Settings, tenant: str, service: str, assets: Sequence[str], count: int
) -> list[dict[str, Any]]:
    """Up to `count` feature rows of the assets, drawn from the last week, or from longer if it has fewer.

    They are read with the service's login, inside the tenant scope.

    Raises:
        NotFoundError: there is no such feature service.
        BadInputError: its rows are not those of assets.
        ConflictError: there are no rows.
        ServiceDownError: the database does not answer in time.
    """
    from ai_hub.exports.reading import open_reader, plan_of  # noqa: PLC0415  # with its driver, seldom needed

    draws = np.random.default_rng(_SEED)
    chosen = sorted(assets)
    if len(chosen) > _MOST_ASSETS:
        chosen = sorted(map(str, draws.choice(chosen, _MOST_ASSETS, replace=False)))
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + _HOUR
    start = end - max(_WEEK_H, math.ceil(count / len(chosen))) * _HOUR
    own = settings.model_copy(update={"timescale_dsn": SecretStr(service_dsn(settings))})
    store = open_store(own)
    plan = plan_of(store, service, (start, end))
    request = Request(tenant, service, start, end, tuple(chosen))
    with (
        _interrupted_after(_READ_S) as interrupt,
        open_reader(store.config, plan, request, interrupt, by_month=False, shared_backend=True) as reader,
    ):
        table = pa.concat_tables([reader.read(chunk) for chunk in reader.chunks])
    if not len(table):
        raise ConflictError(
            f"The assets of the model have no rows of {service} since {start:%Y-%m-%d %H:%M} UTC.",
            hint="Bring readings in with `ai-hub ingest readings`, then `ai-hub refresh`.",
        )
    kept = np.sort(draws.choice(len(table), min(count, len(table)), replace=False))
    rows: list[dict[str, Any]] = table.select(list(plan.features)).take(pa.array(kept)).to_pylist()
    return rows


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[Interrupt]:
    """Ends what is read in the block if it takes longer.

    Raises:
        ServiceDownError: it did, or the database does not answer.
    """
    from adbc_driver_manager import dbapi  # noqa: PLC0415  # as above

    from ai_hub.exports.reading import Interrupt  # noqa: PLC0415  # as above

    interrupt = Interrupt()
    timer = threading.Timer(seconds, interrupt.request)
    timer.start()
    try:
        yield interrupt
    except (dbapi.Error, InterruptedError) as error:
        raise ServiceDownError("TimescaleDB", "the feature rows", str(error).partition("\n")[0]) from error
    finally:
        timer.cancel()
