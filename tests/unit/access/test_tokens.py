from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.openid_provider import PRIVATE, Provider, running_provider, token

from ai_hub.access import tokens as token_module
from ai_hub.access.principal import Principal, Scope, UnauthenticatedError
from ai_hub.access.tokens import ALGORITHMS, ProviderKeys, Tokens, provider_url
from ai_hub.errors import BadInputError, ServiceDownError
from ai_hub.settings import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


def now(offset: int = 0) -> int:
    return int(time.time()) + offset


STRANGER = rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider() as running:
        yield running


def ask(provider: Provider, *given: str) -> Principal:
    async def last() -> Principal:
        keys = ProviderKeys(provider.url)
        tokens = Tokens(provider.options(), keys)
        for each in given:
            found = await tokens.load(each)
        return found

    return asyncio.run(last())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_principal__good_token__has_its_tenants_and_known_scopes(provider: Provider, algorithm: str) -> None:
    found = ask(provider, token(algorithm))
    assert (found.tenants, found.scopes) == ({"city-works"}, {Scope.FEATURES_READ})
    assert (found.name, found.identity, found.every_tenant) == ("anna", "oidc:anna", False)


@pytest.mark.parametrize(
    "claims",
    [
        {"nbf": None},
        {"exp": -40},  # the clocks differ by less than a minute
        {"nbf": 40},
        {"aud": ["other", "ai-hub"]},
        {"tenants": "city-works"},
        {"scope": ["features:read"]},
    ],
    ids=str,
)
def test_principal__token_with_leeway__is_accepted(provider: Provider, claims: dict[str, Any]) -> None:
    times = {name: now(claims[name]) for name in ("exp", "nbf") if claims.get(name) is not None}
    assert ask(provider, token(**{**claims, **times})).tenants == {"city-works"}


def unsigned(algorithm: str) -> str:
    def encoded(part: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()

    body = token().split(".")[1]
    return f"{encoded({'alg': algorithm, 'kid': 'RS256'})}.{body}."


def confused() -> str:
    """Signed with HS256, and our public key as the secret."""
    public = PRIVATE["RS256"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = unsigned("HS256").rstrip(".")
    mac = hmac.digest(pem, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def tampered() -> str:
    head, _, signature = token().split(".")
    return f"{head}.{token(tenants=['other']).split('.')[1]}.{signature}"


REFUSED = {
    "expired": lambda: token(exp=now(-90)),
    "not yet": lambda: token(nbf=now(90)),
    "no expiry": lambda: token(exp=None),
    "no audience": lambda: token(aud=None),
    "other audience": lambda: token(aud="other"),
    "no issuer": lambda: token(iss=None),
    "other issuer": lambda: token(iss="https://login.example.evil"),
    "no subject": lambda: token(sub=None),
    "no tenants": lambda: token(tenants=None),
    "empty tenants": lambda: token(tenants=[]),
    "every tenant": lambda: token(tenants="*"),
    "path": lambda: token(tenants=["city-works", "../other"]),
    "upper case": lambda: token(tenants=["City-Works"]),
    "nothing signed": lambda: unsigned("none"),
    "nothing signed, in capitals": lambda: unsigned("NONE"),
    "says RS256, is not signed": lambda: unsigned("RS256"),
    "HS256 with the public key": confused,
    "changed body": tampered,
    "signed by a stranger": lambda: token(key=STRANGER),
    "unknown key": lambda: token(headers={"kid": "other"}),
    "no key named": lambda: jwt.encode({"sub": "a"}, PRIVATE["RS256"], "RS256"),
    "key of another algorithm": lambda: token("ES256", headers={"kid": "RS256"}),
    "RS512": lambda: jwt.encode({"sub": "a"}, PRIVATE["RS256"], "RS512", {"kid": "RS256"}),
    "key in the token": lambda: token(key=STRANGER, headers={"kid": "x", "jwk": token_module.__name__}),
    "no token": lambda: "abc",
    "two parts": lambda: "a.b",
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_principal__bad_token__is_refused(provider: Provider, case: str) -> None:
    with pytest.raises(UnauthenticatedError) as refused:
        ask(provider, REFUSED[case]())
    assert refused.value.hint


def test_keys__provider_down__known_ones_go_on_and_unknown_ones_cost_one_read(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        keys = ProviderKeys(provider.url)
        tokens = Tokens(provider.options(), keys)
        await tokens.load(token())
        provider.down = True
        monkeypatch.setattr(token_module, "REFRESH_S", 0)
        await tokens.load(token())
        before = provider.reads
        for _ in range(50):
            with pytest.raises(UnauthenticatedError):
                await tokens.load(token(headers={"kid": "new"}))
        assert provider.reads - before <= 1
        monkeypatch.setattr(token_module, "UNKNOWN_KEY_S", 0)
        provider.down = False
        provider.keys.append(provider.keys[0] | {"kid": "new"})
        await tokens.load(token(headers={"kid": "new"}))
        await keys.close()

    asyncio.run(story())


def test_keys__never_read__is_the_providers_fault() -> None:
    async def ask_nobody() -> None:
        options = ServiceSettings(oidc_issuer="i", oidc_audience="a", oidc_jwks_url="http://127.0.0.1:9/")
        await Tokens(options, ProviderKeys("http://127.0.0.1:9/")).load(token())

    with pytest.raises(ServiceDownError):
        asyncio.run(ask_nobody())


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://login.example/keys", True),
        ("http://127.0.0.1:1/keys", True),
        ("http://localhost/keys", True),
        ("http://login.example/keys", False),
        ("http://localhost.login.example/keys", False),
        ("file:///etc/keys", False),
        (None, False),
    ],
)
def test_provider_url__without_https__only_on_this_machine(url: str | None, good: bool) -> None:
    options = ServiceSettings(oidc_issuer="i", oidc_audience="a", oidc_jwks_url=url)
    if good:
        assert provider_url(options) == url
        return
    with pytest.raises(BadInputError):
        provider_url(options)
