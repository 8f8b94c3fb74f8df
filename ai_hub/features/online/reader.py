"""Reads features for inference: from Redis, else from TimescaleDB, else what is left without them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence  # noqa: TC003  # fields
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from prometheus_client import Counter, Histogram

from ai_hub import metrics
from ai_hub.concurrency import UnavailableError
from ai_hub.errors import NotFoundError
from ai_hub.features.online.cache import NO_SUCH_ASSET, CacheKey, WriteBack, negative_key, open_cache
from ai_hub.features.online.catalog import open_catalog
from ai_hub.features.online.database import AssetDirectory, open_database
from ai_hub.features.online.loader import Loader
from ai_hub.features.online.query import as_of
from ai_hub.features.online.rows import CachedRows, results
from ai_hub.features.online.sampling import Sampler
from ai_hub.features.store import followed_key
from ai_hub.times import from_nanos

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from feast import RepoConfig

    from ai_hub.features.online.cache import Cache
    from ai_hub.features.online.catalog import Catalog
    from ai_hub.features.online.loader import RowLookup
    from ai_hub.features.online.query import AsOf
    from ai_hub.features.online.rows import AssetRows
    from ai_hub.settings import ServiceSettings, Settings
    from feast_plugins.online.encoding import Keys

    #: indexes of assets by index of the view
    Stale = dict[int, list[int]]
    Clock = Callable[[], datetime]


# no label names a tenant or an asset
_READS: Final = Counter(
    "ai_hub_feature_reads",
    "Assets answered, by feature set and where their features came from",
    ["feature_set", "source"],
)
_DEGRADED: Final = Counter(
    "ai_hub_feature_degraded",
    "Assets answered with less than usual, by feature set and the reason",
    ["feature_set", "reason"],
)
_AGE: Final = Histogram(
    "ai_hub_feature_age_seconds",
    "Time since the start of the hour that present features describe: the oldest of each request",
    ["feature_set"],
    buckets=(600, 1800, 3600, 5400, 7200, 10_800, 14_400, 21_600, 43_200, 86_400, 172_800),
)


class FeatureRequest(NamedTuple):
    """Which features of which assets, and at what time."""

    tenant: str
    #: without duplicates
    assets: Sequence[str]
    #: default: the present
    timestamp: datetime | None = None
    lookback_hours: int = 168
    feature_set: str | None = None
    feature_names: Sequence[str] | None = None
    #: whether an unknown asset is an error
    must_exist: bool = False


class Answer(NamedTuple):
    """Features of each asset, in the order of the request."""

    #: feature set, for metrics
    label: str
    timestamp: datetime
    computed_at: datetime
    #: ready for orjson
    results: list[dict[str, Any]]
    #: by asset: time of issue, where a view of the set has a horizon; others may have rows of another time
    issues: Sequence[datetime | None] = ()


class FeatureReader:
    """Reads features of assets."""

    def __init__(
        self,
        catalog: Catalog,
        cache: Cache,
        loader: Loader,
        assets: AssetDirectory,
        *,
        cache_s: int,
        clock: Clock,
        sampler: Sampler | None = None,
    ) -> None:
        self.catalog = catalog
        self.cache = cache
        self._loader = loader
        self._assets = assets
        self._cache_s = cache_s
        self._clock = clock
        self._sampler = sampler

    async def read(self, request: FeatureRequest) -> Answer:
        """The features of a request.

        Raises:
            NotFoundError: there is no such feature set, feature or asset.
            BadInputError: the time lies in the future, or the features cannot be read together.
            ServiceDownError: Feast's registry was never read.
        """
        query = await self.catalog.query(request.feature_set, request.feature_names)
        config = self.catalog.config
        now = self._clock()
        at = as_of(request.timestamp, now, self._cache_s)
        keys = query.keys(request.tenant, request.assets)
        replies = None
        if at.current_since is not None:
            with suppress(UnavailableError):
                replies = await self.cache.send(config, query.commands(keys))
        if replies is None:
            rows = CachedRows.empty(query, at, len(request.assets))
        else:
            rows = CachedRows(query, at, replies)
        if stale := rows.stale():
            if replies is not None:
                stale = await self._without_negative_entries(config, rows, request, stale)
            if stale:
                await self._load_stale(rows, request, stale, None if replies is None else keys)
        if request.must_exist:
            first = rows.assets[0]
            if first.times.oldest is None and not first.is_known and first.degraded is None:
                raise await self._unknown_asset(request.tenant, request.assets[0])
        _count(query.label, at, rows.assets)
        if self._sampler is not None and at.current_since is not None:
            self._sampler.offer(rows, request.tenant, request.assets, now)
        found = results(
            rows, request.tenant, request.assets, lookback_hours=request.lookback_hours, computed_at=now
        )
        return Answer(query.label, request.timestamp or now, now, found, _issues(rows))

    async def _without_negative_entries(
        self, config: RepoConfig, rows: CachedRows, request: FeatureRequest, stale: Stale
    ) -> Stale:
        """Leave out the rows of which there is nothing newer.

        Either that was found a moment ago, or the follower has not brought this hour's rows yet.
        """
        pairs = [
            (view, asset)
            for view, assets in stale.items()
            for asset in assets
            if rows.is_visible(view, asset)
        ]
        if not pairs:
            return stale
        keys = [
            negative_key(config, rows.query.views[view], request.tenant, request.assets[asset])
            for view, asset in pairs
        ]
        try:
            followed, *entries = await self.cache.values(config, [followed_key(config.project), *keys])
        except UnavailableError:
            return stale
        is_behind = followed is not None and int(followed) * 10**9 < rows.as_of.hour
        current = set()
        for (view, asset), entry in zip(pairs, entries, strict=True):
            if entry is not None or (is_behind and rows.awaits_successor(view, asset)):
                current.add((view, asset))
                if entry == NO_SUCH_ASSET and rows.time(view, asset) is None:
                    rows.assets[asset].is_known = False
        rest = {
            view: [asset for asset in assets if (view, asset) not in current]
            for view, assets in stale.items()
        }
        return {view: assets for view, assets in rest.items() if assets}

    async def _load_stale(
        self, rows: CachedRows, request: FeatureRequest, stale: Stale, keys: Keys | None
    ) -> None:
        """Replace stale rows with those of TimescaleDB; where it is down, use what is left.

        With `keys` what is loaded is written back.
        """
        self._assets.refresh(request.tenant)
        loaded = await asyncio.gather(
            *(self._load(rows, request, view, assets, keys) for view, assets in stale.items())
        )
        for (view, assets), lookups in zip(stale.items(), loaded, strict=True):
            if isinstance(lookups, UnavailableError):
                self._degrade(rows, request, view, assets, lookups.reason)
                continue
            for asset, lookup in zip(assets, lookups, strict=True):
                rows.assets[asset].is_known = lookup.asset_exists
                rows.replace(view, asset, lookup.row)

    async def _load(
        self, rows: CachedRows, request: FeatureRequest, view: int, assets: Sequence[int], keys: Keys | None
    ) -> list[RowLookup] | UnavailableError:
        """Rows of the assets; with `keys`, of the whole request, they are written back."""
        cache_keys: dict[str, CacheKey | None]
        if keys is None:
            cache_keys = dict.fromkeys(request.assets[asset] for asset in assets)
        else:
            cache_keys = {
                request.assets[asset]: CacheKey(
                    keys.prefix + keys.rows[asset] + keys.suffix,
                    rows.stamp(view, asset),
                    rows.partial(view, asset),
                )
                for asset in assets
            }
        try:
            return await self._loader.load(rows.query.views[view], request.tenant, rows.as_of, cache_keys)
        except UnavailableError as error:
            return error

    def _degrade(
        self, rows: CachedRows, request: FeatureRequest, view: int, assets: Sequence[int], reason: str
    ) -> None:
        """Use stale rows that are within their time to live, else the calendar alone."""
        zones = self._assets.zones(request.tenant)
        for asset in assets:
            if rows.is_usable(view, asset):
                rows.keep_stale(asset, reason)
            else:
                rows.use_calendar(view, asset, reason, zones.get(request.assets[asset]))

    async def _unknown_asset(self, tenant: str, asset: str) -> NotFoundError:
        near = await self._assets.nearest(tenant, asset)
        hint = (
            f"Did you mean {near}?" if near else "Assets come with `ai-hub ingest`; it lists what it added."
        )
        return NotFoundError(f"Tenant {tenant} has no asset {asset}.", hint=hint)


def _issues(rows: CachedRows) -> Sequence[datetime | None]:
    if (view := rows.query.issue_view) is None:
        return ()
    times = [asset.times.by_view[view] for asset in rows.assets]
    return [None if time is None else from_nanos(time) for time in times]


def _count(label: str, at: AsOf, assets: Sequence[AssetRows]) -> None:
    sources = [asset.source for asset in assets]
    for source in set(sources):
        metrics.count(_READS, (label, source), sources.count(source))
    if reasons := [asset.degraded for asset in assets if asset.degraded]:
        for reason in set(reasons):
            metrics.count(_DEGRADED, (label, reason), reasons.count(reason))
    if at.current_since is not None:
        times = [asset.times.oldest for asset in assets if asset.times.oldest is not None and not asset.lost]
        if times:
            metrics.observe(_AGE, (label,), max(0.0, (at.nanos - min(times)) / 1e9))


@asynccontextmanager
async def open_reader(
    options: ServiceSettings, settings: Settings, clock: Clock = lambda: datetime.now(UTC)
) -> AsyncIterator[FeatureReader]:
    """A reader; its servers need not be up yet. `clock` tells the present."""
    async with AsyncExitStack() as stack:
        catalog = await stack.enter_async_context(open_catalog(settings))
        database = await stack.enter_async_context(open_database(options, settings))
        cache = await stack.enter_async_context(open_cache(options, settings.feature_cache_ttl))
        loader = Loader(
            database,
            WriteBack(catalog, cache),
            timeout_s=options.database_timeout_s,
            # the other half is for requests that Redis answers
            max_waiting=options.max_in_flight // 2,
        )
        stack.push_async_callback(loader.aclose)
        assets = AssetDirectory(database)
        stack.push_async_callback(assets.aclose)
        sampler = Sampler(settings, options.features_sample) if options.features_sample else None
        if sampler is not None:
            stack.push_async_callback(sampler.aclose)
        yield FeatureReader(
            catalog,
            cache,
            loader,
            assets,
            cache_s=settings.feature_cache_ttl,
            clock=clock,
            sampler=sampler,
        )
