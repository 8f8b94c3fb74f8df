"""The read path: Redis; where it has no current row TimescaleDB; where that cannot be asked, what is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ai_hub.errors import NotFoundError
from ai_hub.serving import answers, metrics
from ai_hub.serving.assets import Assets
from ai_hub.serving.breaker import UnavailableError
from ai_hub.serving.cache import KNOWN, UNKNOWN, mark_key, open_cache
from ai_hub.serving.catalog import open_catalog
from ai_hub.serving.current import moment
from ai_hub.serving.database import open_database
from ai_hub.serving.loader import Loader
from ai_hub.serving.stored import Stored
from feast_plugins.online.reading import Read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from feast import RepoConfig

    from ai_hub.service.settings import ServiceSettings
    from ai_hub.serving.cache import Cache
    from ai_hub.serving.catalog import Catalog
    from ai_hub.serving.current import Moment
    from ai_hub.serving.query import Query
    from ai_hub.serving.rows import Found, Row
    from ai_hub.settings import Settings

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
        clock: Clock,
    ) -> None:
        self.catalog = catalog
        self.cache = cache
        self._loader = loader
        self._assets = assets
        self._cache_s = cache_s
        self._clock = clock

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
        self._assets.note(asked.tenant)
        columns = {"tenant_id": [asked.tenant] * len(asked.assets), "asset_id": list(asked.assets)}
        read = Read(query.plan, columns, config.project)
        stored, cache_is_up = await self._stored(query, config, at, read)
        if wanting := stored.wanting():
            if cache_is_up:
                wanting = await self._without_marked(config, stored, asked, wanting)
            if wanting:
                await self._compute(config, stored, asked, wanting, read, cache_is_up=cache_is_up)
        origins = stored.judged()
        if asked.must_exist and not origins[0].is_known and origins[0].degraded is None:
            raise await self._no_asset(asked.tenant, asked.assets[0])
        response = read.answer(stored.replies, view_metadata=False, now=at.nanos)
        _count(query.label, at, origins)
        results = answers.results(
            query, response, asked.assets, origins, lookback_hours=asked.lookback_hours, computed_at=now
        )
        return Answer(query.label, asked.timestamp or now, now, results)

    async def _stored(self, query: Query, config: RepoConfig, at: Moment, read: Read) -> tuple[Stored, bool]:
        """What Redis has, and whether it answers."""
        if at.current_since is not None:
            try:
                return Stored(query, at, await self.cache.ask(config, read.commands)), True
            except UnavailableError:
                pass
        return Stored.nothing(query, at, read.commands.replies), False

    async def _without_marked(
        self, config: RepoConfig, stored: Stored, asked: Asked, wanting: Wanting
    ) -> Wanting:
        """Leave out the rows that were looked for a moment ago, when there was nothing newer."""
        places = [
            (view, asset)
            for view, assets in wanting.items()
            for asset in assets
            if stored.is_seen(view, asset)
        ]
        keys = [
            mark_key(config, stored.query.views[view], asked.tenant, asked.assets[asset])
            for view, asset in places
        ]
        try:
            marks = await self.cache.marks(config, keys)
        except UnavailableError:
            return wanting
        marked = set()
        for (view, asset), mark in zip(places, marks, strict=True):
            if mark is not None:
                marked.add((view, asset))
                if mark == UNKNOWN and stored.times[view][asset] is None:
                    stored.origins[asset].is_known = False
        rest = {
            view: [asset for asset in assets if (view, asset) not in marked]
            for view, assets in wanting.items()
        }
        return {view: assets for view, assets in rest.items() if assets}

    async def _compute(
        self,
        config: RepoConfig,
        stored: Stored,
        asked: Asked,
        wanting: Wanting,
        read: Read,
        *,
        cache_is_up: bool,
    ) -> None:
        """Fill in what TimescaleDB has, or what is left without it; put the rows back after the answer."""
        at = stored.moment
        found = await asyncio.gather(
            *(self._load(stored, asked, view, assets) for view, assets in wanting.items())
        )
        ((_, keys),) = read.groups
        for (place, assets), loaded in zip(wanting.items(), found, strict=True):
            if isinstance(loaded, UnavailableError):
                self._do_without(stored, asked, place, assets, loaded.reason)
                continue
            view = stored.query.views[place]
            back: list[tuple[bytes, Row, bytes | None]] = []
            marks: list[tuple[bytes, bytes]] = []
            for asset, each in zip(assets, loaded, strict=True):
                stamp = stored.stamp(place, asset)
                stored.origins[asset].is_known = each.is_known or stamp is not None
                if stored.put(place, asset, each.row) and each.row is not None:
                    back.append((keys.prefix + keys.rows[asset] + keys.suffix, each.row, stamp))
                if not at.is_given and (each.row is None or not at.is_current(each.row.nanos)):
                    key = mark_key(config, view, asked.tenant, asked.assets[asset])
                    marks.append((key, KNOWN if each.is_known else UNKNOWN))
            if cache_is_up and at.current_since is not None:
                self.cache.put_back(config, view, back)
                self.cache.mark(config, [key for key, _ in marks], [value for _, value in marks])

    async def _load(
        self, stored: Stored, asked: Asked, view: int, assets: Sequence[int]
    ) -> list[Found] | UnavailableError:
        at = stored.moment
        try:
            return await self._loader.load(
                stored.query.views[view],
                asked.tenant,
                [asked.assets[asset] for asset in assets],
                at=at.nanos,
                # who asks for the present shares with all who do in this hour
                key=-at.hour if at.current_since is not None and not at.is_given else at.nanos,
            )
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
        known = await self._assets.read(tenant)
        near = get_close_matches(asset, known, n=1)
        hint = (
            f"Did you mean {near[0]}?"
            if near
            else "Assets come with `ai-hub ingest`; it lists what it added."
        )
        return NotFoundError(f"Tenant {tenant} has no asset {asset}.", hint=hint)


def _count(label: str, at: Moment, origins: Sequence[answers.Origin]) -> None:
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
        loader = Loader(database, options.database_timeout_s)
        stack.push_async_callback(loader.aclose)
        assets = Assets(database)
        stack.push_async_callback(assets.aclose)
        yield FeatureReader(catalog, cache, loader, assets, cache_s=settings.feature_cache_ttl, clock=clock)
