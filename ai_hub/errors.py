"""Errors a user can act on.

The class docstring is the default message, values are attributes, and the text ends with what to do next.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, Final


class AiHubError(Exception):
    """Something went wrong."""

    #: Whether the same call may succeed later without any change by the user.
    retryable = False
    #: Exit status of the command line.
    exit_code = 1
    #: Of the request that the service answered with it, as in the service's log.
    request_id: str | None = None

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "")
        self.hint = hint
        super().__init__(self.message if hint is None else f"{self.message}\n{hint}")

    def __reduce__(self) -> Any:
        """Let other processes raise it: some are made of more than their text."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[AiHubError], texts: tuple[str, ...], attributes: dict[str, Any]) -> AiHubError:
    error = kind.__new__(kind, *texts)
    error.__dict__.update(attributes)
    return error


class BadInputError(AiHubError):
    """The input is not usable as given."""

    exit_code = 2


class NotFoundError(AiHubError):
    """There is nothing by that name."""

    exit_code = 2


class ConflictError(AiHubError):
    """The present state does not allow that."""


class ForbiddenError(AiHubError):
    """You may not do that."""


class NotLoggedInError(AiHubError):
    """The server does not know you."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        super().__init__(
            f"The server at {endpoint} wants a login, and did not accept yours.",
            hint="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (see docs/people.md).",
        )


class SettingMissingError(AiHubError):
    """A server is neither configured nor running."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name} is not set and no embedded stack is recorded.",
            hint=f"Start the embedded servers with `ai-hub up --detach`, or set {name} (see .env.example).",
        )


#: What PostgreSQL, PgBouncer, Redis and S3 say of a login they do not know.
_REFUSED_LOGIN: Final = re.compile(
    "authentication failed|WRONGPASS|NOAUTH|invalid username-password|InvalidAccessKeyId|"
    "SignatureDoesNotMatch"
)


class ServiceDownError(AiHubError):
    """A server does not answer, or does not know the login."""

    retryable = True
    exit_code = 3

    def __init__(self, service: str, endpoint: str, reason: str, *, hint: str | None = None) -> None:
        self.service = service
        self.endpoint = endpoint
        self.reason = reason
        what, help_ = (
            "does not answer",
            "See `ai-hub status`; `ai-hub up --detach` starts the embedded servers again.",
        )
        if _REFUSED_LOGIN.search(reason):
            what, help_ = (
                "refuses the login",
                "Correct the user and the password in its setting (see .env.example).",
            )
        super().__init__(f"{service} at {endpoint} {what}: {reason}", hint=hint or help_)
