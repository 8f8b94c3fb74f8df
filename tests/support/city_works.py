"""Two tenants with meters and keys in a running service: what the examples of OpenAPI name is there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import pytest
from psycopg.errors import UniqueViolation
from psycopg.types.json import Json, Jsonb

from ai_hub import registry
from ai_hub.access import api_keys
from ai_hub.access.principal import ALL_SCOPES
from ai_hub.db.connection import connect
from ai_hub.db.refresh import refresh
from ai_hub.exports import service
from ai_hub.exports.export import KIND, Request
from ai_hub.features import newest
from ai_hub.features.materialize import materialize
from ai_hub.features.store import open_store
from ai_hub.jobs.queue import CANCELLED
from ai_hub.settings import Settings
from support.day_ahead import logged_forecast, promote_day_ahead
from support.energy import HOUR
from support.export_worker import complete
from support.model_service import booster, booster_upload
from support.openid_provider import running_provider
from support.service_server import running_service

if TYPE_CHECKING:
    from collections.abc import Iterator


TENANT = "city-works"
OTHER = "other-works"
ASSETS = ("meter-008", "meter-081")
#: The export id of the examples.
EXPORT = "0f2c6a52-9b1e-4a0e-8a50-3f4f0a6f7d55"
#: The same where it must be completed.
DONE = "7d1c9a54-2f60-4c1b-9d35-0b8a6c1f2e90"
#: The detection of the examples.
DETECTION = "5b0d6a4e-6c1f-4f57-9a46-6a1d7c0f3b21"
#: The explanation of the examples.
EXPLANATION = "c3a1f0d2-8e57-4b1c-a2d4-5f6e7a8b9c01"
#: In production, of these features of `forecast_basic`.
MODEL = "load-forecast"
FEATURES = ("hour_of_day", "lag_1h", "lag_24h")
#: The forecast of the examples.
FORECAST = "0193d4a1-7c00-7000-8000-0b8a6c1f2e90"
#: The requests to train anew of the examples: one to approve, one to reject.
RETRAINING = ("5f0c4a0e-3b1d-4c57-9d35-0b8a6c1f2e90", "d2b7c1e4-90a3-4f6e-8b52-7c1d0e9f3a64")
#: Limits of rates have tests of their own.
_GENEROUS = {"rate_limit_per_s": 100_000, "unauthenticated_per_s": 100_000}
_HISTORY = timedelta(days=9)


@dataclass(frozen=True)
class CityWorks:
    """A service, and who may ask it."""

    address: str
    settings: Settings
    #: of `TENANT` and of `OTHER`, each with every scope
    key: str
    other_key: str
    #: local files of exports
    exports: Path

    def client(self) -> httpx.Client:
        """A client with the key of `TENANT`."""
        return httpx.Client(base_url=self.address, headers={"X-API-Key": self.key}, timeout=60)


@pytest.fixture(scope="session")
def city_works(feast_apply: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CityWorks]:
    """See `CityWorks`; the feature repository is applied, and the features are computed."""
    del feast_apply
    folder = tmp_path_factory.mktemp("city-works")
    settings = Settings(export_storage_path=str(folder / "exports"))
    dsn = settings.require("timescale_dsn")
    add_meters(dsn)
    add_export(dsn)
    add_detection(dsn)
    add_explanation(dsn)
    add_retraining(dsn)
    add_import(dsn)
    write_export(settings)
    for tenant in (TENANT, OTHER):
        registry.ensure_tenant(tenant)
    promote_day_ahead(TENANT, ASSETS)
    materialize(open_store(settings), newest.Scope([TENANT]))
    logged_forecast(TENANT, "example", ASSETS[0], UUID(FORECAST))
    keys = [
        str(api_keys.create("test", [tenant], ALL_SCOPES, created_by="test", dsn=dsn)[1])
        for tenant in (TENANT, OTHER)
    ]
    with (
        pytest.MonkeyPatch.context() as patch,
        running_provider() as provider,
        running_service(settings, provider.options(**_GENEROUS)) as address,
    ):
        patch.setenv("AI_HUB_CACHE_DIR", str(folder / "cache"))
        add_model(address, keys[0])
        yield CityWorks(address, settings, *keys, folder / "exports")


def add_meters(dsn: str) -> None:
    """Each meter with hourly readings up to now, and its features."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    times = [now - step * HOUR for step in range(1, int(_HISTORY / HOUR))]
    with connect(dsn) as connection:
        for tenant in (TENANT, OTHER):
            for asset in ASSETS:
                connection.execute(
                    "INSERT INTO assets (tenant_id, asset_id, kind, unit, interval_seconds, timezone)"
                    " VALUES (%s, %s, 'electricity', 'kWh', 3600, 'Europe/Berlin') ON CONFLICT DO NOTHING",
                    [tenant, asset],
                )
                connection.execute(
                    'INSERT INTO timeseries_data ("timestamp", tenant_id, asset_id, value)'
                    " SELECT time, %s, %s, extract(hour FROM time) FROM unnest(%s::timestamptz[]) AS r (time)"
                    " ON CONFLICT DO NOTHING",
                    [tenant, asset, times],
                )
    refresh(dsn=dsn)


