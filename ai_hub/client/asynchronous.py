"""The client for event loops: the methods of `Client`, awaited; files, models and MLflow stay in threads."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from uuid import UUID

import httpx
from tenacity import AsyncRetrying

from ai_hub.client import calls, downloads, exchange, flows
from ai_hub.client.errors import ClosedError, of_answer
from ai_hub.client.models.shelf import Shelf
from ai_hub.client.options import resolve
from ai_hub.errors import AiHubError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    import pandas as pd
    from pydantic import SecretStr

    from ai_hub.api.schemas.assets import Asset
    from ai_hub.api.schemas.exports import ExportJob, ExportSummary
    from ai_hub.api.schemas.features import FeaturesBatchResponse, FeatureSet, FeaturesResponse
    from ai_hub.api.schemas.models import ModelResponse
    from ai_hub.client.flows import Flow, Step
    from ai_hub.client.models.live import LiveModel
    from ai_hub.client.models.loaded import LoadedModel
    from ai_hub.client.predictions import OnDegraded, Prediction

T = TypeVar("T")


class AsyncModel:
    """A `LiveModel` whose methods are awaited; its other attributes are those of `LiveModel`."""

    def __init__(self, live: LiveModel) -> None:
        #: the model itself
        self.live = live

    @property
    def current(self) -> LoadedModel:
        """See `LiveModel.current`."""
        return self.live.current

    def __getattr__(self, name: str) -> Any:
        if name == "live":  # `copy` and `pickle` ask before it is there
            raise AttributeError(name)
        return getattr(self.live, name)

    def __repr__(self) -> str:
        return repr(self.live).replace("LiveModel", "AsyncModel", 1)

    async def predict(self, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> Any:
        """See `LiveModel.predict`."""
        return await asyncio.to_thread(self.live.predict, rows)

    async def refresh(self) -> bool:
        """See `LiveModel.refresh`."""
        return await asyncio.to_thread(self.live.refresh)


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
        on_model_error: Callable[[LiveModel, Exception], None] | None = None,
    ) -> None:
        self._options = resolve(url, api_key, tenant, timeout_s)
        self._http = httpx.AsyncClient(**exchange.connection(self._options))
        self._shelf = Shelf(
            self._options.tenant, cache_dir=cache_dir, refresh_s=refresh_s, on_error=on_model_error
        )

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
        call = calls.features(
            self.tenant, assets, feature_set, names=feature_names, at=at, lookback_hours=lookback_hours
        )
        answer: FeaturesResponse | FeaturesBatchResponse = await self._run(flows.ask(call))
        return answer

    async def feature_sets(self) -> dict[str, FeatureSet]:
        """See `Client.feature_sets`."""
        return (await self._run(flows.ask(calls.feature_sets()))).feature_sets

    async def model(self, name: str) -> AsyncModel:
        """See `Client.model`."""
        return AsyncModel(await self._run(flows.model(self._shelf, name)))

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
            flows.predict(self._shelf, self.tenant, model, assets, at=at, on_degraded=on_degraded)
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
            flows.export(
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
            await self._run(flows.ask(calls.exports(self.tenant, feature_set, status, limit, offset)))
        ).exports

    async def download(self, export: ExportSummary | UUID, to: str | Path) -> list[Path]:
        """See `Client.download`."""
        export_id = export if isinstance(export, UUID) else export.export_id
        return await self._run(flows.download(self.tenant, export_id, Path(to)))

    async def delete_export(self, export: ExportSummary | UUID) -> None:
        """See `Client.delete_export`."""
        export_id = export if isinstance(export, UUID) else export.export_id
        await self._run(flows.ask(calls.delete_export(self.tenant, export_id)))

    async def assets(self, kind: str | None = None, *, limit: int = 1000, offset: int = 0) -> list[Asset]:
        """See `Client.assets`."""
        return (await self._run(flows.ask(calls.assets(self.tenant, kind, limit, offset)))).assets

    async def models(
        self, name: str | None = None, *, stage: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[ModelResponse]:
        """See `Client.models`."""
        return (await self._run(flows.ask(calls.models(self.tenant, name, stage, limit, offset)))).models

    async def aclose(self) -> None:
        """See `Client.close`."""
        await asyncio.to_thread(self._shelf.close)
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

    async def _run(self, flow: Flow[T]) -> T:
        answer: Any = None
        error: AiHubError | None = None
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            answer, error = None, None
            try:
                answer = await self._do(step)
            except AiHubError as failure:
                error = failure

    async def _do(self, step: Step) -> Any:
        if isinstance(step, flows.Pause):
            await asyncio.sleep(step.seconds)
            return None
        if isinstance(step, flows.Work):
            return await asyncio.to_thread(step.do)
        if isinstance(step, calls.Download):
            retries = AsyncRetrying(**exchange.retries())
            return await retries(self._download, step, secrets.token_hex(8))
        return await AsyncRetrying(**exchange.retries())(self._exchange, step, secrets.token_hex(8))

    async def _exchange(self, call: calls.Call[Any], request_id: str) -> Any:
        if self._http.is_closed:
            raise ClosedError
        try:
            response = await self._http.request(**exchange.request(self._options, call, request_id))
        except httpx.HTTPError as error:
            raise exchange.failure(self._options, error, request_id) from error
        return exchange.answer(self._options, call, response, request_id)

    async def _download(self, wanted: calls.Download, request_id: str) -> None:
        if self._http.is_closed:
            raise ClosedError
        try:
            async with self._http.stream(**downloads.request(self._options, wanted, request_id)) as response:
                if not response.is_success:
                    await response.aread()
                    raise of_answer(response, self._options.url, request_id)
                with downloads.receiving(wanted, response) as take:
                    async for data in response.aiter_bytes():
                        take(data)
        except httpx.HTTPError as error:
            raise exchange.failure(self._options, error, request_id) from error
