"""The feature repository through the `feast` command and the SDK, on real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ai_hub.errors import NotFoundError
from ai_hub.features.store import feature_names, get_service

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from support.energy import Energy

SERVICES = {
    "forecast_basic": [
        *("hour_of_day", "day_of_week", "is_weekend"),
        *("historical_avg_24h", "lag_1h", "lag_24h"),
    ],
    "forecast_advanced": [
        *("hour_of_day", "day_of_week", "day_of_month", "month", "is_weekend"),
        *("historical_avg_24h", "historical_std_24h", "lag_1h", "lag_24h", "lag_168h"),
        *("temperature", "humidity", "solar_irradiance"),
    ],
    "anomaly_detection": [
        *("hour_of_day", "day_of_week"),
        *("historical_avg_24h", "historical_std_24h", "historical_min_24h", "historical_max_24h", "lag_1h"),
    ],
    "day_ahead": [
        *("issue_value", "issue_avg_24h", "issue_std_24h", "issue_min_24h", "issue_max_24h"),
        *(
            "same_hour_1d",
            "same_hour_2d",
            "same_hour_3d",
            "same_hour_7d",
            "same_hour_14d",
            "same_hour_std_14d",
        ),
        *("same_hour_1w", "same_hour_2w", "target_temperature"),
        *("same_hour_temperature_3d", "same_hour_temperature_7d", "same_hour_temperature_14d"),
        *("target_humidity", "target_solar_irradiance"),
        *("target_wind_speed", "target_wind_power"),
        *("target_hour_of_day", "target_day_of_week", "target_day_of_year", "target_holiday"),
        "target_sun_elevation",
    ],
}
LATENCY = {
    "forecast_basic": "< 50 ms",
    "forecast_advanced": "< 100 ms",
    "anomaly_detection": "< 50 ms",
    "day_ahead": "< 100 ms",
}


def test_apply__twice__warns_of_nothing_and_changes_nothing(
    energy: Energy, feast_apply: CompletedProcess[str]
) -> None:
    before = _registered(energy)
    for result in (feast_apply, energy.run("feast", "apply")):
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stderr == ""
    assert _registered(energy) == before


def test_services__are_the_four_with_their_features_and_tags(energy: Energy) -> None:
    services = {service.name: service for service in energy.store.list_feature_services()}
    assert {name: feature_names(service) for name, service in services.items()} == SERVICES
    for name, service in services.items():
        assert service.tags["latency"] == LATENCY[name]
        assert service.tags["description"]
        assert service.tags["use_cases"]


def test_feast_command__from_the_root_with_the_printed_settings__lists_the_services(energy: Energy) -> None:
    listed = energy.run("feast", "feature-services", "list")
    assert listed.returncode == 0, listed.stderr
    names = [line.split()[0] for line in listed.stdout.splitlines()[1:]]
    assert sorted(names) == sorted(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_get_service__known_and_unknown(energy: Energy, name: str) -> None:
    assert get_service(energy.store, name).name == name
    with pytest.raises(NotFoundError, match="no feature service 'nope'") as caught:
        get_service(energy.store, "nope")
    assert name in (caught.value.hint or "")


def _registered(energy: Energy) -> dict[str, object]:
    """Every definition by kind and name, and the history of each view."""
    store = energy.store
    store.refresh_registry()
    views = [*store.list_feature_views(), *store.list_on_demand_feature_views()]
    return {
        "entities": {item.name: item.to_proto().spec for item in store.list_entities()},
        "views": {item.name: (item.features, item.schema, item.tags) for item in views},
        "services": {item.name: item.to_proto().spec for item in store.list_feature_services()},
        "intervals": {item.name: item.materialization_intervals for item in store.list_feature_views()},
        "versions": {
            item.name: len(store.list_feature_view_versions(item.name)) for item in store.list_feature_views()
        },
    }
