from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from mlflow_plugins.artifacts.destination import (
    check_model_name,
    parse_proxy_path,
    proxied_path,
    version_path,
)


@pytest.mark.parametrize("name", ["demand-forecast", "a", "A.b_c-9", "0", "x" * 128])
def test_check_model_name__allows(name: str) -> None:
    check_model_name(name)


@pytest.mark.parametrize(
    "name",
    [".", "..", ".runs", ".models", "-x", "_x", "a/b", "a\\b", "a b", "a:b", "été", "a\x00", "a\n",
     "x" * 129, "a%2fb", "a?b", "a#b", "\uff5e"],
)  # fmt: skip
def test_check_model_name__refuses(name: str) -> None:
    with pytest.raises(MlflowException, match="not allowed") as refusal:
        check_model_name(name)
    assert refusal.value.get_http_status_code() == 400


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("workspaces/acme/1/run/artifacts/model/MLmodel", "acme/.runs/1/run/artifacts/model/MLmodel"),
        ("workspaces/acme/.models/demand/v1.0.0/MLmodel", "acme/demand/v1.0.0/MLmodel"),
        ("workspaces/acme", "acme/.runs"),
        ("1/run/artifacts", "default/.runs/1/run/artifacts"),
        (".models/demand/v1.0.0", "default/demand/v1.0.0"),
        ("workspaces/acme//.models/./demand", "acme/demand"),
        ("acme/demand/v1.0.0", "default/.runs/acme/demand/v1.0.0"),
        ("workspaces/acme/.runs/x", "acme/.runs/.runs/x"),
        ("", "default/.runs"),
        (None, "default/.runs"),
    ],
)
def test_parse_proxy_path__maps_to_the_fixed_layout(path: str | None, key: str) -> None:
    assert parse_proxy_path(path, workspaces=True).key == key


def test_parse_proxy_path__without_workspaces__knows_one_tenant() -> None:
    assert parse_proxy_path("workspaces/acme/x", workspaces=False).key == "default/.runs/workspaces/acme/x"


@pytest.mark.parametrize(
    "path", ["..", "a/../b", "workspaces/acme/../beta", "a\\..\\b", "workspaces", "workspaces/"]
)
def test_parse_proxy_path__refuses(path: str) -> None:
    with pytest.raises(MlflowException):
        parse_proxy_path(path, workspaces=True)


@given(st.text(alphabet="ab./\\%~ é", max_size=30))
def test_parse_proxy_path__never_leaves_the_tenant(rest: str) -> None:
    try:
        key = parse_proxy_path(f"workspaces/acme/{rest}", workspaces=True).key
    except MlflowException:
        return
    assert key.split("/")[0] == "acme"
    assert not {"", ".", ".."} & set(key.split("/"))


def test_version_path__leads_to_the_fixed_layout() -> None:
    for tenant in ("acme", "default"):
        located = parse_proxy_path(version_path(tenant, "demand", "v1.2.0"), workspaces=True)
        assert located.registered
        assert located.key == f"{tenant}/demand/v1.2.0"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("mlflow-artifacts:/workspaces/acme/1/x", "workspaces/acme/1/x"),
        ("mlflow-artifacts://host:5000/1/x", "1/x"),
        ("https://host/prefix/api/2.0/mlflow-artifacts/artifacts/1/x", "1/x"),
        ("mlflow-artifacts:/a/%2e%2e/b", "a/../b"),
        ("s3://bucket/acme/x", None),
        ("minio://bucket/acme/x", None),
        ("file:///etc", None),
        ("/etc", None),
        ("https://host/elsewhere", None),
    ],
)
def test_proxied_path__is_only_what_the_proxy_serves(uri: str, path: str | None) -> None:
    assert proxied_path(uri) == path
