"""What went wrong with an attempt: whether it may pass by itself, and how to tell it."""

from __future__ import annotations

import errno
from typing import Final

from adbc_driver_manager import dbapi
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from feast.errors import FeastError
from sqlalchemy.exc import OperationalError

from ai_hub.errors import AiHubError
from feast_plugins.errors import QueryTimeoutError

_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_SERVER_ERROR: Final = 500
_PASSING_STATUSES: Final = {408, 429}
#: With another status. An upload that is gone: somebody else's clean-up took it. A clock that differs: this
#: process was asleep, and what it sent is old.
_PASSING_CODES: Final = {"RequestTimeout", "RequestTimeTooSkewed", "NoSuchUpload"}
#: Classes of SQLSTATE: connection, rollback, resources, operator's intervention.
_PASSING_STATES: Final = ("08", "40", "53", "57")
_AWAY = (BotoCoreError, HTTPClientError, OperationalError)


def may_pass(error: Exception) -> bool:
    """Whether the same may work later: a server was away or overloaded."""
    match error:
        case ClientError():
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = error.response.get("Error", {}).get("Code")
            return status >= _SERVER_ERROR or status in _PASSING_STATUSES or code in _PASSING_CODES
        case AiHubError():
            return error.retryable
        case dbapi.Error():
            return not error.sqlstate or error.sqlstate.startswith(_PASSING_STATES)
        case OSError():
            # without a number: of a stream from the database that broke off
            return error.errno is None
        case _:
            return isinstance(error, _AWAY)


def is_defect(error: Exception) -> bool:
    """Whether it is nothing that was to be expected."""
    return not isinstance(error, AiHubError | OSError | ClientError | FeastError) and not may_pass(error)


def reason(error: Exception) -> str:  # noqa: PLR0911  # a table of texts
    """What to tell whoever asked for the job: no paths of the server, no SQL."""
    match error:
        case AiHubError():
            return error.message
        case OSError() if error.errno in _FULL:
            return "No space is left where its files are stored."
        case OSError() if error.errno is not None:
            return f"The file could not be written: {error.strerror}."
        case ClientError():
            found = error.response.get("Error", {})
            return f"The S3 store refused: {found.get('Code')}, {found.get('Message')}."
        case BotoCoreError() | HTTPClientError():
            return f"The S3 store does not answer: {type(error).__name__}."
        case FeastError() | QueryTimeoutError():
            return str(error)
        case OSError() | dbapi.Error() | OperationalError():
            return "The database ended the connection or refused the query; the worker's log says more."
        case _:
            return f"The job failed with {type(error).__name__}; the worker's log says more."
