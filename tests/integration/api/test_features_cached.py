"""What on-demand views gave is kept: nobody can tell by the answers, whatever changes."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from oracles.features import HOUR, floor_hour
from support.feature_reading import PATIENT, Clock, ask, run
from support.feature_tables import register, write

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.features.online import query
from feast_plugins.online import reading

if TYPE_CHECKING:
    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

NOW = floor_hour(datetime.now(UTC)) + timedelta(minutes=10)
NAMES = ("m0", "m1", "m2")


@pytest.fixture(scope="module")
def shore(energy: Energy) -> str:
    """A tenant with three meters, each with a reading of half an hour ago."""
    del energy  # the feature repository is applied
    tenant = f"shore-{secrets.token_hex(4)}"
    with connect() as connection:
        for number, name in enumerate(NAMES):
            register(connection, tenant, name, "Asia/Kolkata")
            write(connection, tenant, name, {floor_hour(NOW) - HOUR / 2: float(number)})
    refresh()
    return tenant


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A mark for each time that on-demand views were computed."""
    marks: list[str] = []
    transform = reading.transform

    def marked(*arguments: Any) -> Any:
        marks.append("computed")
        return transform(*arguments)

    monkeypatch.setattr(reading, "transform", marked)
    return marks


def corrected(tenant: str, lag: float, local_time: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "tenant_id": [tenant],
            "asset_id": ["m1"],
            "event_timestamp": [floor_hour(NOW)],
            "created_timestamp": [NOW],
            "historical_avg_24h": [-1.0],
            "lag_1h": [lag],
            "lag_24h": [-3.0],
            "local_time": [local_time],
        }
    )


def test_equal_inputs__on_demand_views_are_computed_once__a_changed_row_anew(
    shore: str, energy: Energy, made: list[str]
) -> None:
    async def work(reader: FeatureReader) -> None:
        computed = await ask(reader, shore, *NAMES)
        first = await ask(reader, shore, *NAMES)
        again = await ask(reader, shore, *NAMES)
        assert len(made) == 1, "one hour of one time zone"
        for one, other in zip(first, again, strict=True):
            assert one == other
        for one, other in zip(computed, first, strict=True):
            assert (one["features"], one["status"]) == (other["features"], other["status"])
        assert (await ask(reader, shore, "m1"))[0] == first[1]
        (few,) = await ask(reader, shore, "m1", lookback_hours=1)
        assert few["status"]["lag_24h"] == "OUTSIDE_LOOKBACK"
        assert len(made) == 1
        for lag, hour in ((-2.0, 1), (-2.0, 2), (7.5, 2)):
            frame = corrected(shore, lag, hour * 3600)
            energy.store.write_to_online_store("forecast_basic_features", frame)
            changed = await ask(reader, shore, *NAMES)
            assert changed[1]["features"]["lag_1h"] == lag
            assert changed[1]["features"]["hour_of_day"] == hour
            assert [changed[0], changed[2]] == [first[0], first[2]]
        assert len(made) == 3

    run(work, Clock(NOW), options=PATIENT)


def test_time_passes__same_row__judged_by_its_age(shore: str) -> None:
    """The row stays, the answer does not: too old for its view, it is given no more."""
    clock = Clock(NOW)

    async def work(reader: FeatureReader) -> None:
        await ask(reader, shore, "m2")
        (fresh,) = await ask(reader, shore, "m2")
        assert fresh["status"]["lag_1h"] == "PRESENT"
        clock.time = NOW + 4 * HOUR
        await ask(reader, shore, "m2")  # looked for in vain; marked
        (old,) = await ask(reader, shore, "m2")
        assert (old["features"]["lag_1h"], old["status"]["lag_1h"]) == (None, "OUTSIDE_MAX_AGE")
        assert old["status"]["hour_of_day"] == "OUTSIDE_MAX_AGE"
        clock.time = NOW
        (again,) = await ask(reader, shore, "m2")
        assert again["features"] == fresh["features"]

    run(work, clock)


def test_view_that_does_not_say_so__made_each_time(
    shore: str, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "is_deterministic", lambda _: False)

    async def work(reader: FeatureReader) -> None:
        for _ in range(3):
            await ask(reader, shore, "m0")
        assert len(made) == 3

    run(work, Clock(NOW))
