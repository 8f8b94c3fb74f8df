"""An OpenID provider as far as we need one: signs tokens, and serves its public keys over HTTP."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from ai_hub.settings import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

ISSUER = "https://login.example"
AUDIENCE = "ai-hub"
_RSA = rsa.generate_private_key(65537, 2048)
PRIVATE: dict[str, Any] = {
    "RS256": _RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
_PUBLIC = {
    "RS256": RSAAlgorithm.to_jwk(PRIVATE["RS256"].public_key(), as_dict=True),
    "ES256": ECAlgorithm.to_jwk(PRIVATE["ES256"].public_key(), as_dict=True),
    "EdDSA": OKPAlgorithm.to_jwk(PRIVATE["EdDSA"].public_key(), as_dict=True),
}


class Provider:
    """Its published keys can be changed, and it can be down."""

    def __init__(self) -> None:
        self.keys = [{**jwk, "kid": name, "use": "sig"} for name, jwk in _PUBLIC.items()]
        self.reads = 0
        self.down = False
        self.url = ""

    def options(self, **others: Any) -> ServiceSettings:
        """Settings of a service that trusts this provider."""
        return ServiceSettings(
            oidc_issuer=ISSUER, oidc_audience=AUDIENCE, oidc_jwks_url=self.url, keys_refresh_s=60, **others
        )


def token(algorithm: str = "RS256", *, key: Any = None, headers: Any = None, **claims: Any) -> str:
    """A good token, with some claims changed (None: left out)."""
    now = int(time.time())
    body = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "nbf": now, "exp": now + 300,
        "tenants": ["city-works"], "scope": "features:read openid unheard:of",
    } | claims  # fmt: skip
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(
        body, key if key is not None else PRIVATE[algorithm], algorithm, {"kid": algorithm} | (headers or {})
    )


@contextmanager
def running_provider() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.reads += 1
            body = json.dumps({"keys": provider.keys}).encode()
            self.send_response(500 if provider.down else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
