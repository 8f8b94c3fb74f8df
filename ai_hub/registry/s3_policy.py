"""S3 keys of a tenant's own: what they may be allowed."""

from __future__ import annotations

from typing import Any

from ai_hub.registry.tenants import check_name


def read_policy(tenant: str, bucket: str) -> dict[str, Any]:
    """The policy of a key that reads a tenant's folder and nothing else, as AWS, MinIO and SeaweedFS take it.

    Writing stays with the server: whoever could write past it could exchange a sealed version's files.

    Args:
        tenant: whose folder; `{bucket}/{tenant}/` holds its runs and its registered versions.
        bucket: of model artifacts.

    Raises:
        BadInputError: no tenant can have this name.
    """
    check_name(tenant)  # a name with a wildcard would open other folders
    arn = f"arn:aws:s3:::{bucket}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ReadTheTenantsFiles",
                "Effect": "Allow",
                "Action": ["s3:GetObject"],
                "Resource": [f"{arn}/{tenant}/*"],
            },
            {
                "Sid": "ListTheTenantsFolder",
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": [arn],
                "Condition": {"StringLike": {"s3:prefix": [f"{tenant}/*"]}},
            },
        ],
    }