def add_import(dsn: str) -> None:
    """The file of the examples, whose first hours were the meters' first ones."""
    hours = datetime.now(UTC) - _HISTORY
    with connect(dsn) as connection:
        connection.execute(
            "WITH file AS (INSERT INTO imports"
            " (tenant_id, table_name, file_name, sha256, finished_at, row_count)"
            " SELECT %(tenant)s, 'timeseries_data', 'meters.csv', repeat('0', 64), now(), 24"
            " WHERE NOT EXISTS (SELECT FROM imports WHERE tenant_id = %(tenant)s)"
            " RETURNING import_id, tenant_id)"
            " INSERT INTO import_hours SELECT import_id, tenant_id, %(assets)s,"
            " tstzmultirange(tstzrange(%(start)s, %(end)s)), now() FROM file",
            {"tenant": TENANT, "assets": list(ASSETS), "start": hours, "end": hours + 24 * HOUR},
        )


def add_export(dsn: str) -> None:
    """The export of the examples: one that was cancelled, so that it can be cancelled again."""
    hour = datetime(2026, 10, 1, tzinfo=UTC)
    arguments = {
        "feature_set": "forecast_basic",
        "start_time": hour.isoformat(),
        "end_time": (hour + HOUR).isoformat(),
        "output_path": "example.parquet",
        "request_hash": "example",
    }
    with connect(dsn) as connection:
        connection.execute(
            "INSERT INTO jobs (job_id, kind, tenant_id, arguments, status, error, cancel_requested,"
            " completed_at) VALUES (%s, %s, %s, %s, 'failed', %s, true, now()) ON CONFLICT DO NOTHING",
            [EXPORT, KIND, TENANT, Jsonb(arguments), CANCELLED],
        )


def add_detection(dsn: str) -> None:
    """The detection of the examples: nothing was found."""
    now = datetime.now(UTC)
    summary = {
        "total_points": 2,
        "anomalies_detected": 0,
        "anomaly_rate": 0.0,
        "mean_anomaly_score": 0.5,
        "max_anomaly_score": 0.7,
        "method_used": "iqr",
        "sensitivity": 3.0,
    }
    answer = {
        "detection_id": DETECTION,
        "tenant_id": TENANT,
        "asset_id": ASSETS[0],
        "anomalies": [],
        "summary": summary,
        "generated_at": now.isoformat(),
    }
    with connect(dsn) as connection:
        connection.execute(
            "INSERT INTO analyses VALUES (%s, %s, 'anomalies', %s, 'iqr', %s, %s) ON CONFLICT DO NOTHING",
            [DETECTION, TENANT, ASSETS[0], Json(answer), now],
        )


def add_retraining(dsn: str) -> None:
    """The requests to train anew of the examples, about models that are nowhere."""
    with connect(dsn) as connection:
        for request_id in RETRAINING:
            connection.execute(
                "INSERT INTO retrain_requests (request_id, tenant_id, model, version, evidence)"
                " VALUES (%s, %s, %s, 1, %s) ON CONFLICT DO NOTHING",
                [request_id, TENANT, f"old-{request_id[:4]}", Json({"age": {"days": 200, "limit": 180}})],
            )


def add_explanation(dsn: str) -> None:
    """The explanation of the examples: of no feature."""
    now = datetime.now(UTC)
    answer = {
        "explanation_id": EXPLANATION,
        "tenant_id": TENANT,
        "model_name": MODEL,
        "model_version": "v1.0.0",
        "global_importances": [],
        "samples_analyzed": 10,
        "generated_at": now.isoformat(),
    }
    with connect(dsn) as connection:
        connection.execute(
            "INSERT INTO analyses VALUES (%s, %s, 'explanation', %s, 'shap_global', %s, %s)"
            " ON CONFLICT DO NOTHING",
            [EXPLANATION, TENANT, MODEL, Json(answer), now],
        )


def add_model(address: str, key: str) -> None:
    """`MODEL`, in production."""
    body = booster_upload(TENANT, MODEL, booster(FEATURES), version="1.0.0", stage="production")
    made = httpx.post(f"{address}/ai/models/register", json=body, headers={"X-API-Key": key}, timeout=60)
    assert made.status_code == 409 or made.json()["stage"] == "production", made.text


def write_export(settings: Settings) -> None:
    """The completed one."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    request = Request(TENANT, "forecast_basic", hour - 4 * HOUR, hour, output_path="done.parquet")
    with suppress(UniqueViolation):
        job = service.submit(settings, request, export_id=UUID(DONE))
        complete(settings, job)
