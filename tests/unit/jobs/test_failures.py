"""What workers make of errors."""

from __future__ import annotations

import errno

import pytest
from adbc_driver_manager import AdbcStatusCode, dbapi
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from feast.errors import FeatureServiceNotFoundException
from sqlalchemy.exc import OperationalError

from ai_hub.errors import BadInputError, ServiceDownError
from ai_hub.jobs.worker import is_defect, may_pass, reason
from feast_plugins.errors import QueryTimeoutError

SECRET = "postgresql://ai_hub:hunter2@db/ai_hub"


def _s3(status: int, code: str) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "text"}, "ResponseMetadata": {"HTTPStatusCode": status}},
        "PutObject",
    )


def _adbc(sqlstate: str) -> dbapi.Error:
    status = AdbcStatusCode.UNKNOWN
    return dbapi.OperationalError(f"libpq: {SECRET}", status_code=status, sqlstate=sqlstate)


@pytest.mark.parametrize(
    ("error", "passes", "defect", "text"),
    [
        (OSError(errno.ENOSPC, "No space"), False, False, "No space is left"),
        (OSError(errno.EDQUOT, "Quota"), False, False, "No space is left"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/srv/secret"),
            False,
            False,
            "Permission denied.",
        ),
        (OSError(f"libpq: {SECRET}"), True, False, "database ended the connection"),
        (_s3(503, "SlowDown"), True, False, "SlowDown"),
        (_s3(429, "TooManyRequests"), True, False, "TooManyRequests"),
        (_s3(408, ""), True, False, "refused"),
        (_s3(400, "RequestTimeout"), True, False, "RequestTimeout"),
        (_s3(403, "RequestTimeTooSkewed"), True, False, "RequestTimeTooSkewed"),
        (_s3(404, "NoSuchUpload"), True, False, "NoSuchUpload"),
        (_s3(404, "NoSuchBucket"), False, False, "NoSuchBucket"),
        (_s3(403, "AccessDenied"), False, False, "AccessDenied"),
        (EndpointConnectionError(endpoint_url="http://s3"), True, False, "does not answer"),
        (NoCredentialsError(), True, False, "does not answer"),
        (ServiceDownError("TimescaleDB", "db:5432", "refused"), True, False, "TimescaleDB at db:5432"),
        (BadInputError("wrong"), False, False, "wrong"),
        (KeyError(SECRET), False, True, "KeyError; the worker's log"),
        (FeatureServiceNotFoundException("basic"), False, False, "basic does not exist"),
        (QueryTimeoutError(60), False, False, "did not finish within 60 s"),
        (_adbc("57P01"), True, False, "database ended the connection"),
        (_adbc("42703"), False, True, "database ended the connection"),
        (OperationalError("SELECT", {}, Exception(SECRET)), True, False, "database ended the connection"),
    ],
    ids=range(22),
)
def test_error__passes_or_not_and_is_told_without_secrets(
    error: Exception, passes: bool, defect: bool, text: str
) -> None:
    assert may_pass(error) is passes
    assert is_defect(error) is defect
    assert text in reason(error)
    assert "hunter2" not in reason(error)
    assert "/srv" not in reason(error)
