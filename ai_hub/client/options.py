"""Whom a client talks to and as whom: arguments first, then the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ai_hub.errors import BadInputError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from pydantic import SecretStr

_DEFAULT_URL = "http://127.0.0.1:8003"


@dataclass(frozen=True)
class Options:
    """Address, tenant, time-out and key of a client; the key is in no text."""

    url: str
    tenant: str
    timeout_s: float
    _key: str | None = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries; logs of httpx leave out this header's value."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}


def resolve(
    url: str | None, api_key: str | SecretStr | None, tenant: str | None, timeout_s: float
) -> Options:
    """Options from the arguments, or else from the settings.

    Raises:
        BadInputError: no tenant is given, or a value cannot be one.
    """
    settings = Settings()
    chosen = tenant or settings.ai_hub_tenant
    if not chosen:
        raise BadInputError("No tenant is given.", hint="Give tenant=…, or set AI_HUB_TENANT.")
    key = api_key if api_key is not None else settings.ai_hub_api_key
    clear = key if isinstance(key, str) or key is None else key.get_secret_value()
    return Options(_address(url or settings.ai_hub_api_url or _DEFAULT_URL), chosen, timeout_s, _key(clear))


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadInputError("The service's address is no URL.", hint="Use one such as http://127.0.0.1:8003.")
    if parts.username or parts.password:
        raise BadInputError("The service's address holds a login.", hint="Give the key as api_key.")
    return url.rstrip("/")


def _key(key: str | None) -> str | None:
    """The key without the line end of the file it may come from."""
    key = (key or "").strip()
    # the HTTP library would quote what it refuses
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BadInputError("The API key holds characters that no key has.", hint="Copy it again.")
    return key or None
