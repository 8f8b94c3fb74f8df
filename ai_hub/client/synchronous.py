"""The synchronous client."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from uuid import UUID

import httpx
from tenacity import Retrying

from ai_hub.client import endpoints, http, operations
from ai_hub.client.errors import ClosedError, error_of_response
from ai_hub.client.operations import request
from ai_hub.client.predictions import UnitCache
from ai_hub.client.production_model import ProductionModels
from ai_hub.errors import AiHubError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from types import TracebackType

    from pydantic import SecretStr

    from ai_hub.api.schemas.common import Asset
    from ai_hub.api.schemas.exports import ExportJob, ExportSummary
    from ai_hub.api.schemas.features import FeaturesBatchResponse, FeatureSet, FeaturesResponse
    from ai_hub.api.schemas.forecasts import Forecast
    from ai_hub.api.schemas.models import ModelResponse
    from ai_hub.client.operations import Operation, Step
    from ai_hub.client.predictions import OnDegraded, Prediction
    from ai_hub.client.production_model import ProductionModel

T = TypeVar("T")


class Client:
    """Features, the production model and predictions of one tenant; may be shared by threads.

    Make it after a fork: its connections and its threads belong to one process.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | SecretStr | None = None,
        tenant: str | None = None,
        timeout_s: float = 10.0,
        cache_dir: Path | None = None,
        refresh_s: float = 30.0,
        on_model_error: Callable[[ProductionModel, Exception], None] | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: address of the service; default: AI_HUB_API_URL, else port 8003 of this machine.
            api_key: key or token; default: AI_HUB_API_KEY.
            tenant: whose features and models; default: AI_HUB_TENANT.
            timeout_s: seconds a response may take.
            cache_dir: where models are kept; default: `models` in AI_HUB_CACHE_DIR, else in the user's cache.
            refresh_s: seconds between requests to the registry for the production version.
            on_model_error: called, in another thread, whenever such a request or a swap fails.
        """
        settings = Settings()
        self._options = http.resolve_options(
            settings, url=url, api_key=api_key, tenant=tenant, timeout_s=timeout_s
        )
        self._http = httpx.Client(**http.client_arguments(self._options))
        self._models = ProductionModels(
            settings,
            self._options.tenant,
            cache_dir=cache_dir,
            refresh_s=refresh_s,
            on_error=on_model_error,
        )
        self._units = UnitCache()

    @overload
    def features(
        self,
        assets: str,
        feature_set: str | None = None,
        *,
        feature_names: Sequence[str] | None = None,
        at: datetime | None = None,
        lookback_hours: int | None = None,
    ) -> FeaturesResponse: ...
    @overload
    def features(
        self,
        assets: list[str] | tuple[str, ...],
        feature_set: str | None = None,
        *,
        feature_names: Sequence[str] | None = None,
        at: datetime | None = None,
        lookback_hours: int | None = None,
    ) -> FeaturesBatchResponse: ...
    def features(
        self,
        assets: str | list[str] | tuple[str, ...],
        feature_set: str | None = None,
        *,
        feature_names: Sequence[str] | None = None,
        at: datetime | None = None,
        lookback_hours: int | None = None,
    ) -> FeaturesResponse | FeaturesBatchResponse:
        """Features of one asset or, in one request, of many.

        Args:
            assets: one, or a list; then the response has `results`, in its order.
            feature_set: default: forecast_basic.
            feature_names: only these.
            at: as of this time (with a zone), from readings before it alone; default: now.
            lookback_hours: features that look further back are left empty; default: 168.
        """
        call = endpoints.features(
            self.tenant, assets, feature_set, names=feature_names, at=at, lookback_hours=lookback_hours
        )
        answer: FeaturesResponse | FeaturesBatchResponse = self._run(request(call))
        return answer

    def feature_sets(self) -> dict[str, FeatureSet]:
        """Feature services by name."""
        return self._run(request(endpoints.feature_sets())).feature_sets

    def model(self, name: str) -> ProductionModel:
        """The tenant's model in Production, which follows the registry until the client is closed.

        Raises:
            ConflictError: files are not what was registered, and no other version can be used.
            NotFoundError: nothing is in Production.
            ServiceDownError: the registry does not answer, and the cache has no version.
        """
        return self._run(operations.model(self._models, name))

    def predict(
        self,
        model: str,
        assets: str | Sequence[str],
        *,
        at: datetime | None = None,
        on_degraded: OnDegraded = "flag",
    ) -> list[Prediction]:
        """Predictions of the production version of `model` for each asset, in their order.

        Raises:
            DegradedError: features are missing, and `on_degraded` is "raise".
        """
        return self._run(
            operations.predict(
                self._models, self._units, self.tenant, model, assets, at=at, on_degraded=on_degraded
            )
        )

    def forecast(
        self,
        asset: str,
        *,
        horizon_hours: int = 24,
        interval_minutes: int = 60,
        forecast_type: str = "load",
        model: str | None = None,
        include_quantiles: bool = True,
    ) -> Forecast:
        """Forecast of an asset from now on by the production model; the service keeps it in its log.

        Args:
            asset: the asset.
            horizon_hours: how far ahead; no more than the model does.
            interval_minutes: the step of the model.
            forecast_type: load, generation or price.
            model: default: the one that was trained on the asset.
            include_quantiles: whether steps have quantiles.

        Raises:
            NotFoundError: no such asset, or no model in production has this horizon and step.
        """
        return self._run(
            request(
                endpoints.forecast(
                    self.tenant,
                    asset,
                    horizon_hours=horizon_hours,
                    interval_minutes=interval_minutes,
                    forecast_type=forecast_type,
                    model_name=model,
                    include_quantiles=include_quantiles,
                )
            )
        )

    def export(
        self,
        feature_set: str,
        start: datetime,
        end: datetime,
        *,
        assets: Sequence[str] | None = None,
        output_path: str | None = None,
        partition_by: str | None = None,
        idempotency_key: str | None = None,
        wait: bool = True,
    ) -> ExportJob:
        """Export rows of `feature_set` with `start` <= hour < `end` as Parquet; `wait` until it has ended.

        Raises:
            ExportFailedError: the export failed.
        """
        return self._run(
            operations.export(
                self.tenant,
                wait=wait,
                feature_set=feature_set,
                start_time=start.isoformat(),
                end_time=end.isoformat(),
                asset_ids=None if assets is None else list(assets),
                output_path=output_path,
                partition_by=partition_by,
                idempotency_key=idempotency_key,
            )
        )

    def exports(
        self,
        feature_set: str | None = None,
        *,
        status: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[ExportSummary]:
        """The tenant's exports, newest first."""
        return self._run(request(endpoints.exports(self.tenant, feature_set, status, limit, offset))).exports

    def download(self, export: ExportSummary | UUID, to: str | Path) -> list[Path]:
        """Download an export to the file `to`, or a partitioned one into the folder `to`; returns the files.

        Raises:
            NotFoundError: its files are gone.
            ConflictError: it is not completed.
        """
        export_id = export if isinstance(export, UUID) else export.export_id
        return self._run(operations.download(self.tenant, export_id, Path(to)))

    def delete_export(self, export: ExportSummary | UUID) -> None:
        """Delete an export that has ended, with its files."""
        export_id = export if isinstance(export, UUID) else export.export_id
        self._run(request(endpoints.delete_export(self.tenant, export_id)))

    def assets(self, kind: str | None = None, *, limit: int = 1000, offset: int = 0) -> list[Asset]:
        """The tenant's assets, by id."""
        return self._run(request(endpoints.assets(self.tenant, kind, limit, offset))).assets

    def models(
        self, name: str | None = None, *, stage: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[ModelResponse]:
        """The tenant's model versions, newest first."""
        return self._run(request(endpoints.models(self.tenant, name, stage, limit, offset))).models

    def close(self) -> None:
        """Close connections, and stop following the registry."""
        self._models.close()
        self._http.close()

    @property
    def tenant(self) -> str:
        """Whose features and models these are."""
        return self._options.tenant

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._options.url!r}, tenant={self.tenant!r})"

    def _run(self, operation: Operation[T]) -> T:
        answer: Any = None
        error: AiHubError | None = None
        while True:
            try:
                step = operation.send(answer) if error is None else operation.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            answer, error = None, None
            try:
                answer = self._do(step)
            except AiHubError as failure:
                error = failure

    def _do(self, step: Step) -> Any:
        if isinstance(step, operations.Sleep):
            time.sleep(step.seconds)
            return None
        if isinstance(step, operations.Blocking):
            return step.function()
        if isinstance(step, endpoints.Download):
            retries = Retrying(**http.retry_arguments())
            return retries(self._download, step, secrets.token_hex(8))
        return Retrying(**http.retry_arguments())(self._exchange, step, secrets.token_hex(8))

    def _exchange(self, call: endpoints.Call[Any], request_id: str) -> Any:
        if self._http.is_closed:
            raise ClosedError
        try:
            response = self._http.request(**http.request_arguments(self._options, call, request_id))
        except httpx.HTTPError as error:
            raise http.transport_error(self._options, error, request_id) from error
        return http.parse_response(self._options, call, response, request_id)

    def _download(self, download: endpoints.Download, request_id: str) -> None:
        if self._http.is_closed:
            raise ClosedError
        try:
            with self._http.stream(
                **http.download_arguments(self._options, download, request_id)
            ) as response:
                if not response.is_success:
                    response.read()
                    raise error_of_response(response, self._options.url, request_id)
                with http.receiving(download, response) as write:
                    for data in response.iter_bytes():
                        write(data)
        except httpx.HTTPError as error:
            raise http.transport_error(self._options, error, request_id) from error
