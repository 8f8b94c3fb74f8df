"""The read path: Redis; where it has no current row TimescaleDB; where that cannot be asked, what is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ai_hub.errors import NotFoundError
from ai_hub.features.followed import followed_key
from ai_hub.features.online import metrics, payload
from ai_hub.features.online.as_of import moment
from ai_hub.features.online.assets import Assets
from ai_hub.features.online.breaker import UnavailableError
from ai_hub.features.online.cache import UNKNOWN, Place, PutBack, mark_key, open_cache
from ai_hub.features.online.cached_rows import Stored
from ai_hub.features.online.catalog import open_catalog
from ai_hub.features.online.database import open_database
from ai_hub.features.online.loader import Loader
from ai_hub.features.online.payload import Memo, row_keys
from feast_plugins.online.reading import Read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable

    from feast import RepoConfig

    from ai_hub.features.online.as_of import Moment
    from ai_hub.features.online.cache import Cache
    from ai_hub.features.online.catalog import Catalog
    from ai_hub.features.online.loader import Found
    from ai_hub.features.online.query import Query
    from ai_hub.settings import ServiceSettings, Settings

    Wanting = dict[int, list[int]]
    Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Asked:
    """Which features of which assets, and at what time."""

    tenant: str
    #: each once
    assets: Sequence[str]
    timestamp: datetime | None = None
    lookback_hours: int = 168
    feature_set: str | None = None
    feature_names: Sequence[str] | None = None
    #: an asset that there is not is an error
    must_exist: bool = False


@dataclass(frozen=True)
class Answer:
    """Features of each asset, as they are sent."""

    #: feature set, for metrics
    label: str
    timestamp: datetime
    computed_at: datetime
    results: list[dict[str, Any]]


class FeatureReader:
    """Reads features of assets."""

    def __init__(
        self,
        catalog: Catalog,
        cache: Cache,
        loader: Loader,
        assets: Assets,
        *,
        cache_s: int,
        kept_assets: int,
        clock: Clock,
    ) -> None:
        self.catalog = catalog
        self.cache = cache
        self._loader = loader
        self._assets = assets
        self._cache_s = cache_s
        self._clock = clock
        self._reads: Memo[Read] = Memo(kept_assets)
        self._features: Memo[payload.Rendered] = Memo(kept_assets)

    async def read(self, asked: Asked) -> Answer:
        """The features asked for.

        Raises:
            NotFoundError: there is no such feature set, feature or asset.
            BadInputError: the time lies in the future, or the features cannot be asked for.
            ServiceDownError: it was never known which features there are.
        """
        query = await self.catalog.query(asked.feature_set, asked.feature_names)
        config = self.catalog.config
        now = self._clock()
        at = moment(asked.timestamp, now, self._cache_s)
        read = self._read(query, config, asked)
        stored, cache_is_up = await self._stored(query, config, at, read)
        if wanting := stored.wanting():
            if cache_is_up:
                wanting = await self._without_marked(config, stored, asked, wanting)
            if wanting:
                await self._compute(stored, asked, wanting, read, cache_is_up=cache_is_up)
        origins = stored.judged()
        if asked.must_exist and not origins[0].is_known and origins[0].degraded is None:
            raise await self._no_asset(asked.tenant, asked.assets[0])
        _count(query.label, at, origins)
        features = self._rendered(stored, asked, read, origins, is_stored=not wanting)
        results = payload.results(asked.assets, origins, features, computed_at=now)
        return Answer(query.label, asked.timestamp or now, now, results)

    def _read(self, query: Query, config: RepoConfig, asked: Asked) -> Read:
        count = len(asked.assets)
        is_kept = self._reads.is_worth(count)
        key = (query, asked.tenant, *asked.assets) if is_kept else None
        if is_kept and (known := self._reads.get(key, assets=count)) is not None:
            return known
        columns = {"tenant_id": [asked.tenant] * count, "asset_id": list(asked.assets)}
        read = Read(query.plan, columns, config.project)
        if is_kept:
            self._reads.put(key, read, assets=count)
        return read

    def _rendered(
        self,
        stored: Stored,
        asked: Asked,
        read: Read,
        origins: Sequence[payload.Origin],
        *,
        is_stored: bool,
    ) -> list[payload.Rendered]:
        """Features as they are sent; `is_stored`: all rows are those that Redis has."""
        query, hours = stored.query, asked.lookback_hours
        is_kept = is_stored and query.is_deterministic and self._features.is_worth(len(asked.assets))
        keys: list[Hashable] = []
        if is_kept:
            keys = row_keys(query, asked.tenant, asked.assets, stored.replies, origins, lookback_hours=hours)
            if (known := self._features.all(keys)) is not None:
                return known
        response = read.answer(stored.replies, view_metadata=False, now=stored.moment.nanos)
        found = payload.rendered(query, response, origins, lookback_hours=hours)
        if is_kept:
            for key, each in zip(keys, found, strict=True):
                self._features.put(key, each)
        return found

    async def _stored(self, query: Query, config: RepoConfig, at: Moment, read: Read) -> tuple[Stored, bool]:
        """What Redis has, and whether it payload."""
        if at.current_since is not None:
            try:
                return Stored(query, at, await self.cache.ask(config, read.commands)), True
            except UnavailableError:
                pass
        return Stored.nothing(query, at, read.commands.replies), False

    async def _without_marked(
        self, config: RepoConfig, stored: Stored, asked: Asked, wanting: Wanting
    ) -> Wanting:
        """Leave out the rows that have no newer ones yet.

        Either they were looked for a moment ago, or the follower has not brought this hour's.
        """
        places = [
            (view, asset)
            for view, assets in wanting.items()
            for asset in assets
            if stored.is_seen(view, asset)
        ]
        if not places:
            return wanting
        keys = [
            mark_key(config, stored.query.views[view], asked.tenant, asked.assets[asset])
            for view, asset in places
        ]
        try:
            followed, *marks = await self.cache.marks(config, [followed_key(config.project), *keys])
        except UnavailableError:
            return wanting
        is_behind = followed is not None and int(followed) * 10**9 < stored.moment.hour
        marked = set()
        for (view, asset), mark in zip(places, marks, strict=True):
            if mark is not None or (is_behind and stored.awaits_successor(view, asset)):
                marked.add((view, asset))
                if mark == UNKNOWN and stored.times[view][asset] is None:
                    stored.origins[asset].is_known = False
        rest = {
            view: [asset for asset in assets if (view, asset) not in marked]
            for view, assets in wanting.items()
        }
        return {view: assets for view, assets in rest.items() if assets}

    async def _compute(
        self, stored: Stored, asked: Asked, wanting: Wanting, read: Read, *, cache_is_up: bool
    ) -> None:
        """Fill in what TimescaleDB has, or what is left without it."""
        self._assets.note(asked.tenant)
        is_put_back = cache_is_up and stored.moment.current_since is not None
        found = await asyncio.gather(
            *(
                self._load(stored, asked, view, assets, read if is_put_back else None)
                for view, assets in wanting.items()
            )
        )
        for (view, assets), loaded in zip(wanting.items(), found, strict=True):
            if isinstance(loaded, UnavailableError):
                self._do_without(stored, asked, view, assets, loaded.reason)
                continue
            for asset, each in zip(assets, loaded, strict=True):
                stored.origins[asset].is_known = each.is_known
                stored.put(view, asset, each.row)

    async def _load(
        self, stored: Stored, asked: Asked, view: int, assets: Sequence[int], read: Read | None
    ) -> list[Found] | UnavailableError:
        """Rows of the assets; `read`: where they belong in Redis."""
        places: dict[str, Place | None]
        if read is None:
            places = dict.fromkeys(asked.assets[asset] for asset in assets)
        else:
            ((_, keys),) = read.groups
            places = {
                asked.assets[asset]: Place(
                    keys.prefix + keys.rows[asset] + keys.suffix,
                    stored.stamp(view, asset),
                    stored.is_partial(view, asset),
                )
                for asset in assets
            }
        try:
            return await self._loader.load(stored.query.views[view], asked.tenant, stored.moment, places)
        except UnavailableError as error:
            return error

    def _do_without(
        self, stored: Stored, asked: Asked, view: int, assets: Sequence[int], reason: str
    ) -> None:
        zones = self._assets.zones(asked.tenant)
        for asset in assets:
            if stored.is_usable(view, asset):
                stored.keep_old(asset, reason)
            else:
                stored.lose(view, asset, reason, zones.get(asked.assets[asset]))

    async def _no_asset(self, tenant: str, asset: str) -> NotFoundError:
        near = await self._assets.nearest(tenant, asset)
        hint = (
            f"Did you mean {near}?" if near else "Assets come with `ai-hub ingest`; it lists what it added."
        )
        return NotFoundError(f"Tenant {tenant} has no asset {asset}.", hint=hint)


def _count(label: str, at: Moment, origins: Sequence[payload.Origin]) -> None:
    for source, count in Counter(origin.source for origin in origins).items():
        metrics.reads(label, source).inc(count)
    for reason, count in Counter(origin.degraded for origin in origins if origin.degraded).items():
        metrics.degraded(label, reason).inc(count)
    times = [origin.oldest for origin in origins if origin.oldest is not None and not origin.lost]
    if times and at.current_since is not None:
        metrics.age(label).observe(max(0.0, (at.nanos - min(times)) / 1e9))


@asynccontextmanager
async def open_reader(
    options: ServiceSettings, settings: Settings, clock: Clock = lambda: datetime.now(UTC)
) -> AsyncIterator[FeatureReader]:
    """A reader whose servers may be down: they are found later. `clock` tells the present."""
    async with AsyncExitStack() as stack:
        catalog = await stack.enter_async_context(open_catalog(settings))
        database = await stack.enter_async_context(open_database(options, settings))
        cache = await stack.enter_async_context(open_cache(options, settings.feature_cache_ttl))
        loader = Loader(
            database,
            PutBack(catalog, cache),
            patience_s=options.database_timeout_s,
            # the other half is for requests that Redis answers
            may_wait=options.max_in_flight // 2,
        )
        stack.push_async_callback(loader.aclose)
        assets = Assets(database)
        stack.push_async_callback(assets.aclose)
        yield FeatureReader(
            catalog,
            cache,
            loader,
            assets,
            cache_s=settings.feature_cache_ttl,
            kept_assets=options.kept_assets,
            clock=clock,
        )
