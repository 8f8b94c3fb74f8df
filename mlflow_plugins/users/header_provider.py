"""Sends `header.user_header` with every request of MLflow's own client."""

from __future__ import annotations

from mlflow.tracking.request_header.abstract_request_header_provider import RequestHeaderProvider

from mlflow_plugins.users.header import user_header


class UserHeaderProvider(RequestHeaderProvider):
    """Sends the login name with every request; a claim, as in MLflow's own `mlflow.user` tag."""

    def in_context(self) -> bool:
        """Whether the process has a user with a name."""
        return bool(self.request_headers())

    def request_headers(self) -> dict[str, str]:
        """See `user_header`."""
        return user_header()
