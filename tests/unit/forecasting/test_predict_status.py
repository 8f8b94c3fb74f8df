from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ai_hub.features.store import OnlineRow
from ai_hub.forecasting.card import ModelCard
from ai_hub.forecasting.predict import _status

HOUR = datetime(2026, 3, 1, 14, tzinfo=UTC)
TTL = timedelta(hours=3)
CARD = ModelCard("forecast_basic", ["lag_1h", "humidity"], ["humidity"], "electricity", ["a"], "kW")


def row(hour: datetime | None = HOUR, ttl: timedelta | None = TTL, **values: float | None) -> OnlineRow:
    return OnlineRow("a", hour, ttl, {"lag_1h": 1.0, "humidity": 50.0} | values)


@pytest.mark.parametrize(
    ("online", "now", "status"),
    [
        (row(), HOUR, "ok"),
        (row(), HOUR + timedelta(minutes=59, seconds=59), "ok"),
        (row(), HOUR + timedelta(hours=1), "late"),
        (row(), HOUR + TTL, "late"),
        (row(), HOUR + TTL + timedelta(seconds=1), "stale"),
        (row(ttl=None), HOUR + timedelta(days=9), "late"),
        (row(humidity=None), HOUR, "ok"),
        (row(lag_1h=None), HOUR, "incomplete"),
        (row(hour=None, lag_1h=None, humidity=None), HOUR, "unknown"),
    ],
)
def test_status__names_what_keeps_a_forecast_from_being_made(
    online: OnlineRow, now: datetime, status: str
) -> None:
    assert _status(online, CARD, now) == status


def test_card__survives_the_metadata_of_a_model_and_foreign_models_have_none() -> None:
    assert ModelCard.from_metadata(CARD.as_metadata() | {"more": 1}) == CARD
    assert ModelCard.from_metadata({"feature_service": "forecast_basic"}) is None
    assert ModelCard.from_metadata(None) is None
