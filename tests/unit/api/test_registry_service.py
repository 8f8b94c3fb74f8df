"""What the service says in its own words of what MLflow says in its."""

from __future__ import annotations

import pytest

from ai_hub.api.registry_service import _errors_of
from ai_hub.errors import AiHubError, ForbiddenError, NotFoundError, ServiceDownError

_URL = "http://ada:secret@mlflow:5000"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ForbiddenError("You have no role in tenant acme"), NotFoundError, "no tenant acme"),
        (NotFoundError("Workspace 'acme' not found"), NotFoundError, "no tenant acme"),
        (NotFoundError("Run x not found"), NotFoundError, "Run x not found"),
        (ForbiddenError("Permission denied"), ForbiddenError, "MLflow does not let this service"),
        (
            ServiceDownError("MLflow", _URL, "API request to http://… failed"),
            ServiceDownError,
            "took too long",
        ),
        (
            ServiceDownError("MLflow", _URL, "S3 is down\nTraceback"),
            ServiceDownError,
            "does not answer: S3 is down",
        ),
    ],
    ids=str,
)
def test_errors__say_what_to_do_and_nothing_of_the_operator(
    error: AiHubError, kind: type[AiHubError], text: str
) -> None:
    with pytest.raises(kind) as raised, _errors_of("acme"):
        raise error
    assert text in raised.value.message
    assert "secret" not in str(raised.value)
    assert "Traceback" not in str(raised.value)
