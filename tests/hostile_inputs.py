"""Hostile requests to the REST service, one a line: its id, the request, the status it must get.

A request is the bytes that are sent, or a function that makes them piece by piece. `@name@` in a header
stands for a credential of `hostile_world`.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ASSET, TENANT, OTHER = "meter-008", "city-works", "other-works"
MODEL_ID = f"{TENANT}:load-forecast:v2.0.0"
_MLMODEL = b64encode(b"flavors: {lightgbm: {}}\n").decode()
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Hostile:
    """One hostile request."""

    id: str
    request: bytes | Callable[[], Iterable[bytes]]
    status: int


def ask(
    target: str | bytes,
    body: Any = b"",
    *,
    method: str = "GET",
    key: str = "@good@",
    version: str = "1.1",
    **headers: str | bytes,
) -> bytes:
    """A request; `_` in names of headers is `-`, and JSON is made of what is no bytes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    head: dict[str, str | bytes] = {"Host": "service", "Connection": "close"}
    if key:
        head["X-API-Key"] = key
    if not isinstance(body, bytes):
        body, head = json.dumps(body).encode(), head | JSON
    if body:
        head["Content-Length"] = str(len(body))
    start = method.encode() + b" " + as_bytes(target) + f" HTTP/{version}".encode()
    lines = [start, *(as_bytes(name) + b": " + as_bytes(value) for name, value in (head | given).items())]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def get(path: str | bytes, **rest: Any) -> bytes:
    return ask(path, **rest)


def post(path: str, body: Any, **rest: Any) -> bytes:
    return ask(path, body, method="POST", **JSON_HEADER | rest)


JSON_HEADER = {"Content_Type": "application/json"}


def features(**fields: Any) -> bytes:
    body = {"tenant_id": TENANT, "asset_id": ASSET, "feature_set": "forecast_basic"} | fields
    return post("/ai/features/get", body)


def features_text(text: str | bytes, **headers: Any) -> bytes:
    return post("/ai/features/get", text if isinstance(text, bytes) else text.encode(), **headers)


def at(timestamp: Any) -> bytes:
    return features(timestamp=timestamp)


def asset(name: Any) -> bytes:
    return features(asset_id=name)


def export(query: str = "", **fields: Any) -> bytes:
    body = {
        "tenant_id": TENANT,
        "feature_set": "forecast_basic",
        "start_time": "2026-10-01T00:00:00Z",
        "end_time": "2026-11-01T00:00:00Z",
    } | fields
    return post(f"/ai/features/export{query}", body)


def place(path: Any) -> bytes:
    return export(output_path=path)


def exports(query: str) -> bytes:
    return get(f"/ai/features/exports?{query}")


def upload(**fields: Any) -> bytes:
    body = {
        "tenant_id": TENANT,
        "model_name": "demand-forecast",
        "metadata": {"model_type": "demand_forecast"},
        "artifact": {"type": "upload", "files": [{"path": "MLmodel", "content": _MLMODEL}]},
    } | fields
    return post("/ai/models/register", body)


def file(path: str, content: str = "Zmxhdm9yczoge30K") -> bytes:
    files = [{"path": "MLmodel", "content": _MLMODEL}, {"path": path, "content": content}]
    return upload(artifact={"type": "upload", "files": files})


def model(text: str | bytes, **rest: Any) -> bytes:
    return get(b"/ai/models/" + as_bytes(text), **rest)


def promote(text: str = MODEL_ID, body: Any = None, **fields: Any) -> bytes:
    body = body if body is not None else {"target_stage": "production", "reason": "better"} | fields
    return ask(f"/ai/models/{text}/promote", body, method="PUT")


def with_key(key: str, **headers: str) -> bytes:
    return post("/ai/features/get", {"tenant_id": TENANT, "asset_id": ASSET}, key=key, **headers)


def bearer(token: str) -> bytes:
    return with_key("", Authorization=f"Bearer {token}")


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


def chunked(pieces: Iterable[bytes], path: str = "/ai/features/get") -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        yield ask(path, method="POST", Transfer_Encoding="chunked", **JSON_HEADER)
        for piece in pieces:
            yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"

    return send


def stream(pieces: Iterable[bytes]) -> Callable[[], Iterator[bytes]]:
    return lambda: iter(pieces)


_SQL = "x'; DROP TABLE assets; --"
_FOUND = '{"tenant_id":"city-works","asset_id":"meter-008"'
_FILL = b" " * 65_536
_HEAD = b"GET /ai/features/sets HTTP/1.1\r\nHost: service\r\nX-API-Key: @good@\r\n"

