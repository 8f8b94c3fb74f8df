"""Offline and online values equal the oracle, for series with gaps, corrections and clock changes."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracles.features import Asset, floor_hour, same
from support.properties import examples

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.features.materialize import materialize
from ai_hub.features.newest import Scope
from ai_hub.features.store import feature_names, get_service

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast import FeatureService, FeatureStore
    from support.energy import Energy

    Anchor = Callable[[], datetime]
    Offsets = dict[timedelta, float]

# a failing example is small anyway, and shrinking it would refresh the database for minutes
PROPERTY = settings(
    max_examples=examples(4),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
SERVICES = ("forecast_basic", "forecast_advanced", "anomaly_detection")
#: Not in the oracle, and without weather here.
WEATHER = ("humidity", "solar_irradiance")
TTL = timedelta(hours=3)

# clocks go back in Berlin, go forward in New York, and the present
ANCHORS = st.sampled_from(
    [
        lambda: datetime(2025, 10, 25, 12, tzinfo=UTC),
        lambda: datetime(2026, 3, 7, 18, tzinfo=UTC),
        lambda: floor_hour(datetime.now(UTC)) - timedelta(hours=30),
        lambda: floor_hour(datetime.now(UTC)) - timedelta(hours=30),
    ]
)
OFFSETS = st.integers(0, 12 * 30 - 1).map(lambda step: timedelta(minutes=5 * step))
# a meter's resolution: the squares of 1e-175 are zero
VALUES = st.integers(-(10**6), 10**6).map(lambda thousandths: thousandths / 1000)
READINGS = st.dictionaries(OFFSETS, VALUES, min_size=1, max_size=25)
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York"])
#: Minutes after the start of the readings; hours, times between, and after the end.
TIMES = st.lists(
    st.integers(0, 60 * 60) | st.integers(0, 60).map(lambda hour: 60 * hour), min_size=4, max_size=12
)


def row_at(asset: Asset, at: datetime, now: datetime) -> dict[str, Any] | None:
    """The newest row at or before a time, within its time to live."""
    hours = [hour for hour in asset.hours(floor_hour(now)) if at - TTL <= hour <= at]
    return asset.row(max(hours)) if hours else None


def check(found: dict[str, Any], want: dict[str, Any] | None, names: list[str], scale: float) -> None:
    for name in names:
        got = None if pd.isna(found[name]) else float(found[name])
        expected = None if want is None or name in WEATHER else want[name]
        assert same(got, expected, scale), (name, got, expected, found)


def write(tenant: str, asset: str, readings: dict[datetime, float], *, zone: str, dsn: str) -> None:
    with connect(dsn) as connection:
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, timezone) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [tenant, asset, zone],
        )
        connection.execute(
            'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
            " SELECT time, %s, %s, value FROM unnest(%s::timestamptz[], %s::float8[]) AS r (time, value)"
            ' ON CONFLICT (tenant_id, asset_id, "timestamp")'
            " DO UPDATE SET value = excluded.value, ingested_at = now()",
            [tenant, asset, list(readings), list(readings.values())],
        )


@pytest.fixture
def store(energy: Energy) -> FeatureStore:
    return energy.store


def check_offline(
    store: FeatureStore, service: FeatureService, known: dict[tuple[str, str], Asset], times: list[datetime]
) -> None:
    now = datetime.now(UTC)
    asked = [(tenant, asset, at) for at in times for tenant, asset in known]
    entities = pd.DataFrame(asked, columns=["tenant_id", "asset_id", "event_timestamp"])
    found = store.get_historical_features(entities, service).to_df()
    assert len(found) == len(asked)
    for (tenant, asset, at), got in zip(asked, found.to_dict("records"), strict=True):
        oracle = known[tenant, asset]
        scale = max(map(abs, oracle.readings.values()))
        check(got, row_at(oracle, at, now), feature_names(service), scale)


def check_online(
    store: FeatureStore, service: FeatureService, known: dict[tuple[str, str], Asset], refreshed: datetime
) -> None:
    now = datetime.now(UTC)
    keys = [{"tenant_id": tenant, "asset_id": asset} for tenant, asset in known]
    answer = store.get_online_features(service, keys).to_dict()
    for place, oracle in enumerate(known.values()):
        got = {name: values[place] for name, values in answer.items()}
        scale = max(map(abs, oracle.readings.values()))
        check(got, row_at(oracle, now, refreshed), feature_names(service), scale)


@PROPERTY
@given(
    anchor=ANCHORS,
    zones=st.tuples(ZONES, ZONES),
    first=st.tuples(READINGS, READINGS, READINGS),
    late=st.tuples(READINGS, READINGS, READINGS),
    minutes=TIMES,
)
def test_values__after_refresh_and_materialize__equal_the_oracle(
    store: FeatureStore,
    database: str,
    anchor: Anchor,
    zones: tuple[str, str],
    first: tuple[Offsets, ...],
    late: tuple[Offsets, ...],
    minutes: list[int],
) -> None:
    start = anchor()
    tenant = f"t-{secrets.token_hex(5)}"
    # an equal name, and two that read the same put together
    names = [(tenant, "1"), (f"{tenant}1", "1"), (tenant, "11")]
    known = {name: Asset(zone) for name, zone in zip(names, (*zones, zones[0]), strict=True)}
    services = [get_service(store, name) for name in SERVICES]
    times = sorted(start + timedelta(minutes=minute) for minute in minutes)
    for step in (first, late):
        for (name, oracle), offsets in zip(known.items(), step, strict=True):
            readings = {start + offset: value for offset, value in offsets.items()}
            oracle.readings |= readings
            write(*name, readings, zone=oracle.zone, dsn=database)
        refreshed = datetime.now(UTC)
        refresh(dsn=database)
        ends = [floor_hour(max(oracle.readings)) + timedelta(hours=24) for oracle in known.values()]
        edges = [end + TTL for end in ends] + [end + TTL + timedelta(microseconds=1) for end in ends]
        materialize(store, Scope([name for name, _ in names]))
        for service in services:
            check_offline(store, service, known, [*times, *edges])
            check_online(store, service, known, refreshed)
