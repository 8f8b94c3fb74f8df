from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from ai_hub.access.tenant_names import check_served
from ai_hub.api import model_ids
from ai_hub.api.schemas.common import TenantId
from ai_hub.errors import BadInputError


@pytest.mark.parametrize("name", ["ab", "city-works", "0a", "a" * 63])
def test_name__key_may_have_it__and_requests_too(name: str) -> None:
    assert check_served(name) == name
    assert TypeAdapter(TenantId).validate_python(name) == name
    assert model_ids.parse(f"{name}:model:1").tenant == name


@pytest.mark.parametrize("name", ["", "a", "a-", "-a", "A1", "a_b", "ab\n", "a" * 64])
def test_name__no_request_may_have_it__no_key_either(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TenantId).validate_python(name)
    with pytest.raises(BadInputError):
        check_served(name)
