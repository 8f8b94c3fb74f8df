"""What hostile requests need: bad credentials, a plain socket, and a record of all that is stored."""

from __future__ import annotations

import hashlib
import hmac
import re
import select
import socket
import sqlite3
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import jwt
import psycopg
import redis
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from psycopg import sql

from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES, Scope
from support import openid_provider
from support.city_works import OTHER, TENANT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from support.city_works import CityWorks

_TIMEOUT_S = 30
_TABLES = """
SELECT schemaname, tablename FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
    AND schemaname NOT LIKE '\\_timescaledb\\_%' ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(
    address: str, request: bytes | Callable[[], Iterable[bytes]], credentials: dict[str, str]
) -> Answer:
    """Send until the answer comes, whether or not everything is sent."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), _TIMEOUT_S) as connection:
        try:
            for piece in [request] if isinstance(request, bytes) else request():
                if select.select([connection], [], [], 0)[0]:
                    break
                connection.sendall(_filled(piece, credentials))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has answered already
        with HTTPResponse(connection) as response:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())


def _filled(piece: bytes, credentials: dict[str, str]) -> bytes:
    return re.sub(rb"@([A-Za-z0-9-]+)@", lambda found: credentials[found[1].decode()].encode(), piece)


def credentials_of(works: CityWorks) -> dict[str, str]:
    """By name: keys and tokens, good and bad."""
    dsn = works.settings.require("timescale_dsn")

    def key(name: str, **rest: Any) -> str:
        scopes = rest.pop("scopes", ALL_SCOPES)
        return str(api_keys.create(name, [TENANT], scopes, created_by="test", dsn=dsn, **rest)[1])

    revoked = key("revoked")
    api_keys.revoke(revoked.split("_")[1], dsn=dsn)
    token, provider_key = openid_provider.token, openid_provider.PRIVATE["RS256"]
    public = provider_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    good = token()
    head, body, signature = good.split(".")
    other_body = token(tenants=[OTHER]).split(".")[1]
    stranger = openid_provider.rsa.generate_private_key(65537, 2048)
    return {
        "good": works.key,
        "other": works.other_key,
        "expired": key("expired", expires_in=timedelta(milliseconds=1)),
        "revoked": revoked,
        "reader": key("reader", scopes=[Scope.MODELS_READ]),
        "wrong": works.key[:-5] + "AAAAA",
        "unknown": str(api_keys.new_key()),
        "alg-none": unsigned("none", body),
        "alg-NONE": unsigned("NonE", body),
        "hs256-by-public-key": _hs256(public, body),
        "jwt-expired": token(exp=1_700_000_000),
        "jwt-not-yet": token(nbf=4_000_000_000),
        "jwt-audience": token(aud="other-hub"),
        "jwt-issuer": token(iss="https://login.example.evil"),
        "jwt-without-expiry": token(exp=None),
        "jwt-kid-traversal": token(headers={"kid": "../../../../dev/null"}),
        "jwt-kid-sql": token(headers={"kid": "x' UNION SELECT 'key' --"}),
        "jwt-kid-unknown": token(headers={"kid": "RS257"}),
        "jwt-jwk": token(
            key=stranger,
            headers={"jwk": jwt.algorithms.RSAAlgorithm.to_jwk(stranger.public_key(), as_dict=True)},
        ),
        "jwt-cut": f"{head}.{body}.{signature[:-8]}",
        "jwt-changed": f"{head}.{other_body}.{signature}",
        "jwt-star": token(tenants="*"),
        "jwt-other": token(tenants=[OTHER]),
    }


def unsigned(algorithm: str, body: str) -> str:
    head = urlsafe_b64encode(b'{"alg":"%s","typ":"JWT","kid":"RS256"}' % algorithm.encode())
    return f"{head.decode().rstrip('=')}.{body}."


def _hs256(secret: bytes, body: str) -> str:
    head = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"RS256"}').decode().rstrip("=")
    mac = hmac.new(secret, f"{head}.{body}".encode(), "sha256").digest()
    return f"{head}.{body}.{urlsafe_b64encode(mac).decode().rstrip('=')}"


class Record:
    """All that is stored, in numbers that change when it does."""

    def __init__(self, works: CityWorks) -> None:
        self._settings = works.settings
        self._exports = works.exports
        self._redis = redis.Redis.from_url(works.settings.require("redis_url"))
        self._s3 = boto3.client(
            "s3",
            endpoint_url=works.settings.require("minio_endpoint_url"),
            aws_access_key_id=works.settings.require("minio_access_key"),
            aws_secret_access_key=works.settings.require("minio_secret_key"),
            region_name="us-east-1",
        )

    def close(self) -> None:
        self._redis.close()
        self._s3.close()

    def writes(self) -> dict[str, int]:
        """Writes so far, of whoever: cheap."""
        with psycopg.connect(self._settings.require("timescale_dsn"), autocommit=True) as connection:
            row = connection.execute(
                "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
            ).fetchone()
        assert row is not None
        mlflow = Path(self._settings.require("mlflow_backend_store_uri").partition(":///")[2])
        return {
            "timescaledb": row[0],
            "redis": sum(each["keys"] - each["expires"] for each in self._redis.info("keyspace").values()),
            "mlflow": mlflow.stat().st_mtime_ns,
            "exports": len(list(self._exports.rglob("*"))) if self._exports.exists() else 0,
        }

    def all(self) -> dict[str, str]:
        """Digest of each table, of Redis, each bucket, MLflow's tables, and the files of exports."""
        return {**self._tables(), **self._buckets(), **self._mlflow(), **self._files(), "redis": self._keys()}

    def _tables(self) -> dict[str, str]:
        found = {}
        with psycopg.connect(self._settings.require("timescale_dsn"), autocommit=True) as connection:
            for schema, table in connection.execute(_TABLES).fetchall():
                query = sql.SQL(
                    "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {} AS t"
                ).format(sql.Identifier(schema, table))
                found[f"{schema}.{table}"] = str(connection.execute(query).fetchone())
        return found

    def _keys(self) -> str:
        found = hashlib.sha256()
        for key in sorted(self._redis.scan_iter(count=1_000)):
            # that there is no such asset is remembered for a moment
            if self._redis.pttl(key) > 0:
                continue
            found.update(key + b"\0" + (self._redis.dump(key) or b""))
        return found.hexdigest()

    def _buckets(self) -> dict[str, str]:
        found = {}
        for bucket in self._s3.list_buckets()["Buckets"]:
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"])
            objects = [(each["Key"], each["ETag"]) for page in pages for each in page.get("Contents", [])]
            found[f"s3 {bucket['Name']}"] = str(hash(tuple(sorted(objects))))
        return found

    def _mlflow(self) -> dict[str, str]:
        path = self._settings.require("mlflow_backend_store_uri").partition(":///")[2]
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            found = {
                f"mlflow {name}": str(hash(tuple(connection.execute(f"SELECT * FROM [{name}]").fetchall())))  # noqa: S608
                for (name,) in names
            }
        connection.close()
        return found

    def _files(self) -> dict[str, str]:
        files = sorted(each for each in self._exports.rglob("*") if each.is_file())
        return {f"file {each}": hashlib.sha256(each.read_bytes()).hexdigest() for each in files}
