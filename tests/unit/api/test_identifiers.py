from __future__ import annotations

import pytest
from pydantic import ValidationError

from ai_hub.api.schemas.features import FeaturesRequest


@pytest.mark.parametrize("asset", ["meter-008", "Zähler 7/B", "電気"])
def test_asset_id__printable_text__is_taken(asset: str) -> None:
    assert FeaturesRequest(tenant_id="city-works", asset_id=asset).asset_id == asset


@pytest.mark.parametrize("asset", ["", "a\n", "a\x00b", "\x7f", "half \ud800", "x" * 257])
def test_asset_id__control_characters_and_half_characters__are_refused(asset: str) -> None:
    with pytest.raises(ValidationError):
        FeaturesRequest(tenant_id="city-works", asset_id=asset)
