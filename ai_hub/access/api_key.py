"""The text of an API key: `aih_<key id>_<secret>`.

The secret is 256 random bits. Nobody can guess those, so that a plain SHA-256 protects them as well as a slow
hash would; slow hashes are for passwords that people choose.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "aih_"
_ID_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH: Final = 12
_SECRET_BYTES: Final = 32
_FORM: Final = re.compile(r"aih_([a-z0-9]{12})_([A-Za-z0-9_-]{43})", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key in clear text: only ever in the hands of its owner."""

    key_id: str
    secret: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.key_id}_{self.secret}"

    def __repr__(self) -> str:
        return f"{PREFIX}{self.key_id}_…"


def new_key() -> KeyText:
    """A key nobody else has."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
    return KeyText(key_id, secrets.token_urlsafe(_SECRET_BYTES))


def parse(text: str) -> KeyText | None:
    """The parts of a key; None when it is not one."""
    found = _FORM.fullmatch(text)
    return None if found is None else KeyText(found[1], found[2])


def digest(secret: str) -> bytes:
    """What is stored of a secret: its SHA-256."""
    return hashlib.sha256(secret.encode("ascii")).digest()
