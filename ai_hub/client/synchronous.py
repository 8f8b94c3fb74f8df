"""The client for code that waits."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from uuid import UUID

import httpx
from tenacity import Retrying

from ai_hub.client import calls, downloads, exchange, flows
from ai_hub.client.errors import ClosedError, of_answer
from ai_hub.client.models.shelf import Shelf
from ai_hub.client.options import resolve
from ai_hub.errors import AiHubError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from types import TracebackType

    from pydantic import SecretStr

    from ai_hub.api.schemas.assets import Asset
    from ai_hub.api.schemas.exports import ExportJob, ExportSummary
    from ai_hub.api.schemas.features import FeaturesBatchResponse, FeatureSet, FeaturesResponse
    from ai_hub.api.schemas.models import ModelResponse
    from ai_hub.client.flows import Flow, Step
    from ai_hub.client.models.live import LiveModel
    from ai_hub.client.predictions import OnDegraded, Prediction

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
        on_model_error: Callable[[LiveModel, Exception], None] | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: address of the service; default: AI_HUB_API_URL, else port 8003 of this machine.
            api_key: key or token; default: AI_HUB_API_KEY.
            tenant: whose features and models; default: AI_HUB_TENANT.
            timeout_s: seconds an answer may take.
            cache_dir: where models are kept; default: `models` in AI_HUB_CACHE_DIR, else in the user's cache.
            refresh_s: seconds between looks at the registry for a new production version.
            on_model_error: called, in another thread, whenever such a look or a swap fails.
        """
        self._options = resolve(url, api_key, tenant, timeout_s)
        self._http = httpx.Client(**exchange.connection(self._options))
        self._shelf = Shelf(
            self._options.tenant, cache_dir=cache_dir, refresh_s=refresh_s, on_error=on_model_error
        )

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
            assets: one, or a list; then the answer has `results`, in its order.
            feature_set: default: forecast_basic.
            feature_names: only these.
            at: as of this time (with a zone), from readings before it alone; default: now.
            lookback_hours: features that look further back are left empty; default: 168.
        """
        call = calls.features(
            self.tenant, assets, feature_set, names=feature_names, at=at, lookback_hours=lookback_hours
        )
        answer: FeaturesResponse | FeaturesBatchResponse = self._run(flows.ask(call))
        return answer

    def feature_sets(self) -> dict[str, FeatureSet]:
        """Feature services by name."""
        return self._run(flows.ask(calls.feature_sets())).feature_sets

    def model(self, name: str) -> LiveModel:
        """The tenant's model as it is in Production, from now on until the client is closed.

        Raises:
            ConflictError: files are not what was registered, and no other version is at hand.
            NotFoundError: nothing is in Production.
            ServiceDownError: the registry does not answer, and the cache has no version.
        """
        return self._run(flows.model(self._shelf, name))

    def predict(
        self,
        model: str,
        assets: str | Sequence[str],
        *,
        at: datetime | None = None,
        on_degraded: OnDegraded = "flag",
    ) -> list[Prediction]:
        """What the production version of `model` says about each asset, in their order.

        Raises:
            DegradedError: features are missing, and `on_degraded` is "raise".
        """
        return self._run(
            flows.predict(self._shelf, self.tenant, model, assets, at=at, on_degraded=on_degraded)
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
        """Export rows of `feature_set` with `start` <= hour < `end` as Parquet; `wait`: until it has ended.

        Raises:
            ExportFailedError: it ended, and badly.
        """
        return self._run(
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

    def exports(
        self,
        feature_set: str | None = None,
        *,
        status: str | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[ExportSummary]:
        """The tenant's exports, newest first."""
        return self._run(flows.ask(calls.exports(self.tenant, feature_set, status, limit, offset))).exports

    def download(self, export: ExportSummary | UUID, to: str | Path) -> list[Path]:
        """Fetch an export to the file `to`, or a partitioned one into the folder `to`; returns the files.

        Raises:
            NotFoundError: its files are gone.
            ConflictError: it is not completed.
        """
        export_id = export if isinstance(export, UUID) else export.export_id
        return self._run(flows.download(self.tenant, export_id, Path(to)))

    def delete_export(self, export: ExportSummary | UUID) -> None:
        """Delete an export that has ended, with its files."""
        export_id = export if isinstance(export, UUID) else export.export_id
        self._run(flows.ask(calls.delete_export(self.tenant, export_id)))

    def assets(self, kind: str | None = None, *, limit: int = 1000, offset: int = 0) -> list[Asset]:
        """The tenant's assets, by id."""
        return self._run(flows.ask(calls.assets(self.tenant, kind, limit, offset))).assets

    def models(
        self, name: str | None = None, *, stage: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[ModelResponse]:
        """The tenant's model versions, newest first."""
        return self._run(flows.ask(calls.models(self.tenant, name, stage, limit, offset))).models

    def close(self) -> None:
        """Close connections, and stop following the registry."""
        self._shelf.close()
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

    def _run(self, flow: Flow[T]) -> T:
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
                answer = self._do(step)
            except AiHubError as failure:
                error = failure

    def _do(self, step: Step) -> Any:
        if isinstance(step, flows.Pause):
            time.sleep(step.seconds)
            return None
        if isinstance(step, flows.Work):
            return step.do()
        if isinstance(step, calls.Download):
            retries = Retrying(**exchange.retries())
            return retries(self._download, step, secrets.token_hex(8))
        return Retrying(**exchange.retries())(self._exchange, step, secrets.token_hex(8))

    def _exchange(self, call: calls.Call[Any], request_id: str) -> Any:
        if self._http.is_closed:
            raise ClosedError
        try:
            response = self._http.request(**exchange.request(self._options, call, request_id))
        except httpx.HTTPError as error:
            raise exchange.failure(self._options, error, request_id) from error
        return exchange.answer(self._options, call, response, request_id)

    def _download(self, wanted: calls.Download, request_id: str) -> None:
        if self._http.is_closed:
            raise ClosedError
        try:
            with self._http.stream(**downloads.request(self._options, wanted, request_id)) as response:
                if not response.is_success:
                    response.read()
                    raise of_answer(response, self._options.url, request_id)
                with downloads.receiving(wanted, response) as take:
                    for data in response.iter_bytes():
                        take(data)
        except httpx.HTTPError as error:
            raise exchange.failure(self._options, error, request_id) from error
