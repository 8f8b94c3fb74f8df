from __future__ import annotations

import subprocess
import sys

import pytest

import ai_hub
from ai_hub.client.http import Options, resolve_options
from ai_hub.errors import BadInputError
from ai_hub.settings import Settings

_KEY = "ahk_0123456789abcdef"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("nothing"))
    monkeypatch.setenv("AI_HUB_STATE_DIR", "nothing")
    monkeypatch.setenv("AI_HUB_API_URL", "http://settings.test:1/")
    monkeypatch.setenv("AI_HUB_API_KEY", _KEY)
    monkeypatch.setenv("AI_HUB_TENANT", "city-works")


def resolve(url: str | None = None, key: str | None = None, tenant: str | None = None) -> Options:
    return resolve_options(Settings(), url=url, api_key=key, tenant=tenant, timeout_s=1.0)


def test_options__without_arguments__are_the_settings() -> None:
    options = resolve()
    assert (options.url, options.tenant) == ("http://settings.test:1", "city-works")
    assert options.headers == {"Authorization": f"Bearer {_KEY}"}


def test_options__arguments__win() -> None:
    options = resolve("https://argument.test", "other", "grid-east")
    assert (options.url, options.tenant) == ("https://argument.test", "grid-east")
    assert options.headers == {"Authorization": "Bearer other"}


def test_key__from_a_file__loses_its_line_end() -> None:
    assert resolve(key=f"{_KEY}\n").headers == {"Authorization": f"Bearer {_KEY}"}


@pytest.mark.parametrize("key", [f"{_KEY}\r\nX-Admin: 1", f"{_KEY} x", f"{_KEY}é"])
def test_key__no_header_can_carry__is_refused_without_naming_it(key: str) -> None:
    with pytest.raises(BadInputError) as refusal:
        resolve(key=key)
    assert _KEY not in str(refusal.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8003", "ftp://hub.test", "http://", f"http://me:{_KEY}@hub.test"])
def test_address__that_cannot_be_one__is_refused_without_naming_a_login(url: str) -> None:
    with pytest.raises(BadInputError) as refusal:
        resolve(url)
    assert _KEY not in str(refusal.value)


def test_tenant__nowhere__is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AI_HUB_TENANT")
    with pytest.raises(BadInputError, match="AI_HUB_TENANT"):
        resolve()


def test_repr__holds_no_key() -> None:
    with ai_hub.Client() as client:
        shown = repr(client) + repr(client._options) + repr(client._http.headers) + repr(vars(client))
        assert repr(client) == "Client('http://settings.test:1', tenant='city-works')"
    assert _KEY not in shown


def test_import__of_the_package__brings_nothing_heavy() -> None:
    script = (
        "import sys, ai_hub\n"
        "assert not {'httpx', 'pydantic', 'mlflow'} & set(sys.modules), 'the package'\n"
        "ai_hub.Client, ai_hub.AsyncClient\n"
        "print(sorted({'mlflow', 'pandas', 'lightgbm', 'fastapi', 'psycopg', 'feast'} & set(sys.modules)))\n"
    )
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert printed.stdout == "[]\n"


def test_package__unknown_name__is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        ai_hub.nothing  # noqa: B018
