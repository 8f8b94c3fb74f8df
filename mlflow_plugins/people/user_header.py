"""Client side: name the user of this process to the server, so that the audit trail can."""

from __future__ import annotations

import getpass
from urllib.parse import quote

from mlflow.tracking.request_header.abstract_request_header_provider import RequestHeaderProvider

from mlflow_plugins.people.actor import HEADER


class UserHeaderProvider(RequestHeaderProvider):
    """Sends the login name with every request; a claim, as in MLflow's own `mlflow.user` tag."""

    def in_context(self) -> bool:
        """Whether the process has a user with a name."""
        return bool(self.request_headers())

    def request_headers(self) -> dict[str, str]:
        """The header; percent-encoded, because headers carry ASCII only."""
        try:
            return {HEADER: quote(getpass.getuser(), safe="@ ")}
        except (KeyError, OSError):  # no such user in the system, as in many containers
            return {}
