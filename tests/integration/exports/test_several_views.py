"""An export of a feature service whose features come from two stored views."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import pytest
from feast import FeatureService

from ai_hub.features.store import get_service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.energy import Energy
    from support.export_lab import ExportLab

SERVICE = "load_and_range"


@pytest.fixture
def service(energy: Energy) -> Iterator[FeatureService]:
    store = energy.store
    ours = FeatureService(
        name=SERVICE,
        features=[
            store.get_feature_view("forecast_advanced_features")[["lag_168h", "temperature"]],
            store.get_on_demand_feature_view("anomaly_detection_calendar")[["hour_of_day"]],
            store.get_feature_view("anomaly_detection_features")[["historical_max_24h", "lag_1h"]],
        ],
    )
    store.registry.apply_feature_service(ours, store.project)
    try:
        yield get_service(store, SERVICE)
    finally:
        store.registry.delete_feature_service(SERVICE, store.project)


def test_values__are_those_of_feasts_history(lab: ExportLab, service: FeatureService) -> None:
    request = lab.request(hours=40, feature_set=SERVICE)
    found = lab.table(lab.export(request)).to_pandas()
    features = ["lag_168h", "temperature", "hour_of_day", "historical_max_24h", "lag_1h"]
    assert [name for name in found.columns if name in features] == features
    assert set(found["asset_id"]) == {"1", "11", "fresh"}
    keys = ["tenant_id", "asset_id", "event_timestamp"]
    asked = found[keys].sample(frac=1, random_state=7)
    history = lab.energy.store.get_historical_features(asked, service).to_df()
    history = history[[*keys, *features]].sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(found[[*keys, *features]], history, check_dtype=False, check_exact=True)
    assert found["historical_max_24h"].notna().any()
    assert found["lag_168h"].notna().any()
