"""As whom the registry is asked: as MLflow's own client would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ai_hub.registry import login

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TOKEN", "USERNAME", "PASSWORD", "INSECURE_TLS", "SERVER_CERT_PATH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    (tmp_path / ".mlflow").mkdir()
    return tmp_path


def test_login__is_that_of_mlflows_own_client(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert login._login() == {}
    file = home / ".mlflow/credentials"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    assert login._login() == {"headers": {"Authorization": "Bearer abc"}}
    file.write_text("[mlflow]\nmlflow_tracking_username = anna\nmlflow_tracking_password = 50%off\n")
    assert login._login() == {"auth": ("anna", "50%off")}
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "vera")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other")
    assert login._login() == {"auth": ("vera", "other")}


def test_certificate__is_checked_as_mlflows_own_client_does(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del home
    assert login._verify() is True
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", "/ca.pem")
    assert login._verify() == "/ca.pem"
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert login._verify() is False
