"""Forecasts for requests: answered from models in memory; the log is written behind the answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Mapping  # of dataclasses
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import anyio
import anyio.to_thread
import numpy as np
import orjson
import psycopg
import structlog
from prometheus_client import Counter

from ai_hub.db.transactions import transaction
from ai_hub.errors import (
    AiHubError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    ServiceDownError,
)
from ai_hub.features.online.reader import FeatureRequest
from ai_hub.forecasting import findings, log
from ai_hub.forecasting.accuracy import HORIZON, accuracy, live_scores, settled_before
from ai_hub.forecasting.log import Role
from ai_hub.forecasting.models.cache import UnusableCacheError
from ai_hub.times import EPOCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from typing import TypeVar
    from uuid import UUID

    from ai_hub.features.online.reader import Answer, FeatureReader
    from ai_hub.forecasting import By
    from ai_hub.forecasting.accuracy import Accuracy, LiveScores
    from ai_hub.forecasting.findings import ModelFinding
    from ai_hub.forecasting.log import Grid, Row, Run
    from ai_hub.forecasting.production import LoadedDayAhead
    from ai_hub.settings import Settings

    T = TypeVar("T")

_log = structlog.get_logger(__name__)
_NOT_RECORDED: Final = Counter(
    "ai_hub_forecasts_not_recorded", "Forecasts that were answered and could not be written to the log"
)
#: Calls of models and of the database under way at once, and those of the registry.
_THREADS: Final = 4
_REGISTRY_THREADS: Final = 4
#: Seconds after which it is asked again which versions are in production; after the second number, whoever
#: asks for them waits for that, but for no more than the third.
_REFRESH_S: Final = 5.0
_STALE_S: Final = 60.0
_WAIT_S: Final = 2.0
#: Assets that are known, and hours that features may look back.
_ASSETS: Final = 100_000
_LOOKBACK_H: Final = 8760
#: Tenants whose models are in memory.
_TENANTS: Final = 64
#: Answers that are not written yet; further ones wait for that.
_PENDING: Final = 256
#: Seconds in which a write is tried again, and in which a forecast that was just answered is looked for.
_WRITE_S: Final = 60.0
_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_FIND_S: Final = 3.0
_LOOK_S: Final = 0.1
#: Seconds that a lineage may take in the database, with its wait for the one before.
_TRACE_S: Final = 20.0
_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True)
class ForecastRequest:
    """What is asked for."""

    tenant: str
    asset: str
    horizon: timedelta
    step: timedelta
    #: None: the model in production that was trained on the asset
    model: str | None = None
    #: kept in the log beside the run
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Production:
    """What of a tenant is in production."""

    models: dict[str, Any] = field(default_factory=dict)
    #: by model, as no version of it can be used
    errors: dict[str, AiHubError] = field(default_factory=dict)
    #: whether the registry has ever said so, when it was asked last, and why it could not be told then
    is_known: bool = False
    asked: float = -math.inf
    problem: AiHubError | None = None
    refreshing: asyncio.Task[None] | None = None


class ProductionModels:
    """Models with a horizon that are in production, by tenant; may be late by `_REFRESH_S`."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._tenants: OrderedDict[str, _Production] = OrderedDict()

    async def get(self, tenant: str) -> _Production:
        """What is in production.

        Raises:
            NotFoundError: the registry has no such tenant.
            ServiceDownError: the registry does not answer, and never did.
        """
        entry = self._tenants.setdefault(tenant, _Production())
        self._tenants.move_to_end(tenant)
        while len(self._tenants) > _TENANTS:
            self._tenants.popitem(last=False)
        age = time.monotonic() - entry.asked
        if entry.refreshing is None and age >= _REFRESH_S:
            entry.asked = time.monotonic()
            entry.refreshing = asyncio.create_task(self._refresh(tenant, entry))
            if entry.is_known and age >= _STALE_S:
                await asyncio.wait([entry.refreshing], timeout=_WAIT_S)
        if not entry.is_known and entry.refreshing is not None:
            await asyncio.shield(entry.refreshing)
        if not entry.is_known and entry.problem is not None:
            raise entry.problem
        return entry

    async def _refresh(self, tenant: str, entry: _Production) -> None:
        try:
            entry.models, entry.errors = await self._run(partial(_load, tenant, entry.models))
            entry.is_known, entry.problem = True, None
        except AiHubError as error:
            _log.warning("forecasts.models_read_failed", tenant=tenant, reason=error.message)
            entry.problem = error
            if isinstance(error, NotFoundError):
                entry.models, entry.errors, entry.is_known = {}, {}, False
        finally:
            entry.asked, entry.refreshing = time.monotonic(), None


