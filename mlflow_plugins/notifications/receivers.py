"""Who is told what, from the settings; addresses may be secrets, so only labels are logged or kept.

`NOTIFY_RECEIVERS` has one receiver after another, with spaces or line ends between:

    [TENANT=][slack+|teams+|mattermost+]http(s)://…[#KIND,KIND]      [TENANT=]mailto:NAME@HOST[#KIND,KIND]
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import urldefrag, urlsplit

from mlflow_plugins.errors import bad_input
from mlflow_plugins.notifications.event import KINDS, TEST
from mlflow_plugins.settings import RegistrySettings

JSON: Final = "json"
MAIL: Final = "mail"
CHATS: Final = ("slack", "teams", "mattermost")
_ENTRY: Final = re.compile(r"(?:([a-z0-9][a-z0-9-]*)=)?(?:(slack|teams|mattermost)\+)?((https?|mailto):\S+)")


@dataclass(frozen=True)
class Receiver:
    """One receiver; it hears of `tenant` only, or of all where that is None."""

    tenant: str | None
    #: `json`, `mail`, or a chat's
    format: str
    address: str = field(repr=False)
    kinds: frozenset[str]
    #: may be reached by http, and at an address that is not public
    is_allowed: bool

    @property
    def label(self) -> str:
        """Tells it from others without telling its address; stays the same as long as that does."""
        digest = hashlib.sha256(f"{self.tenant} {self.format} {self.address}".encode()).hexdigest()[:8]
        host = self.address.rpartition("@")[2] if self.format == MAIL else urlsplit(self.address).hostname
        return f"{self.format}:{host}:{digest}"[:80]

    def hears(self, workspace: str, kind: str) -> bool:
        """Whether it is told about this."""
        return kind == TEST or (self.tenant in {None, workspace} and kind in self.kinds)


def current() -> tuple[Receiver, ...]:
    """The receivers of this server.

    Raises:
        MlflowException: 400, a setting is wrong.
    """
    settings = RegistrySettings()
    text = settings.notify_receivers.get_secret_value() if settings.notify_receivers else ""
    mail = settings.notify_smtp_url is not None and settings.notify_sender is not None
    return _parsed(text, settings.notify_allowed_hosts, mail)


@lru_cache(maxsize=4)
def _parsed(text: str, allowed: str, mail: bool) -> tuple[Receiver, ...]:
    found = [
        _receiver(entry, number, allowed.replace(",", " ").split())
        for number, entry in enumerate(text.split(), 1)
    ]
    if not mail and any(receiver.format == MAIL for receiver in found):
        raise bad_input(
            "NOTIFY_RECEIVERS has a mailto: address, so NOTIFY_SMTP_URL and NOTIFY_SENDER must be set."
        )
    labels = [receiver.label for receiver in found]
    for number, label in enumerate(labels, 1):
        if label in labels[: number - 1]:
            raise _wrong(number, "is there twice")
    return tuple(found)


def _receiver(entry: str, number: int, allowed: list[str]) -> Receiver:
    entry, _, fragment = entry.partition("#")
    kinds = frozenset(filter(None, fragment.split(","))) or frozenset(KINDS)
    if unknown := sorted(kinds - KINDS.keys()):
        raise _wrong(number, f"knows no {unknown[0]!r}; there are {', '.join(sorted(KINDS.keys() - {TEST}))}")
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise _wrong(number, "is none of [TENANT=]https://…, [TENANT=]slack+https://… and [TENANT=]mailto:…")
    tenant, chat, address, scheme = match.groups()
    if scheme == "mailto":
        if chat or "@" not in address:
            raise _wrong(number, "names no mailbox")
        return Receiver(tenant, MAIL, address.removeprefix("mailto:"), kinds, is_allowed=True)
    host = _host(address)
    if not host:
        raise _wrong(number, "names no host")
    is_allowed = any(_covers(item, host) for item in allowed)
    if scheme == "http" and not is_allowed:
        raise _wrong(
            number, f"leads to {host} without encryption. Use https, or add {host} to NOTIFY_ALLOWED_HOSTS"
        )
    return Receiver(tenant, chat or JSON, urldefrag(address).url, kinds, is_allowed)


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _covers(item: str, host: str) -> bool:
    """Whether a name is allowed, or an address by its network."""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(item, strict=False)
    except ValueError:
        return item.lower() == host.lower()


def _wrong(number: int, what: str) -> Exception:
    return bad_input(f"Receiver {number} of NOTIFY_RECEIVERS {what}.")
