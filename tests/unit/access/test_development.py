from __future__ import annotations

import pytest

from ai_hub.api.server import check_development_mode
from ai_hub.errors import BadInputError
from ai_hub.settings import ServiceSettings


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_check__off_on_this_machine__warns(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_development_mode(ServiceSettings(auth="off"), host)
    assert "AI_HUB_API_AUTH=off" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.4", "hub.example", "localhost.example"])  # noqa: S104
def test_check__off_where_others_reach_it__refuses(host: str) -> None:
    with pytest.raises(BadInputError):
        check_development_mode(ServiceSettings(auth="off"), host)


def test_check__keys_required__says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    check_development_mode(ServiceSettings(), "0.0.0.0")  # noqa: S104
    assert not capsys.readouterr().err
