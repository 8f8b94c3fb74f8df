"""Bearer tokens of an OpenID provider, checked with its public keys."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from ai_hub.access.principal import Principal, Scope, UnauthenticatedError
from ai_hub.errors import BadInputError, ServiceDownError
from ai_hub.names import check_tenant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_hub.settings import ServiceSettings


_log = structlog.get_logger(__name__)

#: Seconds after which the keys are read anew; least seconds between two reads for an unknown key.
REFRESH_S: Final = 300.0
UNKNOWN_KEY_S: Final = 10.0
_TIMEOUT_S: Final = 5.0
_MOST_BYTES: Final = 1_000_000
_LEAST_RSA_BITS: Final = 2048
#: Asymmetric only: with HS256 whoever can check a token could make one, and `none` is no signature.
ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
#: Seconds that the provider's clock and ours may differ.
LEEWAY_S: Final = 60
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
_SCOPES: Final = {str(scope): scope for scope in Scope}
_NEW_TOKEN: Final = "Ask the OpenID provider for a new one."  # noqa: S105 - a hint


class ProviderKey(NamedTuple):
    """A public key and the one algorithm it is for."""

    public: Any
    algorithm: str


class ProviderKeys:
    """Keys by their id."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, ProviderKey] | None = None
        self._read_at = -REFRESH_S
        self._reading: asyncio.Task[None] | None = None

    def from_cache(self, key_id: str) -> ProviderKey | None:
        """The key of that id, if it is in memory; begins to read them anew when that is due."""
        age = time.monotonic() - self._read_at
        known = self._keys is not None and key_id in self._keys
        if age >= (REFRESH_S if known else UNKNOWN_KEY_S if self._keys is not None else 1.0):
            self._start()
        return None if self._keys is None else self._keys.get(key_id)

    async def load(self, key_id: str) -> ProviderKey | None:
        """The key of that id; None when the provider has none.

        Raises:
            ServiceDownError: the keys were never read, and cannot be.
        """
        if self.from_cache(key_id) is None and self._reading is not None:
            await asyncio.shield(self._reading)
        if self._keys is None:
            raise ServiceDownError(
                "The OpenID provider",
                self._url,
                "its keys could not be read",
                hint="Try again, or use an API key.",
            )
        return self._keys.get(key_id)

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()

    def _start(self) -> None:
        if self._reading is None:
            self._read_at = time.monotonic()
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._done)

    def _done(self, reading: asyncio.Task[None]) -> None:
        del reading
        self._reading = None

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                body = await self._body()
            self._keys = {
                key_id: key for key_id, key in map(_usable, jwt.PyJWKSet.from_json(body).keys) if key
            }
        except (httpx.HTTPError, TimeoutError, jwt.PyJWTError, ValueError, TypeError) as error:
            # those known go on
            _log.warning("provider_keys.read_failed", url=self._url, reason=type(error).__name__)

    async def _body(self) -> str:
        async with (
            httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as client,
            client.stream("GET", self._url, headers={"Accept": "application/json"}) as response,
        ):
            response.raise_for_status()
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise ValueError("too long")
        return body.decode()


def _usable(key: jwt.PyJWK) -> tuple[str, ProviderKey | None]:
    """A key's id, and the key when it is one to check signatures with."""
    key_id = key.key_id or ""
    if not key_id or key.public_key_use not in {None, "sig"}:
        return key_id, None
    public = key.key
    if isinstance(public, RSAPublicKey) and public.key_size >= _LEAST_RSA_BITS:
        return key_id, ProviderKey(public, "RS256")
    if isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        return key_id, ProviderKey(public, "ES256")
    if isinstance(public, Ed25519PublicKey):
        return key_id, ProviderKey(public, "EdDSA")
    return key_id, None


