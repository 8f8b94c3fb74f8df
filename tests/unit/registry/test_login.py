"""As whom the registry is asked: as MLflow's own client would."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import pytest
from support.certificates import self_signed

from ai_hub.errors import BadInputError
from ai_hub.registry import server

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (*server._LOGIN_VARIABLES, *server._AUTHORITIES, server._CERTIFICATE, server._INSECURE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".mlflow").mkdir()
    return tmp_path


def test_login__is_that_of_mlflows_own_client(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server._login() == {}
    file = home / ".mlflow/credentials"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    assert server._login() == {"headers": {"Authorization": "Bearer abc"}}
    file.write_text("[mlflow]\nmlflow_tracking_username = anna\nmlflow_tracking_password = 50%off\n")
    assert server._login() == {"auth": ("anna", "50%off")}
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "vera")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other")
    assert server._login() == {"auth": ("vera", "other")}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate and its key."""
    return self_signed(tmp_path_factory.mktemp("tls") / "both.pem", "registry")


@pytest.mark.parametrize(
    "variable", ["MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
)
def test_authority__of_mlflows_own_client__is_the_only_one(
    home: Path, authority: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    del home
    assert server.tls().verify_mode == ssl.CERT_REQUIRED
    assert len(server.tls().get_ca_certs()) > 1
    monkeypatch.setenv(variable, str(authority))
    (known,) = server.tls().get_ca_certs()
    assert known["subject"] == ((("commonName", "registry"),),)
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    assert server.tls().verify_mode == ssl.CERT_NONE


def test_own_certificate__is_shown_beside_an_authority(
    home: Path, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda _, path: shown.append(path))
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority))
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(authority))
    server.tls()
    assert shown == [str(authority)]
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(home / "nothing.pem"))
    with pytest.raises(BadInputError, match="of MLFLOW_TRACKING_CLIENT_CERT_PATH cannot be read"):
        server.connection("https://127.0.0.1:1")


def test_state__changes_with_variables_and_files(
    home: Path, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = server.login_state()
    assert server.login_state() == before
    (home / ".mlflow/credentials").write_text("[mlflow]\n")
    written = server.login_state()
    assert written != before
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    named = server.login_state()
    assert named != written
    os.utime(authority, ns=(1, 1))
    assert server.login_state() != named