def _load(
    tenant: str, present: Mapping[str, LoadedDayAhead]
) -> tuple[dict[str, LoadedDayAhead], dict[str, AiHubError]]:
    """Models in production, and why others cannot be used; those that are there are not loaded again."""
    from ai_hub.forecasting.production import load, production_versions  # noqa: PLC0415  # takes seconds

    models: dict[str, LoadedDayAhead] = {}
    errors: dict[str, AiHubError] = {}
    try:
        versions = production_versions(tenant)
    except (NotFoundError, ForbiddenError) as error:
        raise NotFoundError(
            f"There is no tenant {tenant} in the model registry, or this service has no role in it.",
            hint="The administrator opens it, see docs/service-models.md.",
        ) from error
    for version in versions:
        before = present.get(version.model)
        if before is not None and before.version == version:
            models[version.model] = before
            continue
        try:
            models[version.model] = load(version)
        except ServiceDownError:
            raise
        except UnusableCacheError as error:
            raise ServiceDownError("The model cache", str(error.path), error.message) from error
        except AiHubError as error:
            errors[version.model] = error
        except Exception as error:  # noqa: BLE001  # its files are whatever somebody registered
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            _log.warning("forecasts.model_load_failed", tenant=tenant, model=version.model, reason=reason)
            errors[version.model] = ConflictError(
                f"{version.model} {version.semantic_version or version.version} is of a format that this "
                "service cannot read.",
                hint="Train it anew with this version of AI Hub.",
            )
    return models, errors


class _Waiting(NamedTuple):
    """A run that is to be written."""

    run: Run
    grid: Grid
    #: of the event loop's clock: when to give up
    until: float
    #: has no result: it is written, or lost
    done: asyncio.Future[None]


