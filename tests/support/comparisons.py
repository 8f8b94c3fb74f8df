"""What a comparison of version 2 of a model with version 1 in Production may have found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlflow_plugins.gates.comparison import Record, Shadow, StandIn

AT = datetime(2026, 11, 30, tzinfo=UTC)


def shadow(**changed: int) -> Shadow:
    usual = {"days": 14, "issues": 14, "shadowed": 13, "replayed": 13, "differing": 0, "changed": 1}
    return Shadow(**{**usual, **changed})


def stand_in(version: int) -> StandIn:
    return StandIn(
        version=version, semantic_version=None, is_registered=False, trained_from=AT, trained_until=AT
    )


def record(**changed: Any) -> Record:
    usual: dict[str, Any] = {
        "tenant": "city-works",
        "model": "demand",
        "challenger": stand_in(2),
        "production": stand_in(1),
        "looked_at": AT,
        "planned_at": AT,
        "start": AT,
        "end": AT,
        "weeks": 26,
        "targets": 8736,
        "assets": 2,
        "unit": "kW",
        "challenger_mae": 0.475,
        "production_mae": 0.5,
        "gain_percent": 5.0,
        "interval_percent": (2.5, 7.5),
        "interval_confidence": 0.98,
        "statistic": 4.9,
        "p": 0.00002,
        "groups": {"lead 0-6 h": 6.0, "meter b": -4.0},
    }
    return Record(**{**usual, **changed})