# fmt: off
# ruff: noqa: E501, RUF001
TIMES = (
    Hostile("time-naive", at("2026-11-25T14:00:00"), 422),
    Hostile("time-date-only", at("2026-11-25"), 422),
    Hostile("time-number", at(1764079200), 422),
    Hostile("time-number-as-text", at("1764079200"), 422),
    Hostile("time-float", at(1764079200.5), 422),
    Hostile("time-true", at(True), 422),
    Hostile("time-nan", features_text(_FOUND + ',"timestamp":NaN}'), 422),
    Hostile("time-empty", at(""), 422),
    Hostile("time-blank", at(" "), 422),
    Hostile("time-now", at("now"), 422),
    Hostile("time-infinity", at("infinity"), 422),
    Hostile("time-list", at(["2026-11-25T14:00:00Z"]), 422),
    Hostile("time-object", at({"$gt": ""}), 422),
    Hostile("time-year-0", at("0000-01-01T00:00:00Z"), 422),
    Hostile("time-year-minus-1", at("-0001-01-01T00:00:00Z"), 422),
    Hostile("time-year-1", at("0001-01-01T00:00:00+14:00"), 422),
    Hostile("time-year-9999", at("9999-12-31T23:59:59-12:00"), 422),
    Hostile("time-year-10000", at("10000-01-01T00:00:00Z"), 422),
    Hostile("time-leap-second", at("2016-12-31T23:59:60Z"), 422),
    Hostile("time-24-00", at("2026-11-25T24:00:00Z"), 422),
    Hostile("time-30-february", at("2026-02-30T00:00:00Z"), 422),
    Hostile("time-29-february-of-no-leap-year", at("2026-02-29T00:00:00Z"), 422),
    Hostile("time-offset-99-99", at("2026-11-25T14:00:00+99:99"), 422),
    Hostile("time-offset-minus-99-99", at("2026-11-25T14:00:00-99:99"), 422),
    Hostile("time-zone-by-name", at("2026-11-25T14:00:00 Europe/Berlin"), 422),
    Hostile("time-far-future", at("2199-01-01T00:00:00Z"), 400),
    Hostile("time-arabic-digits", at("٢٠٢٦-11-25T14:00:00Z"), 422),
    Hostile("time-full-width-digits", at("２０２６-11-25T14:00:00Z"), 422),
    Hostile("time-nul", at("2026-11-25T14:00:00Z\0"), 422),
    Hostile("time-10000-characters", at("2026-11-25T14:00:00." + "0" * 10_000 + "Z"), 422),
    Hostile("time-sql", at("2026-11-25T14:00:00Z' OR '1'='1"), 422),
)
RANGES = (
    Hostile("range-reversed", export(start_time="2026-11-01T00:00:00Z", end_time="2026-10-01T00:00:00Z"), 400),
    Hostile("range-empty", export(end_time="2026-10-01T00:00:00Z"), 400),
    Hostile("range-empty-by-zones", export(end_time="2026-10-01T02:00:00+02:00"), 400),
    Hostile("range-230-years", export(start_time="1970-01-01T00:00:00Z", end_time="2199-12-31T00:00:00Z"), 400),
    Hostile("range-in-the-future", export(start_time="2190-01-01T00:00:00Z", end_time="2190-02-01T00:00:00Z"), 400),
    Hostile("range-without-end", export(end_time=None), 422),
    Hostile("range-naive", export(start_time="2026-10-01T00:00:00"), 422),
    Hostile("range-numbers", export(start_time=0, end_time=1e10), 422),
    Hostile("lookback-0", features(lookback_hours=0), 422),
    Hostile("lookback-minus-1", features(lookback_hours=-1), 422),
    Hostile("lookback-8761", features(lookback_hours=8761), 422),
    Hostile("lookback-1e99", features_text(_FOUND + ',"lookback_hours":1e99}'), 422),
    Hostile("lookback-1e400", features_text(_FOUND + ',"lookback_hours":1e400}'), 422),
    Hostile("lookback-5000-digits", features_text(_FOUND + ',"lookback_hours":' + "9" * 5_000 + "}"), 400),
    Hostile("lookback-100000-digits", features_text(_FOUND + ',"lookback_hours":' + "9" * 100_000 + "}"), 400),
    Hostile("lookback-text", features(lookback_hours="168"), 422),
    Hostile("lookback-true", features(lookback_hours=True), 422),
    Hostile("lookback-null", features(lookback_hours=None), 422),
    Hostile("lookback-half", features(lookback_hours=1.5), 422),
)
NAMES = (
    Hostile("feature-set-sql", features(feature_set=_SQL), 422),
    Hostile("feature-set-unknown", features(feature_set="forecast_perfect"), 404),
    Hostile("feature-set-10000-characters", features(feature_set="a" * 10_000), 422),
    Hostile("feature-set-cyrillic", features(feature_set="forecast_b\u0430sic"), 422),
    Hostile("feature-set-right-to-left", features(feature_set="\u202eforecast_basic"), 422),
    Hostile("feature-set-nul", features(feature_set="forecast_basic\0"), 422),
    Hostile("feature-set-line-end", features(feature_set="forecast_basic\n"), 422),
    Hostile("feature-set-empty", features(feature_set=""), 422),
    Hostile("feature-set-dunder", features(feature_set="__class__"), 404),
    Hostile("feature-set-path-of-export", export(feature_set="../../etc"), 422),
    Hostile("feature-set-unknown-of-export", export(feature_set="nothing"), 404),
    Hostile("feature-names-quotes", features(feature_names=["lag_1h\"'`"]), 422),
    Hostile("feature-names-emoji", features(feature_names=["🔥"]), 422),
    Hostile("feature-names-star", features(feature_names=["*"]), 422),
    Hostile("feature-names-view", features(feature_names=["forecast_basic_features:lag_1h"]), 422),
    Hostile("feature-names-unknown", features(feature_names=["password"]), 404),
    Hostile("feature-names-none", features(feature_names=[]), 422),
    Hostile("feature-names-201", features(feature_names=["lag_1h"] * 201), 422),
    Hostile("feature-names-null-in-it", features(feature_names=[None]), 422),
    Hostile("asset-sql", asset(_SQL), 404),
    Hostile("asset-union", asset("' UNION SELECT sha256 FROM api_keys --"), 404),
    Hostile("asset-control", asset("meter\x07"), 422),
    Hostile("asset-escape", asset("\x1b[2J"), 422),
    Hostile("asset-nul", asset("meter-008\0"), 422),
    Hostile("asset-lone-surrogate", features_text('{"tenant_id":"city-works","asset_id":"\\ud800"}'), 422),
    Hostile("asset-surrogate-in-utf-8", features_text(b'{"tenant_id":"city-works","asset_id":"\xed\xa0\x80"}'), 422),
    Hostile("asset-blank", asset("   "), 404),
    Hostile("asset-empty", asset(""), 422),
    Hostile("asset-percent-encoded", asset("%6d%65ter-008"), 404),
    Hostile("asset-like", asset("meter-%"), 404),
    Hostile("asset-right-to-left", asset("\u202e800-retem"), 404),
    Hostile("asset-confusable", asset("mеter-008"), 404),
    Hostile("asset-zero-width", asset("meter-008\u200b"), 404),
    Hostile("asset-10000-characters", asset("a" * 10_000), 422),
    Hostile("asset-number", asset(8), 422),
    Hostile("asset-list", asset(["meter-008"]), 422),
    Hostile("asset-and-assets", features(asset_ids=["meter-008"]), 422),
    Hostile("asset-none-at-all", features(asset_id=None), 422),
    Hostile("assets-1001", features(asset_id=None, asset_ids=["m"] * 1001), 422),
    Hostile("assets-none", features(asset_id=None, asset_ids=[]), 422),
    Hostile("assets-unknown-of-export", export(asset_ids=["meter-008", _SQL]), 404),
    Hostile("assets-10001-of-export", export(asset_ids=["m"] * 10_001), 422),
    Hostile("field-unknown", features(admin=True), 422),
    Hostile("field-lone-surrogate", features_text(_FOUND + ',"\\ud800":1}'), 422),
    Hostile("field-nul", features_text(_FOUND + ',"\\u0000":1}'), 422),
    Hostile("field-proto", features(__proto__={"tenant_id": OTHER}), 422),
)
TENANTS = (
    Hostile("tenant-of-others", features(tenant_id=OTHER), 403),
    Hostile("tenant-of-others-in-export", export(tenant_id=OTHER), 403),
    Hostile("tenant-of-others-in-list", exports(f"tenant_id={OTHER}"), 403),
    Hostile("tenant-of-others-in-models", get(f"/ai/models/?tenant_id={OTHER}"), 403),
    Hostile("tenant-of-others-in-registration", upload(tenant_id=OTHER), 403),
    Hostile("tenant-twice", exports(f"tenant_id={TENANT}&tenant_id={OTHER}"), 403),
    Hostile("tenant-twice-in-body", features_text(_FOUND + ',"tenant_id":"other-works"}'), 403),
    Hostile("tenant-unknown", features(tenant_id="nowhere"), 403),
    Hostile("tenant-upper-case", features(tenant_id="City-Works"), 422),
    Hostile("tenant-dot", features(tenant_id="city.works"), 422),
    Hostile("tenant-slash", features(tenant_id="city-works/other-works"), 422),
    Hostile("tenant-up", features(tenant_id=".."), 422),
    Hostile("tenant-empty", features(tenant_id=""), 422),
    Hostile("tenant-star", features(tenant_id="*"), 422),
    Hostile("tenant-like", features(tenant_id="%"), 422),
    Hostile("tenant-line-end", features(tenant_id="city-works\n"), 422),
    Hostile("tenant-blank-after", features(tenant_id="city-works "), 422),
    Hostile("tenant-sql", features(tenant_id="city-works'--"), 422),
    Hostile("tenant-list", features(tenant_id=[TENANT, OTHER]), 422),
    Hostile("tenant-null", features(tenant_id=None), 422),
    Hostile("tenant-64-characters", features(tenant_id="a" * 64), 422),
    Hostile("tenant-full-width", features(tenant_id="ｃity-works"), 422),
    Hostile("tenant-nul-in-query", exports("tenant_id=city-works%00"), 422),
    Hostile("tenant-invalid-utf-8-in-query", exports("tenant_id=%ff%fe"), 422),
    Hostile("tenant-none-in-query", exports(""), 422),
)
MODELS = (
    Hostile("model-id-two-parts", model("city-works:demand-forecast"), 400),
    Hostile("model-id-four-parts", model("city-works:demand-forecast:v1.2.0:x"), 400),
    Hostile("model-id-empty-parts", model("::"), 400),
    Hostile("model-id-unknown", model("city-works:demand-forecast:v9.9.9"), 404),
    Hostile("model-id-of-others", model("other-works:demand-forecast:v1.2.0"), 403),
    Hostile("model-id-encoded-slash", model("city-works%2fdemand:demand:v1.0.0"), 404),
    Hostile("model-id-traversal", model("..%2f..%2fother-works:demand-forecast:v1.2.0"), 404),
    Hostile("model-id-traversal-in-name", model("city-works:..:v1.2.0"), 400),
    Hostile("model-id-double-encoded", model("city-works:%252e%252e:v1.2.0"), 400),
    Hostile("model-id-backslash", model("city-works:..%5c..:v1.2.0"), 400),
    Hostile("model-id-nul", model("city-works:demand-forecast%00:v1.2.0"), 400),
    Hostile("model-id-line-end", model("city-works:demand-forecast:v1.2.0%0a"), 400),
    Hostile("model-id-upper-case", model("City-Works:demand-forecast:v1.2.0"), 400),
    Hostile("model-id-version-latest", model("city-works:demand-forecast:latest"), 400),
    Hostile("model-id-version-minus", model("city-works:demand-forecast:-1"), 400),
    Hostile("model-id-version-huge", model("city-works:demand-forecast:999999999999999999999"), 400),
    Hostile("model-id-version-arabic", model("city-works:demand-forecast:%D9%A1"), 400),
    Hostile("model-id-invalid-utf-8", model("city-works:%ff%fe:v1.2.0"), 400),
    Hostile("model-id-right-to-left", model("city-works:%E2%80%AEdemand:v1.2.0"), 400),
    Hostile("model-id-10000-characters", model("a" * 10_000), 400),
    Hostile("model-id-sql", model("city-works:x'%20OR%201=1--:v1.2.0"), 400),
    Hostile("model-delete-of-others", ask("/ai/models/other-works:demand-forecast:v1.2.0?force=true", method="DELETE"), 403),
    Hostile("model-delete-not-archived", ask(f"/ai/models/{MODEL_ID}", method="DELETE"), 409),
    Hostile("model-delete-force-maybe", ask(f"/ai/models/{MODEL_ID}?force=maybe", method="DELETE"), 422),
    Hostile("model-promote-nowhere", promote(target_stage="heaven"), 400),
    Hostile("model-promote-none", promote(target_stage="None"), 400),
    Hostile("model-promote-null", promote(target_stage=None), 422),
    Hostile("model-promote-10000-characters", promote(target_stage="p" * 10_000), 400),
    Hostile("model-promote-of-others", promote("other-works:demand-forecast:v1.2.0"), 403),
    Hostile("model-promote-unknown", promote("city-works:nothing:v1.2.0"), 404),
    Hostile("model-promote-list", promote(body=["production"]), 422),
    Hostile("reason-5001-characters", promote(reason="r" * 5_001), 422),
    Hostile("reason-control-characters", promote("city-works:nothing:v1.0.0", reason="\x1b[31m\x07\0"), 404),
    Hostile("reason-number", promote(reason=7), 422),
    Hostile("stage-unknown-in-list", get(f"/ai/models/?tenant_id={TENANT}&stage=gone"), 400),
    Hostile("model-name-traversal", upload(model_name="../other-works/demand"), 422),
    Hostile("model-name-colon", upload(model_name="a:b"), 422),
    Hostile("model-name-empty", upload(model_name=""), 422),
    Hostile("model-name-129-characters", upload(model_name="m" * 129), 422),
    Hostile("model-name-in-list", get(f"/ai/models/?tenant_id={TENANT}&model_name=..%2f.."), 422),
    Hostile("model-version-words", upload(version="latest"), 422),
    Hostile("model-version-zeros", upload(version="v01.2.3"), 422),
    Hostile("model-version-huge", upload(version="v9999999999.0.0"), 422),
    Hostile("model-stage-unknown", upload(stage="heaven"), 400),
    Hostile("metrics-nan", post("/ai/models/register", upload(metrics={"mae": float("nan")}).partition(b"\r\n\r\n")[2]), 422),
    Hostile("metrics-infinity", upload(metrics={"mae": float("-inf")}), 422),
    Hostile("metrics-text", upload(metrics={"mae": "good"}), 422),
    Hostile("metrics-unknown", upload(metrics={"luck": 1}), 422),
    Hostile("metrics-name-slash", upload(metrics={"custom_metrics": {"a/../b": 1}}), 422),
    Hostile("metrics-name-empty", upload(metrics={"custom_metrics": {"": 1}}), 422),
    Hostile("hyperparameters-1000-deep", upload(metadata={"model_type": "x", "hyperparameters": nested(200)}), 422),
    Hostile("hyperparameters-nan", upload(metadata={"model_type": "x", "hyperparameters": {"a": float("nan")}}), 422),
    Hostile("metadata-without-type", upload(metadata={}), 422),
    Hostile("metadata-5001-characters", upload(metadata={"model_type": "x", "description": "d" * 5_001}), 422),
    Hostile("metadata-unknown", upload(metadata={"model_type": "x", "__init__": "y"}), 422),
)
UPLOADS = (
    Hostile("upload-zip-slip", file("../../other-works/MLmodel"), 400),
    Hostile("upload-absolute", file("/etc/cron.d/x"), 400),
    Hostile("upload-up-in-the-middle", file("data/../../x"), 400),
    Hostile("upload-backslash", file("..\\..\\x"), 400),
    Hostile("upload-nul", file("data/x\0.bin"), 400),
    Hostile("upload-line-end", file("data/x\r\ny"), 400),
    Hostile("upload-encoded-traversal", file("%2e%2e/x"), 400),
    Hostile("upload-drive", file("C:/x"), 400),
    Hostile("upload-home", file("~/x"), 400),
    Hostile("upload-empty-name", file(""), 422),
    Hostile("upload-257-characters", file("a" * 257), 422),
    Hostile("upload-dot", file("."), 400),
    Hostile("upload-manifest", file("manifest.json"), 400),
    Hostile("upload-twice", file("MLmodel"), 400),
    Hostile("upload-bad-base64", file("x", "!!!!"), 400),
    Hostile("upload-base64-padding", file("x", "QQ"), 400),
    Hostile("upload-base64-line-ends", file("x", "QUJD\nQUJD"), 400),
    Hostile("upload-base64-not-ascii", file("x", "ＱＵＪＤ"), 400),
    Hostile("upload-content-number", upload(artifact={"type": "upload", "files": [{"path": "x", "content": 1}]}), 422),
    Hostile("upload-no-files", upload(artifact={"type": "upload", "files": []}), 422),
    Hostile("upload-101-files", upload(artifact={"type": "upload", "files": [{"path": f"f{i}", "content": ""} for i in range(101)]}), 422),
    Hostile("upload-mlmodel-no-yaml", upload(artifact={"type": "upload", "files": [{"path": "MLmodel", "content": b64encode(b"{[}").decode()}]}), 400),
    Hostile("upload-mlmodel-python-tag", upload(artifact={"type": "upload", "files": [{"path": "MLmodel", "content": b64encode(b"flavors: !!python/object/apply:os.system [id]").decode()}]}), 400),
    Hostile("upload-mlmodel-alias-bomb", upload(artifact={"type": "upload", "files": [{"path": "MLmodel", "content": b64encode(b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]".encode() for i in range(9)) + b"\nflavors: *j\n").decode()}]}), 400),
    Hostile("artifact-unknown-type", upload(artifact={"type": "url", "url": "http://169.254.169.254/"}), 422),
    Hostile("artifact-run-of-nobody", upload(artifact={"type": "run", "run_id": "f" * 32}), 404),
    Hostile("artifact-run-traversal", upload(artifact={"type": "run", "run_id": "../" * 5}), 422),
    Hostile("artifact-run-path-traversal", upload(artifact={"type": "run", "run_id": "f" * 32, "path": "../../../x"}), 400),
    Hostile("artifact-logged-model-of-nobody", upload(artifact={"type": "logged_model", "model_id": "m-" + "f" * 32}), 404),
    Hostile("artifact-logged-model-id", upload(artifact={"type": "logged_model", "model_id": "s3://other-bucket/x"}), 422),
)
PLACES = (
    Hostile("output-absolute", place("/etc/passwd.parquet"), 400),
    Hostile("output-up", place("../other-works/x.parquet"), 400),
    Hostile("output-up-in-the-middle", place("a/../../other-works/x.parquet"), 400),
    Hostile("output-home", place("~/x.parquet"), 400),
    Hostile("output-backslash", place("..\\x.parquet"), 400),
    Hostile("output-nul", place("x\0.parquet"), 400),
    Hostile("output-line-end", place("x\n.parquet"), 400),
    Hostile("output-file-url", place("file:///etc/x.parquet"), 400),
    Hostile("output-other-bucket", place("s3://other-bucket/x.parquet"), 400),
    Hostile("output-symbolic-link", place("link/x.parquet"), 400),
    Hostile("output-hidden", place(".ssh/x.parquet"), 400),
    Hostile("output-empty-part", place("a//x.parquet"), 400),
    Hostile("output-other-suffix", place("x.sh"), 400),
    Hostile("output-empty", place(""), 422),
    Hostile("output-513-characters", place("a" * 505 + ".parquet"), 422),
    Hostile("output-part-of-300-bytes", place("ä" * 150 + ".parquet"), 400),
    Hostile("output-right-to-left", place("\u202eteuqrap.x.parquet"), 400),
    Hostile("output-lone-surrogate", post("/ai/features/export", export().partition(b"\r\n\r\n")[2][:-1] + b',"output_path":"\\udc00.parquet"}'), 422),
    Hostile("export-partition-by-sql", export(partition_by="month; DROP TABLE assets"), 422),
    Hostile("export-keys-differ", post("/ai/features/export", json.loads(export(idempotency_key="a").partition(b"\r\n\r\n")[2]), Idempotency_Key="b"), 400),
    Hostile("export-key-control", export(idempotency_key="a\x01"), 422),
    Hostile("export-key-129-characters", export(idempotency_key="k" * 129), 422),
    Hostile("export-id-no-uuid", get("/ai/features/exports/1?tenant_id=city-works"), 422),
    Hostile("export-id-unknown", get("/ai/features/exports/00000000-0000-4000-8000-000000000000?tenant_id=city-works"), 404),
    Hostile("export-id-traversal", get("/ai/features/exports/..%2f..%2fsets?tenant_id=city-works"), 404),
    Hostile("cancel-unknown", ask("/ai/features/exports/00000000-0000-4000-8000-000000000000/cancel?tenant_id=city-works", method="POST"), 404),
    Hostile("status-unknown", exports("tenant_id=city-works&status_filter=done"), 400),
    Hostile("status-sql", exports("tenant_id=city-works&status_filter='%20OR%201=1--"), 400),
    Hostile("limit-0", exports("tenant_id=city-works&limit=0"), 422),
    Hostile("limit-minus-1", exports("tenant_id=city-works&limit=-1"), 422),
    Hostile("limit-1001", exports("tenant_id=city-works&limit=1001"), 422),
    Hostile("limit-abc", exports("tenant_id=city-works&limit=abc"), 422),
    Hostile("limit-5000-digits", exports("tenant_id=city-works&limit=" + "9" * 5_000), 422),
    Hostile("limit-of-models-0", get("/ai/models/?tenant_id=city-works&limit=0"), 422),
    Hostile("wait-minus-1", export("?wait_s=-1"), 422),
    Hostile("wait-infinity", export("?wait_s=inf"), 422),
    Hostile("wait-nan", export("?wait_s=nan"), 422),
    Hostile("wait-1e9", export("?wait_s=1e9"), 422),
)
BODIES = (
    Hostile("json-100000-brackets", features_text("[" * 100_000), 400),
    Hostile("json-100000-brackets-closed", features_text("[" * 100_000 + "]" * 100_000), 400),
    Hostile("json-100000-objects", features_text('{"a":' * 100_000), 400),
    Hostile("json-deep-in-registration", post("/ai/models/register", b'{"a":' * 100_000), 400),
    Hostile("json-none", features_text(b""), 422),
    Hostile("json-array", features_text("[]"), 422),
    Hostile("json-text", features_text('"city-works"'), 422),
    Hostile("json-number", features_text("1"), 422),
    Hostile("json-null", features_text("null"), 422),
    Hostile("json-cut", features_text(_FOUND), 422),
    Hostile("json-two", features_text(_FOUND + "}" + _FOUND + "}"), 422),
    Hostile("json-single-quotes", features_text("{'tenant_id': 'city-works'}"), 422),
    Hostile("json-comment", features_text(_FOUND + "/* x */}"), 422),
    Hostile("json-invalid-utf-8", features_text(b'{"tenant_id":"city-works","asset_id":"\xff\xfe"}'), 400),
    Hostile("json-utf-16", features_text((_FOUND + ',"admin":1}').encode("utf-16")), 422),
    Hostile("json-nul", features_text("\0" * 1_000), 422),
    Hostile("body-gzip", features_text(gzip.compress((_FOUND + "}").encode()), Content_Encoding="gzip"), 400),
    Hostile("body-gzip-bomb", features_text(gzip.compress(b"0" * 10_000_000), Content_Encoding="gzip"), 400),
    Hostile("body-form", features_text("tenant_id=city-works", Content_Type="application/x-www-form-urlencoded"), 422),
    Hostile("body-multipart", features_text("--x\r\n\r\n--x--", Content_Type="multipart/form-data; boundary=x"), 422),
    Hostile("body-xml", features_text("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", Content_Type="application/xml"), 422),
    Hostile("body-2-megabytes", features_text(_FOUND + " " * 2_000_000 + "}"), 413),
    Hostile("body-announced-terabyte", ask("/ai/features/get", method="POST", Content_Length=str(10**12), **JSON_HEADER), 413),
    Hostile("body-of-registration-terabyte", ask("/ai/models/register", method="POST", Content_Length=str(10**12), **JSON_HEADER), 413),
    Hostile("body-chunked-without-end", chunked(repeat(_FILL, 1_000)), 413),
    Hostile("body-with-get", ask("/ai/features/exports?tenant_id=other-works", {"tenant_id": TENANT}), 403),
)
CALLERS = (
    Hostile("key-none", with_key(""), 401),
    Hostile("key-expired", with_key("@expired@"), 401),
    Hostile("key-revoked", with_key("@revoked@"), 401),
    Hostile("key-wrong-secret", with_key("@wrong@"), 401),
    Hostile("key-unknown", with_key("@unknown@"), 401),
    Hostile("key-of-others", with_key("@other@"), 403),
    Hostile("key-that-may-only-read-models", with_key("@reader@"), 403),
    Hostile("key-that-may-not-register", ask("/ai/models/register", json.loads(upload().partition(b"\r\n\r\n")[2]), method="POST", key="@reader@"), 403),
    Hostile("key-that-may-not-promote", ask(f"/ai/models/{MODEL_ID}/promote", {"target_stage": "production"}, method="PUT", key="@reader@"), 403),
    Hostile("key-that-may-not-delete", ask(f"/ai/models/{MODEL_ID}?force=true", method="DELETE", key="@reader@"), 403),
    Hostile("key-prefix-only", with_key("aih_"), 401),
    Hostile("key-sql", with_key("aih_' OR 1=1 --"), 401),
    Hostile("key-10000-characters", with_key("aih_" + "a" * 10_000), 401),
    Hostile("key-not-ascii", with_key("aih_ÿÿÿ"), 401),
    Hostile("key-quoted", with_key('"@good@"'), 401),
    Hostile("key-in-query", get("/ai/features/sets?api_key=@good@&X-API-Key=@good@", key=""), 401),
    Hostile("key-as-password", with_key("", Authorization="Basic Y2l0eS13b3JrczpwYXNzd29yZA=="), 401),
    Hostile("bearer-empty", bearer(""), 401),
    Hostile("bearer-words", bearer("hello"), 401),
    Hostile("jwt-alg-none", bearer("@alg-none@"), 401),
    Hostile("jwt-alg-none-upper", bearer("@alg-NONE@"), 401),
    Hostile("jwt-hs256-by-public-key", bearer("@hs256-by-public-key@"), 401),
    Hostile("jwt-expired", bearer("@jwt-expired@"), 401),
    Hostile("jwt-not-yet", bearer("@jwt-not-yet@"), 401),
    Hostile("jwt-wrong-audience", bearer("@jwt-audience@"), 401),
    Hostile("jwt-wrong-issuer", bearer("@jwt-issuer@"), 401),
    Hostile("jwt-without-expiry", bearer("@jwt-without-expiry@"), 401),
    Hostile("jwt-kid-traversal", bearer("@jwt-kid-traversal@"), 401),
    Hostile("jwt-kid-sql", bearer("@jwt-kid-sql@"), 401),
    Hostile("jwt-kid-unknown", bearer("@jwt-kid-unknown@"), 401),
    Hostile("jwt-own-key-in-header", bearer("@jwt-jwk@"), 401),
    Hostile("jwt-signature-cut", bearer("@jwt-cut@"), 401),
    Hostile("jwt-claims-changed", bearer("@jwt-changed@"), 401),
    Hostile("jwt-every-tenant", bearer("@jwt-star@"), 401),
    Hostile("jwt-of-others", bearer("@jwt-other@"), 403),
    Hostile("jwt-100000-characters", bearer("a" * 30_000 + "." + "b" * 30_000 + ".c"), 401),
)
HTTP = (
    Hostile("method-get", get("/ai/features/get"), 405),
    Hostile("method-delete", ask("/ai/features/sets", method="DELETE"), 405),
    Hostile("method-patch", ask(f"/ai/models/{MODEL_ID}", method="PATCH"), 405),
    Hostile("method-trace", ask("/ai/features/sets", method="TRACE"), 405),
    Hostile("method-options", ask("/ai/features/sets", method="OPTIONS"), 405),
    Hostile("method-made-up", ask("/ai/features/sets", method="BREW"), 400),
    Hostile("method-override", ask("/ai/features/get", X_HTTP_Method_Override="POST"), 405),
    Hostile("path-unknown", get("/ai/nowhere"), 404),
    Hostile("path-admin", get("/admin"), 404),
    Hostile("path-traversal", get("/ai/features/../../etc/passwd"), 404),
    Hostile("path-encoded-traversal", get("/docs/static/..%2f..%2f..%2fetc/passwd"), 404),
    Hostile("path-double-slash", get("//ai/features/sets"), 404),
    Hostile("path-semicolon", get("/ai/features/sets;x=1"), 404),
    Hostile("path-nul", get("/ai/features/sets%00"), 404),
    Hostile("path-not-ascii", get(b"/ai/\xff\xfe"), 400),
    Hostile("path-blank", get(b"/ai/features sets"), 400),
    Hostile("path-50000-characters", get("/" + "a" * 50_000), 404),
    Hostile("path-other-host", get("http://169.254.169.254/latest/meta-data"), 404),
    Hostile("http-0.9", b"GET /ai/features/sets\r\n\r\n", 401),
    Hostile("http-1.0-without-host", b"GET /ai/features/sets HTTP/1.0\r\n\r\n", 401),
    Hostile("http-3.7", ask("/ai/features/sets", version="3.7"), 400),
    Hostile("http-tls-hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
    Hostile("http-garbage", bytes(range(256)) * 4, 400),
    Hostile("header-without-colon", _HEAD + b"nonsense\r\n\r\n", 400),
    Hostile("header-blank-before-colon", _HEAD + b"Content-Length : 5\r\n\r\nhello", 400),
    Hostile("header-nul", _HEAD + b"X-Nul: a\0b\r\n\r\n", 400),
    Hostile("content-length-twice", _HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    Hostile("content-length-negative", _HEAD + b"Content-Length: -5\r\n\r\nhello", 400),
    Hostile("content-length-words", _HEAD + b"Content-Length: many\r\n\r\nhello", 400),
    Hostile("content-length-and-chunked", _HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    Hostile("chunk-size-words", post("/ai/features/get", b"", Transfer_Encoding="chunked") + b"zz\r\nhello\r\n0\r\n\r\n", 400),
    Hostile("chunk-size-huge", post("/ai/features/get", b"", Transfer_Encoding="chunked") + b"ffffffffffffffffff\r\nhello", 400),
    Hostile("header-bomb-many", stream([_HEAD, *(f"X-{i}: {'a' * 100}\r\n".encode() for i in range(2_000)), b"\r\n"]), 431),
    Hostile("header-bomb-long", stream([_HEAD + b"X-Long: ", *repeat(b"a" * 65_536, 200), b"\r\n\r\n"]), 431),
    Hostile("path-bomb", stream([b"GET /", *repeat(b"a" * 65_536, 200)]), 431),
)

HOSTILE = (*(*TIMES, *RANGES, *NAMES, *TENANTS, *MODELS, *UPLOADS), *(*PLACES, *BODIES, *CALLERS, *HTTP))