def provider_url(options: ServiceSettings) -> str | None:
    """Where the provider's keys are; None when there is no provider.

    Raises:
        BadInputError: the settings say only half of it, or the address is not https.
    """
    settings = (options.oidc_issuer, options.oidc_audience, options.oidc_jwks_url)
    if not any(settings):
        return None
    if not all(settings) or options.oidc_jwks_url is None:
        raise BadInputError(
            "An OpenID provider needs its issuer, audience and keys.",
            hint="Set AI_HUB_API_OIDC_ISSUER, AI_HUB_API_OIDC_AUDIENCE and AI_HUB_API_OIDC_JWKS_URL.",
        )
    parts = urlsplit(options.oidc_jwks_url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise BadInputError(
            "AI_HUB_API_OIDC_JWKS_URL is not an https address.",
            hint="Whoever could change these keys on their way could sign tokens of any tenant.",
        )
    return options.oidc_jwks_url


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and nobody else can reach it there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Tokens:
    """Tells the caller of a token."""

    def __init__(self, options: ServiceSettings, keys: ProviderKeys) -> None:
        self._options = options
        self._keys = keys

    def from_cache(self, token: str) -> Principal | None:
        """The caller; None: the token's key is not cached; use `load`.

        Raises:
            UnauthenticatedError: the token is not one of the provider for us, or not valid now.
        """
        algorithm, key_id = _header(token)
        key = self._keys.from_cache(key_id)
        return None if key is None else self._checked(token, algorithm, key)

    async def load(self, token: str) -> Principal:
        """The caller, with the provider's keys read anew if the token's key is unknown.

        Raises:
            UnauthenticatedError: the token is not one of the provider for us, or not valid now.
            ServiceDownError: the provider's keys were never read, and cannot be.
        """
        algorithm, key_id = _header(token)
        return self._checked(token, algorithm, await self._keys.load(key_id))

    def _checked(self, token: str, algorithm: str, key: ProviderKey | None) -> Principal:
        # the key says which algorithm is right, never the token
        if key is None or key.algorithm != algorithm:
            raise UnauthenticatedError(
                "This token is signed with a key the provider does not have.", hint=_NEW_TOKEN
            )
        try:
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[algorithm],
                issuer=self._options.oidc_issuer,
                audience=self._options.oidc_audience,
                leeway=LEEWAY_S,
                options={"require": list(_REQUIRED)},
            )
        except jwt.InvalidTokenError as error:
            raise UnauthenticatedError(f"This token is not valid: {error}.", hint=_NEW_TOKEN) from error
        return self._caller(claims)

    def _caller(self, claims: Mapping[str, Any]) -> Principal:
        claim = self._options.oidc_tenants_claim
        try:
            tenants = frozenset(check_tenant(tenant) for tenant in _texts(claims.get(claim)))
        except BadInputError as error:
            raise UnauthenticatedError(
                f"Claim {claim!r} of this token is not a list of tenants.", hint=_NEW_TOKEN
            ) from error
        if not tenants:
            raise UnauthenticatedError(f"This token names no tenant in its claim {claim!r}.", hint=_NEW_TOKEN)
        wanted = _texts(claims.get(self._options.oidc_scopes_claim), split=True)
        scopes = frozenset(_SCOPES[scope] for scope in wanted if scope in _SCOPES)
        subject = str(claims["sub"])
        return Principal(subject, tenants, scopes, identity=f"oidc:{subject}")


def _header(token: str) -> tuple[str, str]:
    """Algorithm and id of the key by which a token says it is signed."""
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError as error:
        raise UnauthenticatedError(
            "This bearer token is neither a key nor a JWT.", hint=_NEW_TOKEN
        ) from error
    algorithm, key_id = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS or not isinstance(key_id, str):
        raise UnauthenticatedError(
            f"This token is not signed with {', '.join(ALGORITHMS)} and a named key.", hint=_NEW_TOKEN
        )
    return algorithm, key_id


def _texts(claim: Any, *, split: bool = False) -> list[str]:
    if isinstance(claim, str):
        return claim.split() if split else [claim]
    return [each for each in claim if isinstance(each, str)] if isinstance(claim, list) else []