class LogWriter:
    """Writes runs behind their answers, in order, and tries for a minute where the database does not answer.

    All that has come of a tenant while one write was under way is the next one: a connection and a
    transaction take longer than their rows. What could not be written is lost, and said in the log of the
    service and by `find`.
    """

    def __init__(self, write: Callable[[Sequence[tuple[Run, Grid]]], Awaitable[Any]]) -> None:
        #: writes runs of one tenant, all or none
        self._write = write
        #: by tenant and run, the oldest first
        self._waiting: dict[tuple[str, UUID], _Waiting] = {}
        self._lost: OrderedDict[tuple[str, UUID], str] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, run: Run, grid: Grid) -> None:
        """Begin to write a run; where too many are waiting, wait for its end."""
        loop = asyncio.get_running_loop()
        mine = _Waiting(run, grid, loop.time() + _WRITE_S, loop.create_future())
        self._waiting[run.tenant, run.run_id] = mine
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())
        if len(self._waiting) > _PENDING:
            await asyncio.shield(mine.done)

    async def wait(self, tenant: str, run_id: UUID) -> None:
        """Until a run of the tenant that was submitted here is written.

        Raises:
            NotFoundError: it could not be.
        """
        if (mine := self._waiting.get((tenant, run_id))) is not None:
            await asyncio.shield(mine.done)
        if (reason := self._lost.get((tenant, run_id))) is not None:
            raise NotFoundError(
                f"Forecast {run_id} was answered, and could not be recorded: {reason}",
                hint="Ask for another one.",
            )

    async def aclose(self) -> None:
        """Wait for what is under way."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_WRITE_S)

    async def _write_all(self) -> None:
        failures = 0
        while self._waiting:
            tenant = next(iter(self._waiting))[0]
            batch = [each for each in self._waiting.values() if each.run.tenant == tenant]
            try:
                await self._write_batch(batch)
                failures = 0
            except ServiceDownError as error:
                now = asyncio.get_running_loop().time()
                for each in [each for each in self._waiting.values() if each.until <= now]:
                    self._lose(each, error, f"{error.service} did not answer.")
                failures += 1
                await asyncio.sleep(min(_PAUSE_S * 2 ** min(failures, 10), _LONGEST_PAUSE_S))

    async def _write_batch(self, batch: Sequence[_Waiting]) -> None:
        try:
            await self._write([(each.run, each.grid) for each in batch])
        except ServiceDownError:
            raise
        except Exception as error:  # noqa: BLE001  # the answer has left; nobody else would hear of it
            if len(batch) == 1:
                self._lose(batch[0], error, "see the log.")
                return
            # the others are written
            for each in batch:
                await self._write_batch([each])
        else:
            for each in batch:
                self._end(each)

    def _end(self, mine: _Waiting) -> None:
        del self._waiting[mine.run.tenant, mine.run.run_id]
        mine.done.set_result(None)

    def _lose(self, mine: _Waiting, error: Exception, reason: str) -> None:
        _NOT_RECORDED.inc()
        self._lost[mine.run.tenant, mine.run.run_id] = reason
        while len(self._lost) > _PENDING:
            self._lost.popitem(last=False)
        _log.error(
            "forecasts.write_failed",
            tenant=mine.run.tenant,
            forecast_id=str(mine.run.run_id),
            reason=str(error).partition("\n")[0],
        )
        self._end(mine)


class _Asset(NamedTuple):
    """What is known of an asset, for a minute."""

    kind: str | None
    unit: str | None
    until: float


def _issue(
    request: ForecastRequest, loaded: LoadedDayAhead, asset: _Asset, answer: Answer
) -> tuple[Run, Grid]:
    """Forecast from what was read online.

    Raises:
        ConflictError: no step can be forecast from it, or it is older than the step before the one under way.
        ServiceDownError: the same, as the database does not answer.
    """
    from ai_hub.forecasting import production  # noqa: PLC0415  # takes seconds
    from ai_hub.forecasting.card import check_units  # noqa: PLC0415  # the same

    check_units(loaded.label, request.tenant, loaded.card, {request.asset: asset.unit})
    (result,) = answer.results
    issued_at = answer.issues[0] if answer.issues else None
    under_way = loaded.issue_time(answer.computed_at)
    is_usable = issued_at is not None and issued_at >= under_way - loaded.model.step
    if issued_at is not None and is_usable:
        rows = production.rows_of_features(
            loaded, request.asset, issued_at, orjson.loads(orjson.dumps(result["features"]))
        )
        run, grid = production.issue(
            loaded,
            rows,
            known_at=answer.computed_at,
            leads=request.horizon // request.step,
            # rows of other views of the service may be older, but for those of the hour under way
            degraded=result["degraded"]
            or issued_at < under_way
            or result["event_timestamp"] < issued_at - (issued_at - EPOCH) % _HOUR,
            # Redis may have another row than the database
            with_features=True,
            details={
                **request.details,
                "source": result["source"],
                "metadata": production.metadata(loaded),
            },
        )
        if not np.isnan(grid.values).all():
            return run, grid
    if result["degraded"]:
        raise ServiceDownError("TimescaleDB", "TIMESCALE_DSN", "current features cannot be read")
    raise ConflictError(
        f"There are no features of {request.asset} to forecast from."
        if is_usable or issued_at is None
        else f"The newest features of {request.asset} are those of {issued_at:%Y-%m-%d %H:%MZ}, too old "
        "to forecast from.",
        hint="They come online with `ai-hub refresh` and `ai-hub materialize`, once it has readings.",
    )


class ForecastService:
    """Forecasts of assets, and the log of them, in an event loop."""

    def __init__(self, settings: Settings, features: FeatureReader) -> None:
        self._settings = settings
        self._features = features
        self._assets: dict[tuple[str, str], _Asset] = {}
        self._limiter = anyio.CapacityLimiter(_THREADS)
        # lineages are long, and forecasts do not wait for them
        self._traces = anyio.CapacityLimiter(1)
        # where the registry hangs, models in memory go on
        registry_work = anyio.CapacityLimiter(_REGISTRY_THREADS)
        self._models = ProductionModels(lambda work: anyio.to_thread.run_sync(work, limiter=registry_work))
        # where the database hangs, writes hold up no forecasts
        writers = anyio.CapacityLimiter(1)
        self._writer = LogWriter(lambda runs: anyio.to_thread.run_sync(self._write, runs, limiter=writers))

    async def issue(self, request: ForecastRequest) -> tuple[Run, list[Row]]:
        """Forecast an asset from its newest online features; the run is written behind the answer.

        Raises:
            NotFoundError: there is no such asset, or nothing in production forecasts it so far in such steps.
            ConflictError: there are no features, they are older than the last step, or not those that the
                model was trained with.
            ServiceDownError: a server does not answer.
        """
        in_production = await self._models.get(request.tenant)
        asset = await self._in_thread(partial(self._asset, request))
        loaded = choose(request, in_production, asset.kind)
        answer = await self._features.read(
            FeatureRequest(
                request.tenant,
                [request.asset],
                lookback_hours=_LOOKBACK_H,
                feature_set=loaded.card.feature_service,
                must_exist=True,
            )
        )
        run, grid = await self._in_thread(partial(_issue, request, loaded, asset, answer))
        await self._writer.submit(run, grid)
        return run, log.rows_of(run, grid)

    async def find(self, tenant: str, run_id: UUID) -> Run:
        """A run of the log; one that was answered a moment ago is waited for, whichever process answered.

        Raises:
            NotFoundError: the tenant has no such run.
            ServiceDownError: the database does not answer.
        """
        await self._writer.wait(tenant, run_id)
        made = log.made_at(run_id)
        is_new = made is not None and abs(datetime.now(UTC) - made) < timedelta(seconds=_FIND_S)
        end = time.monotonic() + _FIND_S
        while True:
            try:
                return await self._in_thread(partial(self._find, tenant, run_id))
            except NotFoundError:
                if not is_new or time.monotonic() > end:
                    raise
            await asyncio.sleep(_LOOK_S)

    async def rows(self, run: Run, asset: str) -> list[Row]:
        """Rows of a run, of one asset."""
        return await self._in_thread(partial(self._rows, run, asset))

    async def features(self, run: Run) -> bytes | None:
        """What the log has of the features of a run, see `log.read_features`."""
        return await self._in_thread(partial(self._read_features, run))

    async def newest(
        self, tenant: str, asset: str | None, details: Mapping[str, Any] | None, limit: int, offset: int
    ) -> tuple[list[Run], int]:
        """Live runs of the log, newest first, and how many there are in all."""
        return await self._in_thread(partial(self._newest, tenant, asset, details, limit, offset))

    async def accuracy(
        self, tenant: str, asset: str, start: datetime, *, now: datetime, lead: timedelta, model: str | None
    ) -> Accuracy:
        """Live forecasts of an asset from `start` on beside what was measured, see accuracy.py.

        Raises:
            NotFoundError: there is no such asset.
            ServiceDownError: the database does not answer.
        """

        def read() -> Accuracy:
            with transaction(self._settings, tenant) as connection:
                return accuracy(
                    connection, tenant, asset, start, now + HORIZON, now=now, lead=lead, model=model
                )

        return await self._in_thread(read)

    async def scores(self, tenant: str, by: By, **which: Any) -> list[LiveScores]:
        """Scores of a tenant's forecasts, see `live_scores`.

        Raises:
            ServiceDownError: the database does not answer.
        """

        def read() -> list[LiveScores]:
            settled = settled_before(self._settings, datetime.now(UTC))
            with transaction(self._settings, tenant) as connection:
                return live_scores(connection, tenant, by, settled_before=settled, **which)

        return await self._in_thread(read)

    async def findings(self, tenant: str, *, only_open: bool, limit: int) -> list[ModelFinding]:
        """Findings about a tenant's models, newest first.

        Raises:
            ServiceDownError: the database does not answer.
        """

        def read() -> list[ModelFinding]:
            with transaction(self._settings, tenant) as connection:
                return findings.find(connection, tenant, only_open=only_open, limit=limit)

        return await self._in_thread(read)

    async def trace(self, tenant: str, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """What `work` reads for a lineage inside the tenant scope, see lineage.py.

        Raises:
            ServiceDownError: the database does not answer, or takes too long for a request.
        """
        end = time.monotonic() + _TRACE_S

        class Limited(psycopg.Cursor[Any]):
            """Gives each statement the time that is left of all."""

            def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
                left_ms = int((end - time.monotonic()) * 1000)
                if left_ms <= 0:
                    raise psycopg.errors.QueryCanceled(f"a lineage may take {_TRACE_S:g} seconds")
                super().execute("SELECT set_config('statement_timeout', %s, true)", [f"{left_ms}ms"])
                return super().execute(query, params, **options)

        def read() -> T:
            with transaction(self._settings, tenant) as connection:
                connection.cursor_factory = Limited
                return work(connection)

        return await anyio.to_thread.run_sync(read, limiter=self._traces)

    async def aclose(self) -> None:
        """Finish what is written."""
        await self._writer.aclose()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)

    def _asset(self, request: ForecastRequest) -> _Asset:
        key = request.tenant, request.asset
        known = self._assets.get(key)
        if known is not None and known.until > time.monotonic():
            return known
        with transaction(self._settings, request.tenant) as connection:
            row = connection.execute(
                "SELECT kind, feature_unit FROM assets WHERE tenant_id = %s AND asset_id = %s", key
            ).fetchone()
        if row is None:
            raise NotFoundError(
                f"Tenant {request.tenant} has no asset {request.asset}.",
                hint="GET /ai/assets lists those it has.",
            )
        if len(self._assets) >= _ASSETS:
            self._assets = {}
        found = self._assets[key] = _Asset(row[0], row[1], time.monotonic() + _STALE_S)
        return found

    def _write(self, runs: Sequence[tuple[Run, Grid]]) -> None:
        with transaction(self._settings, runs[0][0].tenant) as connection:
            log.write_all(connection, runs)

    def _find(self, tenant: str, run_id: UUID) -> Run:
        with transaction(self._settings, tenant) as connection:
            return log.find_run(connection, tenant, run_id)

    def _rows(self, run: Run, asset: str) -> list[Row]:
        with transaction(self._settings, run.tenant) as connection:
            return log.read_rows(connection, run, [asset])

    def _read_features(self, run: Run) -> bytes | None:
        with transaction(self._settings, run.tenant) as connection:
            return log.read_features(connection, run)

    def _newest(
        self, tenant: str, asset: str | None, details: Mapping[str, Any] | None, limit: int, offset: int
    ) -> tuple[list[Run], int]:
        with transaction(self._settings, tenant) as connection:
            return log.list_runs(
                connection, tenant, asset=asset, role=Role.LIVE, details=details, limit=limit, offset=offset
            )


def choose(request: ForecastRequest, in_production: _Production, kind: str | None) -> LoadedDayAhead:
    """The model for a request: the one it names, else one trained on the asset, else one of its kind.

    Raises:
        NotFoundError: there is none, or none with this step and horizon; says which there are.
    """
    from ai_hub.forecasting.production import how_to_train  # noqa: PLC0415  # takes seconds

    every: list[LoadedDayAhead] = list(in_production.models.values())
    if request.model is not None:
        found = [each for each in every if each.version.model == request.model]
        problem = in_production.errors.get(request.model)
    else:
        own = [each for each in every if request.asset in each.card.assets]
        found = own or [each for each in every if each.card.kind == kind]
        problem = next(iter(in_production.errors.values()), None)
    if not found:
        what = f"model {request.model}" if request.model else f"model for {request.asset}"
        raise problem or NotFoundError(
            f"Tenant {request.tenant} has no {what} in production that forecasts ahead.",
            hint=how_to_train(request.tenant),
        )
    for each in found:
        if each.model.step == request.step and each.horizon >= request.horizon:
            return each
    there = ", ".join(
        f"{each.version.model} forecasts {each.horizon / _HOUR:g} h in steps of "
        f"{each.model.step / _MINUTE:g} minutes"
        for each in found
    )
    raise NotFoundError(
        f"No model forecasts {request.horizon / _HOUR:g} h of {request.asset} in steps of "
        f"{request.step / _MINUTE:g} minutes.",
        hint=f"{there}: ask for horizon_hours and interval_minutes of that, or train another model.",
    )


@asynccontextmanager
async def open_forecasts(settings: Settings, features: FeatureReader) -> AsyncIterator[ForecastService]:
    """The service; none of its servers needs to be up."""
    service = ForecastService(settings, features)
    try:
        yield service
    finally:
        await service.aclose()
