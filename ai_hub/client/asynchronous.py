"""The asynchronous client: the methods of `Client`, awaited; files, models and MLflow run in threads."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from uuid import UUID

import httpx
from tenacity import AsyncRetrying

from ai_hub.client import endpoints, http, operations
from ai_hub.client.errors import ClosedError, error_of_response
from ai_hub.client.operations import request
from ai_hub.client.predictions import UnitCache
from ai_hub.client.production_model import ProductionModels
from ai_hub.errors import AiHubError
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    import pandas as pd
    from pydantic import SecretStr

    from ai_hub.api.schemas.common import Asset
    from ai_hub.api.schemas.exports import ExportJob, ExportSummary
    from ai_hub.api.schemas.features import FeaturesBatchResponse, FeatureSet, FeaturesResponse
    from ai_hub.api.schemas.forecasts import Forecast
    from ai_hub.api.schemas.models import ModelResponse
    from ai_hub.client.operations import Operation, Step
    from ai_hub.client.predictions import OnDegraded, Prediction
    from ai_hub.client.production_model import ProductionModel
    from ai_hub.forecasting.models.loading import LoadedModel

T = TypeVar("T")


class AsyncProductionModel:
    """A `ProductionModel` whose methods are awaited; its other attributes are those of `ProductionModel`."""

    def __init__(self, model: ProductionModel) -> None:
        #: the model itself
        self.model = model

    @property
    def current(self) -> LoadedModel:
        """See `ProductionModel.current`."""
        return self.model.current

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # `copy` and `pickle` ask before it is there
            raise AttributeError(name)
        return getattr(self.model, name)

    def __repr__(self) -> str:
        return repr(self.model).replace("ProductionModel", "AsyncProductionModel", 1)

    async def predict(self, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Any:
        """See `ProductionModel.predict`."""
        return await asyncio.to_thread(self.model.predict, rows)

    async def refresh(self) -> bool:
        """See `ProductionModel.refresh`."""
        return await asyncio.to_thread(self.model.refresh)


class AsyncClient:
    """See `Client`: the same arguments, methods and errors."""

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
        settings = Settings()
        self._options = http.resolve_options(
            settings, url=url, api_key=api_key, tenant=tenant, timeout_s=timeout_s
        )
        self._http = httpx.AsyncClient(**http.client_arguments(self._options))
        self._models = ProductionModels(
            settings,
            self._options.tenant,
            cache_dir=cache_dir,
            refresh_s=refresh_s,
            on_error=on_model_error,
        )
        self._units = UnitCache()

    @overload
    async def features(
        self,
        assets: str,
        feature_set: str | None = None,
        *,
        feature_names: Sequence[str] | None = None,
        at: datetime | None = None,
        lookback_hours: int | None = None,
    ) -> FeaturesResponse: ...
    @overload
    async def features(
        self,
        assets: list[str] | tuple[str, ...],
        feature_set: str | None = None,
        *,
        feature_names: Sequence[str] | None = None,
        at: datetime | None = None,
        lookback_hours: int | None = None,
    ) -> FeaturesBatchResponse: ...
    async def features(
        self,
        assets: str | list[str] | tuple[str, ...],
        feature_set: str | None = None,
        *,
        feature_names: Sequence[str] | None = None,
        at: datetime | None = None,
        lookback_hours: int | None = None,
    ) -> FeaturesResponse | FeaturesBatchResponse:
        """See `Client.features`."""
        call = endpoints.features(
            self.tenant, assets, feature_set, names=feature_names, at=at, lookback_hours=lookback_hours
        )
        answer: FeaturesResponse | FeaturesBatchResponse = await self._run(request(call))
        return answer

    async def feature_sets(self) -> dict[str, FeatureSet]:
        """See `Client.feature_sets`."""
        return (await self._run(request(endpoints.feature_sets()))).feature_sets

    async def model(self, name: str) -> AsyncProductionModel:
        """See `Client.model`."""
        return AsyncProductionModel(await self._run(operations.model(self._models, name)))

    async def predict(
        self,
        model: str,
        assets: str | Sequence[str],
        *,
        at: datetime | None = None,
        on_degraded: OnDegraded = "flag",
    ) -> list[Prediction]:
        """See `Client.predict`."""
        return await self._run(
            operations.predict(
                self._models, self._units, self.tenant, model, assets, at=at, on_degraded=on_degraded
            )
        )

    async def forecast(
        self,
        asset: str,
        *,
        horizon_hours: int = 24,
        interval_minutes: int = 60,
        forecast_type: str = "load",
        model: str | None = None,
        include_quantiles: bool = True,
    ) -> Forecast:
        """See `Client.forecast`."""
        return await self._run(
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

    async def export(
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
        """See `Client.export`."""
        return await self._run(
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

    async def exports(
        self,
        feature_set: str | None = None,
        *,
        status: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[ExportSummary]:
        """See `Client.exports`."""
        return (
            await self._run(request(endpoints.exports(self.tenant, feature_set, status, limit, offset)))
        ).exports

    async def download(self, export: ExportSummary | UUID, to: str | Path) -> list[Path]:
        """See `Client.download`."""
        export_id = export if isinstance(export, UUID) else export.export_id
        return await self._run(operations.download(self.tenant, export_id, Path(to)))

    async def delete_export(self, export: ExportSummary | UUID) -> None:
        """See `Client.delete_export`."""
        export_id = export if isinstance(export, UUID) else export.export_id
        await self._run(request(endpoints.delete_export(self.tenant, export_id)))

    async def assets(self, kind: str | None = None, *, limit: int = 1000, offset: int = 0) -> list[Asset]:
        """See `Client.assets`."""
        return (await self._run(request(endpoints.assets(self.tenant, kind, limit, offset)))).assets

    async def models(
        self, name: str | None = None, *, stage: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[ModelResponse]:
        """See `Client.models`."""
        return (await self._run(request(endpoints.models(self.tenant, name, stage, limit, offset)))).models

    async def aclose(self) -> None:
        """See `Client.close`."""
        await asyncio.to_thread(self._models.close)
        await self._http.aclose()

    @property
    def tenant(self) -> str:
        """Whose features and models these are."""
        return self._options.tenant

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._options.url!r}, tenant={self.tenant!r})"

    async def _run(self, operation: Operation[T]) -> T:
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
                answer = await self._do(step)
            except AiHubError as failure:
                error = failure

    async def _do(self, step: Step) -> Any:
        if isinstance(step, operations.Sleep):
            await asyncio.sleep(step.seconds)
            return None
        if isinstance(step, operations.Blocking):
            return await asyncio.to_thread(step.function)
        if isinstance(step, endpoints.Download):
            retries = AsyncRetrying(**http.retry_arguments())
            return await retries(self._download, step, secrets.token_hex(8))
        return await AsyncRetrying(**http.retry_arguments())(self._exchange, step, secrets.token_hex(8))

    async def _exchange(self, call: endpoints.Call[Any], request_id: str) -> Any:
        if self._http.is_closed:
            raise ClosedError
        try:
            response = await self._http.request(**http.request_arguments(self._options, call, request_id))
        except httpx.HTTPError as error:
            raise http.transport_error(self._options, error, request_id) from error
        return http.parse_response(self._options, call, response, request_id)

    async def _download(self, download: endpoints.Download, request_id: str) -> None:
        if self._http.is_closed:
            raise ClosedError
        try:
            async with self._http.stream(
                **http.download_arguments(self._options, download, request_id)
            ) as response:
                if not response.is_success:
                    await response.aread()
                    raise error_of_response(response, self._options.url, request_id)
                with http.receiving(download, response) as write:
                    async for data in response.aiter_bytes():
                        write(data)
        except httpx.HTTPError as error:
            raise http.transport_error(self._options, error, request_id) from error
