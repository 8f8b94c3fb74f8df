from __future__ import annotations

import pytest

from ai_hub.errors import BadInputError
from ai_hub.ingest import assets


@pytest.mark.parametrize("zone", ["UTC", "Europe/London", "America/Argentina/Buenos_Aires", "EST"])
def test_check_zone__iana_name__is_taken(zone: str) -> None:
    assert assets.check_zone(zone) == zone


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "localtime", "right/Europe/Berlin", "../../etc/passwd", "Europe", "+02:00"]
)
def test_check_zone__anything_else__is_refused(zone: str) -> None:
    with pytest.raises(BadInputError, match="not a time zone"):
        assets.check_zone(zone)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tenant_id": "Upper"}, "tenant_id"),
        ({"tenant_id": "a_b"}, "tenant_id"),
        ({"tenant_id": "a\n"}, "tenant_id"),
        ({"asset_id": ""}, "asset_id"),
        ({"asset_id": " m"}, "asset_id"),
        ({"asset_id": "m\x00"}, "asset_id"),
        ({"asset_id": "m" * 257}, "asset_id"),
        ({"latitude": 91}, "latitude"),
        ({"capacity": 0}, "capacity"),
    ],
)
def test_check__value_that_is_not_allowed__is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(BadInputError, match=named):
        assets.validate_asset(**{"tenant_id": "t", "asset_id": "m", **change})
