"""Bearer tokens of an OpenID provider, checked with its public keys; they say their tenants and scopes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import jwt

from ai_hub.access.errors import UnauthenticatedError
from ai_hub.access.principal import Principal, Scope
from ai_hub.database.tenant_wall import check_tenant
from ai_hub.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_hub.access.provider_keys import ProviderKey, ProviderKeys
    from ai_hub.service.settings import ServiceSettings

#: Asymmetric only: with HS256 whoever can check a token could make one, and `none` is no signature.
ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
#: Seconds that the provider's clock and ours may differ.
LEEWAY_S: Final = 60
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
_SCOPES: Final = {str(scope): scope for scope in Scope}
_NEW_TOKEN: Final = "Ask the OpenID provider for a new one."  # noqa: S105 - a hint


class Tokens:
    """Tells whom a token stands for."""

    def __init__(self, options: ServiceSettings, keys: ProviderKeys) -> None:
        self._options = options
        self._keys = keys

    def known(self, token: str) -> Principal | None:
        """The caller; None: the token's key is not in memory, and `principal` must look for it.

        Raises:
            UnauthenticatedError: the token is not one of the provider for us, or not in force.
        """
        algorithm, key_id = _header(token)
        key = self._keys.known(key_id)
        return None if key is None else self._checked(token, algorithm, key)

    async def principal(self, token: str) -> Principal:
        """The caller, also by a key the provider has just begun to use.

        Raises:
            UnauthenticatedError: the token is not one of the provider for us, or not in force.
            ServiceDownError: the provider's keys were never read, and cannot be.
        """
        algorithm, key_id = _header(token)
        return self._checked(token, algorithm, await self._keys.find(key_id))

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
