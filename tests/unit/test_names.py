from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.workspace.abstract_store import WorkspaceNameValidator
from pydantic import TypeAdapter, ValidationError

from ai_hub.api import model_ids
from ai_hub.api.schemas.common import AssetId, TenantId
from ai_hub.errors import BadInputError
from ai_hub.ingest.assets import validate_asset
from ai_hub.names import ASSET_LENGTH, check_tenant, check_workspace, is_asset_id

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("name", ["ab", "city-works", "0a", "a" * 63])
def test_name__key_may_have_it__and_requests_too(name: str) -> None:
    assert check_workspace(name) == name
    assert TypeAdapter(TenantId).validate_python(name) == name
    assert model_ids.parse(f"{name}:model:1").tenant == name


@pytest.mark.parametrize("name", ["", "a", "a-", "-a", "A1", "a_b", "ab\n", "a" * 64])
def test_name__no_request_may_have_it__no_key_either(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TenantId).validate_python(name)
    with pytest.raises(BadInputError):
        check_workspace(name)


@pytest.mark.parametrize(
    "name", ["ab", "0a", "a-b", "a" * 63, "", "a", "a-", "-a", "A1", "a_b", "\u00e4b", "a" * 64]
)
def test_workspace__of_any_name__is_one_of_mlflow(name: str) -> None:
    assert _takes(check_workspace, name) == _takes(WorkspaceNameValidator.validate, name)
    # what the service takes the tables take
    assert _takes(check_tenant, name) or not _takes(check_workspace, name)


@pytest.mark.parametrize("asset", ["m", "z\u00e4hler 1/2:3", "m" * ASSET_LENGTH, "\U0001f50c"])
def test_asset__that_can_be_registered__can_be_requested(asset: str) -> None:
    assert is_asset_id(asset)
    assert validate_asset(tenant_id="t", asset_id=asset).asset_id == asset
    assert TypeAdapter(AssetId).validate_python(asset) == asset


@pytest.mark.parametrize("asset", ["", " ", " m", "m ", "m\n", "m\x00", "m\u200b", "m" * (ASSET_LENGTH + 1)])
def test_asset__other_id__cannot_be_registered(asset: str) -> None:
    assert not is_asset_id(asset)
    with pytest.raises(BadInputError, match="asset_id"):
        validate_asset(tenant_id="t", asset_id=asset)


@pytest.mark.parametrize("tenant", ["a", "a-", "a" * 63])
def test_tenant__that_the_tables_take__is_still_read(tenant: str) -> None:
    assert check_tenant(tenant) == tenant
    assert validate_asset(tenant_id=tenant, asset_id="m").tenant_id == tenant


def _takes(check: Callable[[str], object], name: str) -> bool:
    try:
        check(name)
    except (BadInputError, MlflowException):
        return False
    return True
