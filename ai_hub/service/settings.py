"""Settings of the service itself: variables `AI_HUB_API_…`, described in `.env.example`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """How the service answers."""

    model_config = SettingsConfigDict(
        env_prefix="AI_HUB_API_", env_file=".env", env_ignore_empty=True, extra="ignore"
    )

    #: `off` lets everybody do everything: for development on one's own machine
    auth: Literal["required", "off"] = "required"
    #: OpenID Connect: issuer of bearer tokens, the audience they must name, and where its keys are
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    oidc_jwks_url: str | None = None
    #: claims of a token with its tenants (a name or a list) and its scopes (a list, or text with spaces)
    oidc_tenants_claim: str = "tenants"
    oidc_scopes_claim: str = "scope"
    #: seconds after which a revoked key is refused at the latest
    keys_refresh_s: float = Field(5.0, gt=0)
    #: requests a second of one caller, for each worker process; and how many may come at once
    rate_limit_per_s: int = Field(1000, ge=1)
    #: requests a second without a valid key, from one client address
    unauthenticated_per_s: int = Field(100, ge=1)
    #: bytes of a request; of one that uploads a model
    max_body_bytes: int = Field(1_000_000, ge=1)
    max_upload_bytes: int = Field(64_000_000, ge=1)
    #: requests under way at once in one worker process, half of them of one caller; more are refused
    max_in_flight: int = Field(256, ge=1)
    #: seconds Redis may take for one read, and TimescaleDB for one computation
    redis_timeout_s: float = Field(0.25, gt=0)
    database_timeout_s: float = Field(2.0, gt=0)
    #: computations under way at once in one worker process, and how many may wait for their turn
    database_connections: int = Field(4, ge=1)
    database_queue: int = Field(64, ge=0)
    #: seconds MLflow may take for an answer (copying and checking files may take longer), and questions to it
    #: under way at once in one worker process
    registry_timeout_s: float = Field(10.0, gt=0)
    registry_calls: int = Field(8, ge=1)
    #: failures in a row after which a server is left alone, and for how many seconds
    breaker_failures: int = Field(5, ge=1)
    breaker_pause_s: float = Field(5.0, gt=0)
    #: assets whose features one worker process keeps, each counted for each feature set; 0: none
    kept_assets: int = Field(10_000, ge=0)
    #: assets of one request
    max_assets: int = Field(1000, ge=1, le=1000)  # as the schema has it
    #: origins, with commas between, whose pages may ask from a browser; `*`: all; none: browsers ask for none
    cors_origins: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    #: `json` for machines, `console` for people
    log_format: Literal["json", "console"] = "json"
    #: file the access log is appended to; default: standard output
    log_path: Path | None = None
