"""Requests for one asset are told by the rules of the schema, without it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ai_hub.api.routes.features import parse_single
from ai_hub.api.schemas.features import FeaturesRequest
from ai_hub.features.online.reader import FeatureRequest

TEXTS = st.one_of(
    st.sampled_from(
        ["a", "ab", "city-works", "-b", "b-", "a" * 63, "a" * 64, "forecast_basic", "", "9x", "_"]
    ),
    st.text(max_size=12),
    st.text("ab-_0\n\x7f é", max_size=300),
)
VALUES = st.one_of(TEXTS, TEXTS, TEXTS, st.none(), st.integers(), st.booleans(), st.lists(TEXTS, max_size=2))
FIELDS = st.sampled_from(["tenant_id", "asset_id", "feature_set"])


def by_schema(body: bytes) -> FeatureRequest | None:
    try:
        found = FeaturesRequest.model_validate_json(body)
    except ValidationError:
        return None
    assert found.asset_id is not None
    return FeatureRequest(found.tenant_id, [found.asset_id], feature_set=found.feature_set, must_exist=True)


@given(st.dictionaries(FIELDS, VALUES))
def test_single_request__of_any_fields__is_what_the_schema_takes(fields: dict[str, object]) -> None:
    body = json.dumps({"tenant_id": "city-works", "asset_id": "meter-008"} | fields).encode()
    assert parse_single(body) == by_schema(body)


@pytest.mark.parametrize(
    "fields",
    [{"lookback_hours": 168}, {"timestamp": None}, {"feature_names": ["lag_1h"]}, {"asset_ids": ["a"]}],
)
def test_other_fields__are_left_to_the_schema(fields: dict[str, object]) -> None:
    body = json.dumps({"tenant_id": "city-works", "asset_id": "meter-008"} | fields).encode()
    assert parse_single(body) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b'"a"', b'{"tenant_id": NaN}', b"\xff"])
def test_no_object__is_left_to_the_schema(body: bytes) -> None:
    assert parse_single(body) is None
