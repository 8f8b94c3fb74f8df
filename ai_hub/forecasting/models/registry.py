"""Which version is in Production: one small request, without MLflow, whose import takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from ai_hub.errors import (
    AiHubError,
    BadInputError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotLoggedInError,
    ServiceDownError,
)
from ai_hub.registry.server import WORKSPACE_HEADER, connection

_ALIAS_PATH = "/api/2.0/mlflow/registered-models/alias"
#: always mirrors the stage, see docs/registry.md
_ALIAS = "production"
_DIGEST_TAG = "manifest_sha256"
_TIMEOUT = httpx.Timeout(5.0, connect=2.0)


@dataclass(frozen=True)
class ProductionVersion:
    """A version that is, or was, in Production."""

    version: int
    semantic_version: str | None
    #: SHA-256 of the manifest, which lists the version's files and their checksums
    manifest_sha256: str
    tags: Mapping[str, str]

    @property
    def label(self) -> str:
        """Name in messages and of its folder."""
        return self.semantic_version or str(self.version)

    def is_same(self, other: ProductionVersion | None) -> bool:
        """Whether `other` is this version with these files; tags may change."""
        return other is not None and (self.version, self.manifest_sha256) == (
            other.version,
            other.manifest_sha256,
        )


class RegistryClient:
    """Asks the MLflow server for a tenant's production versions; keeps its connections."""

    def __init__(self, tenant: str, url: str) -> None:
        self._tenant = tenant
        #: its address, without a login
        self.url, options = connection(url)
        self._http = httpx.Client(timeout=_TIMEOUT, **options)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def production(self, model: str) -> ProductionVersion:
        """The version in Production now.

        Raises:
            ConflictError: its files have no manifest.
            NotFoundError: there is none, or no such model.
            ServiceDownError: the registry does not answer.
        """
        try:
            response = self._http.get(
                _ALIAS_PATH,
                params={"name": model, "alias": _ALIAS},
                headers={WORKSPACE_HEADER: self._tenant},
            )
        except httpx.HTTPError as error:
            raise ServiceDownError("MLflow", self.url, str(error) or type(error).__name__) from error
        if response.status_code != HTTPStatus.OK:
            raise self._error(response, model)
        return self._version(response, model)

    def _version(self, response: httpx.Response, model: str) -> ProductionVersion:
        try:
            body = response.json()["model_version"]
            tags = {str(tag["key"]): str(tag.get("value", "")) for tag in body.get("tags", ())}
            version = int(body["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceDownError("MLflow", self.url, "the response is not MLflow's") from error
        if _DIGEST_TAG not in tags:
            raise ConflictError(
                f"Version {version} of {model} has no manifest, so its files cannot be checked.",
                hint="Register the model anew from its run.",
            )
        return ProductionVersion(version, tags.get("semantic_version"), tags[_DIGEST_TAG], tags)

    def _error(self, response: httpx.Response, model: str) -> AiHubError:
        body = _body(response)
        text = str(body.get("message") or response.reason_phrase)
        promote = f"Promote one with `ai-hub promote {model} --tenant {self._tenant}`."
        match response.status_code:
            case HTTPStatus.NOT_FOUND:
                hint = promote if "error_code" in body else "See MLFLOW_TRACKING_URI."
                return NotFoundError(text, hint=hint)
            case HTTPStatus.BAD_REQUEST if f"alias {_ALIAS}" in text:
                return NotFoundError(
                    f"No version of {model} (tenant {self._tenant}) is in Production.", hint=promote
                )
            case HTTPStatus.BAD_REQUEST:
                return BadInputError(text)
            case HTTPStatus.UNAUTHORIZED:
                return NotLoggedInError(self.url)
            case HTTPStatus.FORBIDDEN:
                return ForbiddenError(text, hint="Ask for a role in the tenant (see docs/people.md).")
        return ServiceDownError("MLflow", self.url, f"{response.status_code} {text}")


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
