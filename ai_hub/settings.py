"""The one typed settings class.

Order of precedence: environment, `.env`, the embedded stack's record (`stack.json` in the state folder),
defaults. So every command finds a running embedded stack by itself, and a setting that names an outside
server always wins.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ai_hub import paths
from ai_hub.errors import BadInputError, SettingMissingError
from feast_plugins.online.address import Address
from mlflow_plugins.settings import RegistrySettings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

STACK_RECORD = "stack.json"


def read_stack_environment() -> dict[str, str]:
    """Settings the embedded stack recorded, by variable name; empty when it never ran."""
    record = paths.state_dir() / STACK_RECORD
    try:
        environment = json.loads(record.read_text())["env"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError) as error:
        raise BadInputError(
            f"{record} is damaged: {error}", hint="Run `ai-hub down` and `ai-hub up --detach`."
        ) from error
    return {str(name): str(value) for name, value in environment.items()}


class _Variables(PydanticBaseSettingsSource):
    """The environment, then `.env`, then what the embedded stack recorded about itself.

    Every field is one plain value. Pydantic's sources find that out for each field anew, which takes
    milliseconds at every connection and every call of the registry.
    """

    def __init__(self, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._found = {name.lower(): value for name, value in read_stack_environment().items()}
        for source in reversed(sources):
            if isinstance(source, EnvSettingsSource):
                self._found |= {name: value for name, value in source.env_vars.items() if value is not None}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field
        return self._found.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return {name: self._found[name] for name in self.settings_cls.model_fields if name in self._found}


class Settings(RegistrySettings):
    """Settings from the environment, the registry's included; `.env.example` describes every variable."""

    timescale_dsn: SecretStr | None = Field(None, description="postgresql://user:password@host:port/database")
    service_timescale_dsn: SecretStr | None = Field(
        None,
        description="the same database with the login of the REST service",
    )
    timescale_pooled: bool = Field(
        False,
        description="the addresses lead to a pooler in transaction mode, so no statement is prepared",
    )
    timescale_direct: str | None = Field(
        None, description="host:port of the server behind the pooler, for backup and restore"
    )
    redis_url: SecretStr | None = Field(
        None,
        description="redis://[:password@]host:port/db, or of several servers redis+sentinel:// or redis+cluster://",
    )
    model_storage_bucket: str = Field("ml-models", description="bucket of registered model artifacts")
    mlflow_tracking_uri: str | None = Field(None, description="http(s) address of the MLflow server")
    mlflow_backend_store_uri: SecretStr | None = Field(
        None, description="database of the MLflow server; only the server itself reads it"
    )
    feast_registry_uri: SecretStr | None = Field(None, description="SQLAlchemy URL of Feast's SQL registry")
    feature_cache_ttl: int = Field(300, ge=1, description="seconds a written-back feature stays valid")
    ai_hub_api_url: str | None = Field(
        None, description="http(s) address of the REST service (`ai-hub serve`)"
    )
    ai_hub_api_key: SecretStr | None = Field(None, description="key of the REST service, for its clients")
    ai_hub_tenant: str | None = Field(None, description="whose features and models `ai_hub.Client` asks for")
    export_storage_path: str = Field("./exports", description="folder or s3:// URL for Parquet exports")
    export_expiry_days: int | None = Field(
        None, ge=1, description="days after which the files of a completed export are removed; default: never"
    )
    export_download_redirect: bool = Field(
        False,
        description="answer downloads of exports in S3 with an address of the store, valid for 5 minutes",
    )
    export_jobs_per_tenant: int = Field(20, ge=1, description="unfinished exports a tenant may have")
    forecast_retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="days after which forecasts are removed, from the time they are for; default: never",
    )
    forecast_settled_days: int = Field(
        7, ge=0, le=36_500, description="days after which the readings of a day are taken for complete"
    )
    forecast_alarm_sigmas: float = Field(
        4, gt=0, description="standard deviations by which a week's error or bias leaves the weeks before it"
    )
    forecast_alarm_meter_sigmas: float = Field(
        2.5, gt=0, le=10, description="the same of a single meter, beside the others of its model"
    )
    forecast_alarm_coverage: float = Field(
        0.15, gt=0, lt=1, description="how far the share of values within the 80 % band may be from 80 %"
    )
    analysis_retention_days: int = Field(
        90, ge=1, description="days for which detected anomalies and explanations are kept"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the embedded stack's record below everything a person sets."""
        return init_settings, _Variables(settings_cls, env_settings, dotenv_settings), file_secret_settings

    def require(self, name: str) -> str:
        """Value of setting `name` (lower case), in clear text.

        Raises:
            SettingMissingError: it is not set.
        """
        value = getattr(self, name)
        if value is None:
            raise SettingMissingError(name.upper())
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    def direct(self, address: str) -> str:
        """The address, with the server behind the pooler in the pooler's place (`TIMESCALE_DIRECT`)."""
        if self.timescale_direct is None:
            return address
        parts, pooler = urlsplit(address), urlsplit(self.require("timescale_dsn"))
        if (parts.hostname, parts.port or 5432) != (pooler.hostname, pooler.port or 5432):
            return address
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@{self.timescale_direct}").geturl()

    def environment(self) -> dict[str, str]:
        """Every setting that has a value, and what `psql`, `feast` and `mlflow` read, as variables."""
        plain = {name.upper(): self.require(name) for name in type(self).model_fields if getattr(self, name)}
        return {**plain, **self._derived(plain)}

    def _derived(self, plain: dict[str, str]) -> dict[str, str]:
        derived = {"FEATURE_REPO_DIR_ENV_VAR": str(paths.resource("feature_repo"))}
        if dsn := plain.get("TIMESCALE_DSN"):
            derived |= postgres_environment(dsn)
        if self.timescale_pooled and "FEAST_REGISTRY_URI" in plain:
            # Feast has no option for it, and this driver never prepares statements
            uri = plain["FEAST_REGISTRY_URI"]
            derived["FEAST_REGISTRY_URI"] = uri.replace("postgresql+psycopg:", "postgresql+psycopg2:", 1)
        if url := plain.get("REDIS_URL"):
            derived["FEAST_REDIS_CONNECTION"] = feast_redis_connection(url)
        if "MINIO_ENDPOINT_URL" in plain:
            derived["MLFLOW_S3_ENDPOINT_URL"] = plain["MINIO_ENDPOINT_URL"]
        if "MINIO_ACCESS_KEY" in plain and "MINIO_SECRET_KEY" in plain:
            derived["AWS_ACCESS_KEY_ID"] = plain["MINIO_ACCESS_KEY"]
            derived["AWS_SECRET_ACCESS_KEY"] = plain["MINIO_SECRET_KEY"]
        return derived


def postgres_environment(dsn: str) -> dict[str, str]:
    """Variables of libpq (`PGHOST`, …) for a `postgresql://` URL; `feature_store.yaml` reads them too.

    Raises:
        BadInputError: the URL names no host or database.
    """
    parts = urlsplit(dsn)
    database = parts.path.lstrip("/")
    if parts.scheme not in {"postgresql", "postgres"} or not parts.hostname or not database:
        raise BadInputError(
            "TIMESCALE_DSN is not a database URL.", hint="Use postgresql://user:password@host:port/database."
        )
    query = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    return {
        "PGHOST": parts.hostname,
        "PGPORT": str(parts.port or 5432),
        "PGDATABASE": database,
        "PGUSER": unquote(parts.username or "postgres"),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGSSLMODE": query.get("sslmode", "prefer"),
    }


def feast_redis_connection(url: str) -> str:
    """Address of the online store: in Feast's own notation where that can say it, else the URL itself.

    Feast's notation (`host:port,db=0,password=…`) is what stores other than ours read. It knows no user and
    no sentinels, and misreads a password that is a number or has a comma.

    Raises:
        BadInputError: it is no address of Redis.
    """
    try:
        address = Address.of(url)
    except ValueError as error:
        raise BadInputError(
            f"REDIS_URL is no address of Redis: {error}.",
            hint="Use redis://[:password@]host:port/db, redis+sentinel://[:password@]host:port,…/master or "
            "redis+cluster://[:password@]host:port,….",
        ) from error
    options = dict(address.options)
    database, password = options.pop("db", 0), options.pop("password", "")
    tls = options.pop("ssl", None)
    ((host, port), *_) = address.nodes
    if address.is_cluster or address.master or options or ":" in host or _is_misread(password):
        return url
    parts = [f"{host}:{port}", f"db={database}"]
    return ",".join(parts + [f"password={password}"] * bool(password) + ["ssl=True"] * bool(tls))


def _is_misread(password: str) -> bool:
    """Whether Feast's notation would change it: values are read as JSON where they can be."""
    try:
        json.loads(password)
    except ValueError:
        return "," in password
    return True


class ServiceSettings(BaseSettings):
    """How the REST service answers: variables `AI_HUB_API_…`."""

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
    #: assets of one request
    max_assets: int = Field(1000, ge=1, le=1000)  # as the schema has it
    #: share of requests for features of which a row is kept to be compared with history; 0: none
    features_sample: float = Field(0.01, ge=0, le=1)
    #: origins, with commas between, whose pages may ask from a browser; `*`: all; none: browsers ask for none
    cors_origins: str = ""
    #: what `/health` says where it runs
    environment: str = "production"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    #: `json` for machines, `console` for people
    log_format: Literal["json", "console"] = "json"
    #: file the access log is appended to; default: standard output
    log_path: Path | None = None
