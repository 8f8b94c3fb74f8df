"""'As known at': a set for an earlier time is the one that was built then, whatever has changed since."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from ai_hub.db.connection import connect
from ai_hub.db.refresh import refresh
from ai_hub.errors import NotFoundError
from ai_hub.features.store import get_service, open_store
from ai_hub.forecasting import dataset
from ai_hub.forecasting.dataset import Window, end_of_data
from ai_hub.forecasting.train import plan, train

if TYPE_CHECKING:
    from support.energy import Energy

HOUR = timedelta(hours=1)
#: Long enough for rows that `ai_features` no longer keeps.
DAYS = 100


def write(tenant: str, asset: str, readings: dict[datetime, float]) -> None:
    with connect() as connection:
        connection.execute(
            'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
            " SELECT time, %s, %s, value FROM unnest(%s::timestamptz[], %s::float8[]) AS r (time, value)"
            ' ON CONFLICT (tenant_id, asset_id, "timestamp")'
            " DO UPDATE SET value = excluded.value, ingested_at = now()",
            [tenant, asset, list(readings), list(readings.values())],
        )


def register(tenant: str, asset: str) -> None:
    with connect() as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, kind, unit, timezone, weather_asset_id)"
            " VALUES (%s, %s, 'electricity', 'kW', 'Europe/Berlin', 'station')",
            [tenant, asset],
        )


def write_weather(tenant: str, temperatures: dict[datetime, float]) -> None:
    with connect() as connection:
        connection.execute(
            'INSERT INTO weather_features ("timestamp", tenant_id, asset_id, available_at, temperature)'
            " SELECT time, %s, 'station', time, value"
            " FROM unnest(%s::timestamptz[], %s::float8[]) AS r (time, value)"
            ' ON CONFLICT (tenant_id, asset_id, "timestamp", available_at)'
            " DO UPDATE SET temperature = excluded.temperature, ingested_at = now()",
            [tenant, list(temperatures), list(temperatures.values())],
        )


def build(tenant: str, window: Window, known_at: datetime | None = None) -> pd.DataFrame:
    store = open_store(known_at=known_at)
    assets = dataset.meters(tenant, known_at=known_at)["electricity"]
    found = dataset.build(store, get_service(store, "forecast_advanced"), tenant, assets, window)
    return found.rows


def test_build__known_at__equals_the_set_of_then_after_everything_has_changed(
    energy: Energy, tenant: str
) -> None:
    del energy  # the repository is applied
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    first = now - timedelta(days=DAYS)
    random = np.random.default_rng(8)
    hours = [first + step * HOUR for step in range(DAYS * 24)]
    gappy = [at for at, kept in zip(hours, random.random(len(hours)) < 0.9, strict=True) if kept]
    for asset, times in (("steady", hours), ("gappy", gappy)):
        register(tenant, asset)
        write(tenant, asset, {at: float(random.normal(50, 9)) for at in times})
    write_weather(tenant, {at: float(random.normal(9, 4)) for at in hours[::3]})
    refresh()
    then = datetime.now(UTC)
    end = end_of_data(tenant, ["steady", "gappy"])
    window = Window.ending(end, weeks=15, holdout_weeks=1)

    built = build(tenant, window)
    assert len(built) > 1.8 * len(hours)
    assert built["event_timestamp"].min() < pd.Timestamp(now) - pd.Timedelta(days=91)
    assert built["temperature"].notna().mean() > 0.9
    pd.testing.assert_frame_equal(build(tenant, window, then), built, check_exact=True)

    # late and corrected readings, old and new
    late = [at for at in hours if at not in set(gappy)]
    write(tenant, "gappy", dict.fromkeys((*late[:4], *late[-4:]), 77.0))
    write(tenant, "steady", {hours[step] + HOUR / 2: 12.0 for step in (50, 900, -30, -2)})
    write(tenant, "steady", {hours[step]: 13.0 for step in (51, 901, -31, -1)})
    # readings deleted from the middle, the beginning and the end
    gone = [*hours[:30], *hours[700:705], *hours[-6:]]
    with connect() as connection:
        connection.execute(
            "DELETE FROM timeseries_data WHERE tenant_id = %s AND asset_id = 'gappy'"
            ' AND "timestamp" = ANY (%s)',
            [tenant, gone],
        )
    # new and corrected weather, and a meter nobody knew of, with readings of long ago
    write_weather(tenant, dict.fromkeys((hours[40], hours[1201], hours[-20], hours[-7]), 30.0))
    write_weather(tenant, dict.fromkeys((hours[45], hours[1200], hours[-18]), 31.0))
    register(tenant, "new")
    write(tenant, "new", dict.fromkeys(hours[::2], 5.0))
    refresh()

    changed = build(tenant, window)
    assert set(changed["asset_id"]) == {"steady", "gappy", "new"}
    with pytest.raises(AssertionError):
        pd.testing.assert_frame_equal(changed[changed["asset_id"] != "new"].reset_index(drop=True), built)
    pd.testing.assert_frame_equal(build(tenant, window, then), built, check_exact=True)
    assert end_of_data(tenant, ["steady", "gappy"], then) == end

    # what is known later counts later
    pd.testing.assert_frame_equal(build(tenant, window, datetime.now(UTC)), changed, check_exact=True)
    with pytest.raises(NotFoundError, match="known at 2000-01-01 00:00 UTC"):
        end_of_data(tenant, ["steady"], datetime(2000, 1, 1, tzinfo=UTC))


def test_train__known_at__gives_the_model_of_then_and_says_so(energy: Energy, tenant: str) -> None:
    del energy
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    register(tenant, "meter")
    random = np.random.default_rng(9)
    hours = [now - (step + 1) * HOUR for step in range(21 * 24)]
    write(tenant, "meter", {at: float(at.hour + random.normal(0, 1)) for at in hours})
    refresh()
    then = datetime.now(UTC)
    (wanted,) = plan(tenant, "forecast_basic")
    wanted = replace(wanted, weeks=3, holdout_weeks=1)
    before = train(open_store(), wanted, lambda _: None)
    assert before.card.known_at is None

    register(tenant, "another")
    write(tenant, "another", dict.fromkeys(hours, 1.0))
    write(tenant, "meter", dict.fromkeys(hours[300:440], 500.0))
    refresh()
    (again,) = plan(tenant, "forecast_basic", known_at=then)
    assert again.assets == ("meter",)
    store = open_store(known_at=then)
    known = train(store, replace(again, weeks=3, holdout_weeks=1), lambda _: None)
    assert known.booster.model_to_string() == before.booster.model_to_string()
    assert known.evaluation.overall == before.evaluation.overall
    assert known.card == replace(before.card, known_at=then.isoformat())
    after = train(open_store(), wanted, lambda _: None)
    assert after.booster.model_to_string() != before.booster.model_to_string()
