"""A key of a tenant's own, on a real S3 server: its own folder, read only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client
from support import s3_servers

from ai_hub.errors import BadInputError
from ai_hub.registry.tenants import read_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "ml-models"
#: The second begins like the first.
TENANTS = ("acme", "acme-2")
FILES = [
    f"{tenant}/{path}"
    for tenant in TENANTS
    for path in ("demand/v1.0.0/model.bin", ".runs/1/run/artifacts/x")
]
Attempt = Callable[[S3Client, str], Any]


def _all_deleted(s3: S3Client, path: str) -> None:
    answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": path}]})
    if errors := answer.get("Errors"):
        raise ClientError(
            {"Error": {"Code": errors[0]["Code"]}, "ResponseMetadata": {"HTTPStatusCode": 403}},  # type: ignore[typeddict-item]
            "DeleteObjects",
        )


#: What a key must not do to a key (`path`) of any tenant, its own included.
WRITES: dict[str, Attempt] = {
    "write": lambda s3, path: s3.put_object(Bucket=BUCKET, Key=path, Body=b"evil"),
    "write beside": lambda s3, path: s3.put_object(Bucket=BUCKET, Key=f"{path}.new", Body=b"evil"),
    "delete": lambda s3, path: s3.delete_object(Bucket=BUCKET, Key=path),
    "delete several": _all_deleted,
    "write in parts": lambda s3, path: s3.create_multipart_upload(Bucket=BUCKET, Key=path),
    "tag": lambda s3, path: s3.put_object_tagging(Bucket=BUCKET, Key=path, Tagging={"TagSet": []}),
    "copy over": lambda s3, path: s3.copy_object(
        Bucket=BUCKET, Key=path, CopySource=f"{BUCKET}/acme/demand/v1.0.0/model.bin"
    ),
    "open the bucket": lambda s3, _: s3.delete_bucket_policy(Bucket=BUCKET),
    "delete the bucket": lambda s3, _: s3.delete_bucket(Bucket=BUCKET),
}
#: What it must not do to those of another tenant.
READS: dict[str, Attempt] = {
    "read": lambda s3, path: s3.get_object(Bucket=BUCKET, Key=path),
    "look": lambda s3, path: s3.head_object(Bucket=BUCKET, Key=path),
    "copy here": lambda s3, path: s3.copy_object(
        Bucket=BUCKET, Key="acme/mine", CopySource=f"{BUCKET}/{path}"
    ),
    "walk up": lambda s3, path: s3.get_object(Bucket=BUCKET, Key=f"acme/../{path}"),
    "list": lambda s3, path: s3.list_objects_v2(Bucket=BUCKET, Prefix=path.partition("/")[0] + "/"),
    "list the old way": lambda s3, path: s3.list_objects(Bucket=BUCKET, Prefix=path),
    "list versions": lambda s3, path: s3.list_object_versions(Bucket=BUCKET, Prefix=path),
    "list everything": lambda s3, _: s3.list_objects_v2(Bucket=BUCKET),
    "list what begins like it": lambda s3, _: s3.list_objects_v2(Bucket=BUCKET, Prefix="acme"),
    "list folders": lambda s3, _: s3.list_objects_v2(Bucket=BUCKET, Delimiter="/"),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, S3Client]]:
    """A client for each tenant's key, and one for the server's own."""
    policies = {tenant: read_policy(tenant, BUCKET) for tenant in TENANTS}
    with s3_servers.running(tmp_path_factory.mktemp("s3"), policies, BUCKET) as clients:
        for path in FILES:
            clients["root"].put_object(Bucket=BUCKET, Key=path, Body=path.encode())
        yield clients


@pytest.mark.parametrize("tenant", TENANTS)
def test_its_own_folder__is_read(keys: dict[str, S3Client], tenant: str) -> None:
    own = [path for path in FILES if path.startswith(f"{tenant}/")]
    assert _listed(keys[tenant], f"{tenant}/") == sorted(own)
    for path in own:
        assert keys[tenant].get_object(Bucket=BUCKET, Key=path)["Body"].read() == path.encode()


def test_everything_else__is_refused(keys: dict[str, S3Client]) -> None:
    refused = 0
    for tenant, other in (TENANTS, TENANTS[::-1]):
        theirs = f"{other}/demand/v1.0.0/model.bin"
        for path in (theirs, f"{tenant}/demand/v1.0.0/model.bin"):
            for name, attempt in {**WRITES, **(READS if path == theirs else {})}.items():
                with pytest.raises(ClientError) as refusal:
                    attempt(keys[tenant], path)
                status = refusal.value.response["ResponseMetadata"]["HTTPStatusCode"]
                assert status in {400, 403}, (tenant, path, name, refusal.value)
                refused += 1
    assert refused == 2 * (2 * len(WRITES) + len(READS))
    assert _listed(keys["root"], "") == sorted(FILES)
    for path in FILES:
        assert keys["root"].get_object(Bucket=BUCKET, Key=path)["Body"].read() == path.encode()


@pytest.mark.parametrize("name", ["*", "a*", "acme/", "", "../acme", "acme/*", "ac?me"])
def test_a_name_that_would_open_more__is_refused(name: str) -> None:
    with pytest.raises(BadInputError):
        read_policy(name, BUCKET)


def _listed(s3: S3Client, prefix: str) -> list[str]:
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return sorted(item["Key"] for item in found)
