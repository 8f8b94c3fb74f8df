"""Forecasts with a horizon of the models in production, issued for the log."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import deque
from collections.abc import Sequence  # of a dataclass
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from ai_hub.db.connection import connect
from ai_hub.db.transactions import transaction
from ai_hub.errors import ConflictError, NotFoundError
from ai_hub.forecasting import log
from ai_hub.forecasting.card import HORIZON_TAG, MAKER, MAKER_TAG, ModelCard, check_units
from ai_hub.forecasting.day_ahead import DayAheadModel
from ai_hub.forecasting.issues import IssueRows, IssueRule, instants
from ai_hub.forecasting.log import QUANTILES, Grid, Role, Run
from ai_hub.forecasting.models.loading import loader_of
from ai_hub.registry import ModelVersion
from ai_hub.registry.metadata import model_metadata
from ai_hub.registry.versions import search
from ai_hub.settings import Settings  # of a dataclass
from ai_hub.times import EPOCH, from_micros
from mlflow_plugins.lifecycle.rules import PRODUCTION, STAGING
from mlflow_plugins.lineage_events import LineageDataset, is_on, lineage_run, model_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import psycopg
    from feast import FeatureStore

    from mlflow_plugins.lineage_events import LineageRun

#: Where the pyfunc flavor keeps what `DayAheadModel.save` wrote.
_FOLDER: Final = "data/day_ahead"
#: Assets that an error names.
_NAMED: Final = 5
#: Part of a step for which meters without a forecast are waited for: their features may still come.
_PATIENCE: Final = 0.25


@dataclass(frozen=True)
class LoadedDayAhead:
    """A version of a model with a horizon, in memory."""

    model: DayAheadModel
    card: ModelCard
    version: ModelVersion

    @property
    def label(self) -> str:
        """Name and version, for messages."""
        return f"{self.version.model} {self.version.semantic_version or self.version.version}"

    @property
    def horizon(self) -> timedelta:
        """How far ahead it forecasts."""
        return self.model.leads * self.model.step

    def issue_time(self, now: datetime) -> datetime:
        """When the step under way began."""
        return now - (now - EPOCH) % self.model.step

    def due_issue(self, now: datetime) -> datetime:
        """The newest time of issue: by the rule that it was trained for, else `issue_time`."""
        if self.card.issue is None:
            return self.issue_time(now)
        rule = IssueRule.parse(self.card.issue)
        days = (now.date() + timedelta(days=number) for number in range(-2, rule.days + 3))
        return self.issue_time(max(at for at in map(rule.issued_for, days) if at <= now))


def how_to_train(tenant: str) -> str:
    """The commands that bring a model with a horizon into production."""
    return (
        f"Train one with `ai-hub train --tenant {tenant} --horizon 48h`, then promote it with "
        f"`ai-hub promote MODEL --tenant {tenant}`."
    )


def production_versions(tenant: str) -> list[ModelVersion]:
    """Versions with a horizon that are in production, by name."""
    return sorted(_ahead(search(tenant, stage=PRODUCTION)), key=lambda version: version.model)


def staging_versions(tenant: str) -> list[ModelVersion]:
    """Versions with a horizon that are in Staging."""
    return _ahead(search(tenant, stage=STAGING))


def _ahead(versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    """Those with a horizon."""
    return [
        version
        for version in versions
        if version.tags.get(MAKER_TAG) == MAKER and HORIZON_TAG in version.tags
    ]


def card_of(version: ModelVersion) -> ModelCard:
    """What a version with a horizon was trained on and how, through this machine's model cache.

    Raises:
        ConflictError: it has no horizon, or a file is not what was registered.
        UnusableCacheError: the cache cannot be used.
    """
    loader, cached = loader_of(version)
    with loader.files(cached):
        return _with_horizon(version, loader.card(cached))


def _with_horizon(version: ModelVersion, card: ModelCard | None) -> ModelCard:
    if card is None or card.horizon_hours is None:
        raise ConflictError(
            f"{version.model} {version.semantic_version or version.version} does not forecast ahead.",
            hint=how_to_train(version.tenant),
        )
    return card


def load(version: ModelVersion) -> LoadedDayAhead:
    """A version with a horizon, its files verified, through this machine's model cache.

    Raises:
        ConflictError: it has no horizon, or a file is not what was registered.
        UnusableCacheError: the cache cannot be used.
    """
    loader, cached = loader_of(version)
    with loader.files(cached) as folder:
        card = _with_horizon(version, loader.card(cached))
        return LoadedDayAhead(DayAheadModel.load(folder / _FOLDER), card, version)


def read_rows(
    store: FeatureStore,
    loaded: LoadedDayAhead,
    assets: Sequence[str],
    issued_at: datetime,
    *,
    settings: Settings | None = None,
    all_leads: bool = False,
) -> IssueRows:
    """Features of one issue, as known at the time the store is open at; in the order of `assets`.

    They have the leads of the model, or with `all_leads` those of its feature service.

    With `settings` the assets are looked up with the service's login inside the tenant scope, as a store of
    `open_tenant_store` reads; else as the owner.

    Raises:
        ConflictError: the feature service no longer gives what the model was trained with, or features of an
            asset are not in its unit.
        NotFoundError: there is no such feature service, or no such asset.
    """
    # Feast takes seconds to import, and is not needed where features are given
    from ai_hub.features.store import get_service  # noqa: PLC0415
    from ai_hub.forecasting.issue_history import issue_features, read_issues  # noqa: PLC0415

    card, tenant = loaded.card, loaded.version.tenant
    features = issue_features(store, get_service(store, card.feature_service), card.quantiles or QUANTILES)
    present, needed = features.recipe.inputs, loaded.model.recipe.inputs
    absent = sorted({*needed.scalars, *needed.arrays} - {*present.scalars, *present.arrays})
    if absent or features.declaration.step != loaded.model.step:
        raise ConflictError(
            f"Feature service {card.feature_service} no longer has {', '.join(absent) or 'the steps'}, "
            f"which {loaded.label} was trained with.",
            hint="Restore the features and run `feast apply`, or train the model anew.",
        )
    units = _units(tenant, assets, settings)
    if unknown := sorted(set(assets) - units.keys()):
        more = " and others" if len(unknown) > _NAMED else ""
        raise NotFoundError(
            f"Tenant {tenant} has no asset {', '.join(unknown[:_NAMED])}{more}.",
            hint=f"`ai-hub asset list --tenant {tenant}` shows those it has.",
        )
    check_units(loaded.label, tenant, card, units)
    leads = None if all_leads else loaded.model.leads
    rows = read_issues(store, features, tenant, assets, [issued_at], leads=leads)
    place = {str(asset): number for number, asset in enumerate(rows.assets)}
    return rows.take(np.array([place[asset] for asset in assets]))


def rows_of_features(
    loaded: LoadedDayAhead, asset: str, issued_at: datetime, features: Mapping[str, Any]
) -> IssueRows:
    """One issue of an asset from features as they are online; None is a missing value.

    Raises:
        ConflictError: they are not what the model was trained with.
    """
    inputs, leads = loaded.model.recipe.inputs, loaded.model.leads
    arrays = {name: features.get(name) for name in inputs.arrays}
    lengths = {len(each) for each in arrays.values() if isinstance(each, list)}
    if not {*inputs.scalars, *inputs.arrays} <= features.keys() or any(each < leads for each in lengths):
        raise ConflictError(
            f"Feature service {loaded.card.feature_service} no longer has what {loaded.label} was trained "
            "with.",
            hint="Restore the features and run `feast apply`, or train the model anew.",
        )
    missing = [None] * leads
    return IssueRows(
        loaded.version.tenant,
        np.array([asset]),
        instants([issued_at]),
        loaded.model.step,
        {name: np.array([features[name]], dtype=np.float64) for name in inputs.scalars},
        {name: np.array([(each or missing)[:leads]], dtype=np.float64) for name, each in arrays.items()},
    )


def _units(tenant: str, assets: Sequence[str], settings: Settings | None = None) -> dict[str, str | None]:
    """Units of the features of those assets that there are; `settings`: see `read_rows`."""
    with connect() if settings is None else transaction(settings, tenant) as connection:
        found = connection.execute(
            "SELECT asset_id, feature_unit FROM assets WHERE tenant_id = %s AND asset_id = ANY(%s)",
            [tenant, list(assets)],
        ).fetchall()
    return dict(found)


def issue(
    loaded: LoadedDayAhead,
    rows: IssueRows,
    *,
    known_at: datetime,
    role: Role = Role.LIVE,
    leads: int | None = None,
    degraded: bool = False,
    with_features: bool = False,
    details: Mapping[str, Any] | None = None,
) -> tuple[Run, Grid]:
    """Forecast the rows of one issue, as the log takes it.

    Args:
        loaded: the model.
        rows: one an asset, all of the same time of issue.
        known_at: time whose knowledge the rows are from.
        role: what for.
        leads: only the first so many steps.
        degraded: the features are older than usual.
        with_features: the log keeps the rows, as history may not have them.
        details: more of the run.
    """
    forecasts = loaded.model.forecast(rows)
    version = loaded.version
    leads = leads or rows.leads
    packed = _packed(loaded, rows)
    run = Run(
        tenant=rows.tenant_id,
        model=version.model,
        version=version.version,
        semantic_version=version.semantic_version,
        manifest_sha256=version.manifest_sha256,
        role=role,
        issued_at=from_micros(rows.issued_at[0].astype(np.int64)),
        known_at=known_at,
        step=rows.step,
        horizon=leads * rows.step,
        assets=tuple(map(str, rows.assets)),
        unit=loaded.card.unit,
        details={"features_sha256": hashlib.sha256(packed).hexdigest(), **(details or {})},
    )
    quantiles = {level: forecasts.quantiles[:, :leads, at] for at, level in enumerate(forecasts.levels)}
    flags = [degraded or each for each in _degraded(loaded, rows, leads)]
    features = zlib.compress(packed) if with_features else None
    return run, Grid(forecasts.values[:, :leads], quantiles, flags, features)


def _degraded(loaded: LoadedDayAhead, rows: IssueRows, leads: int) -> list[bool]:
    """By row, whether a feature in the unit of the forecasts is missing, or the wind: see `lacks_wind`."""
    inputs = loaded.model.recipe.inputs
    missing = loaded.model.lacks_wind(rows, leads)
    for name in inputs.in_unit:
        is_scalar = name in inputs.scalars
        missing |= np.isnan(rows.scalars[name]) if is_scalar else np.isnan(rows.arrays[name]).all(axis=1)
    return [bool(each) for each in missing]


def _packed(loaded: LoadedDayAhead, rows: IssueRows) -> bytes:
    """What the model is given, for the log; `replay.features_of` reads it."""
    inputs = loaded.model.recipe.inputs
    columns = [
        *(rows.scalars[name] for name in inputs.scalars),
        *(rows.arrays[name] for name in inputs.arrays),
    ]
    # a missing value has many bit patterns
    return b"".join(np.where(np.isnan(each), np.nan, each).astype("<f8").tobytes() for each in columns)


def metadata(loaded: LoadedDayAhead) -> dict[str, Any]:
    """What is said of a model beside its forecasts, as JSON."""
    stated = model_metadata(loaded.version)
    samples = stated.metadata.get("hyperparameters", {}).get("issues")
    errors = {name: stated.metrics.get(name) for name in ("mae", "rmse", "mape")}
    return {
        "features_used": loaded.card.features,
        "training_samples": int(samples) if str(samples).isdecimal() else None,
        "training_date": loaded.version.registered_at.isoformat(),
        **{name: float(each) for name, each in errors.items() if isinstance(each, int | float)},
    }


def assets_of(loaded: LoadedDayAhead) -> list[str]:
    """Assets that it was trained on, without those that are gone or have another unit now."""
    units = _units(loaded.version.tenant, loaded.card.assets)
    return [asset for asset in loaded.card.assets if asset in units and units[asset] == loaded.card.unit]


class Issued(NamedTuple):
    """What has come of a look at the models in production."""

    #: as they are in the log, those in shadow last
    runs: list[Run]
    #: of tenants and models that could not be forecast; the others were
    errors: list[Exception]
    #: what was left out
    notes: list[str]


class _Live(NamedTuple):
    """A live forecast that is in the log, and what it was made of."""

    loaded: LoadedDayAhead
    run: Run
    #: with all leads of the feature service, where shadows may need them
    rows: IssueRows
    store: FeatureStore


@dataclass
class Issuer:
    """Forecasts of the models in production of some tenants, written to the log."""

    settings: Settings
    tenants: Sequence[str]
    #: only these; none: all with a horizon
    models: Sequence[str] = ()
    #: only these; none: those each model was trained on
    assets: Sequence[str] = ()
    #: also forecast with versions in Staging of the same models, for the log alone
    shadow: bool = False
    _loaded: dict[tuple[str, str], LoadedDayAhead] = field(default_factory=dict)
    #: versions in Staging
    _shadows: dict[tuple[str, str], dict[int, LoadedDayAhead]] = field(default_factory=dict)
    #: live forecasts, and versions in Staging that have still to forecast the same
    _waiting: deque[tuple[_Live, ModelVersion]] = field(default_factory=deque)

    def issue_now(self) -> Issued:
        """Forecast with every model from the step under way on, and in shadow.

        Where a tenant has no such model in production, the error says how to train one.
        """
        issued = self._with_each(self._issue_now)
        while self.waiting_shadows:
            runs, _, notes = self.issue_shadow()
            issued.runs.extend(runs)
            issued.notes.extend(notes)
        return issued

    def catch_up(self) -> Issued:
        """Forecast with those models whose newest time of issue is not in the log yet.

        Where a meter has no features, nothing is written for a quarter of a step: they may still come. An
        issue more than a step late is left out: it would be made of what was not known at its time.

        Forecasts in shadow wait for `issue_shadow`, so that no live one waits for them. They are in memory
        alone: who is killed before has not made them.
        """
        return self._with_each(self._catch_up)

    @property
    def waiting_shadows(self) -> int:
        """How many forecasts in shadow `issue_shadow` has still to make."""
        return len(self._waiting)

    def issue_shadow(self) -> Issued:
        """Make the forecast in shadow that waits for the longest time; what fails is noted.

        One that would be recorded two steps after its issue or later is left out, as no score counts it.
        """
        (live, version), issued = self._waiting.popleft(), Issued([], [], [])
        label = f"{version.tenant}: {version.model} {version.semantic_version or version.version}"
        if datetime.now(UTC) >= live.run.issued_at + 2 * live.run.step:
            issued.notes.append(
                f"{label} has no forecast in shadow for {live.run.issued_at:%Y-%m-%d %H:%MZ}: it has waited "
                "for two steps. Archive versions that nobody waits for, or follow some models (--model) in a "
                "process of its own."
            )
            return issued
        try:
            issued.runs.append(self._make_shadow(live, version))
        except Exception as error:  # noqa: BLE001  # the live forecast is in the log, and other versions forecast
            issued.notes.append(f"{label} does not forecast in shadow: {error}")
        return issued

    def _with_each(self, work: Callable[[LoadedDayAhead, list[str]], _Live | None]) -> Issued:
        issued = Issued([], [], [])
        made: list[_Live] = []
        for tenant in self.tenants:
            for version in self._versions(tenant, issued.errors):
                try:
                    live = work(self._load(version), issued.notes)
                except Exception as error:  # noqa: BLE001  # the other models are forecast all the same
                    issued.errors.append(error)
                else:
                    made += [] if live is None else [live]
        issued.runs.extend(live.run for live in made)
        # when all live ones are in the log: they wait for no shadow
        for live in made if self.shadow else ():
            self._await_shadows(live, issued.notes)
        return issued

    def _await_shadows(self, live: _Live, notes: list[str]) -> None:
        """Let the model's versions in Staging wait to forecast what was forecast live."""
        version = live.loaded.version
        key = version.tenant, version.model
        before, self._shadows[key] = self._shadows.get(key, {}), {}
        try:
            staged = _ahead(search(*key, stage=STAGING))
        except Exception as error:  # noqa: BLE001  # the live forecast is in the log
            notes.append(f"{version.tenant}: {version.model} has no forecasts in shadow: {error}")
            return
        self._shadows[key] = {each.version: before[each.version] for each in staged if each.version in before}
        self._waiting.extend((live, each) for each in staged)

    def _make_shadow(self, live: _Live, version: ModelVersion) -> Run:
        present = self._shadows[version.tenant, version.model]
        loaded = present.get(version.version)
        if loaded is None or loaded.version != version:
            loaded = present[version.version] = load(version)
        run, grid = issue(
            loaded,
            self._shadow_rows(live, loaded),
            known_at=live.run.known_at,
            role=Role.SHADOW,
            details={**self._mark(), "metadata": metadata(loaded), "live": str(live.run.run_id)},
        )
        return self._write(run, grid)

    @staticmethod
    def _shadow_rows(live: _Live, loaded: LoadedDayAhead) -> IssueRows:
        """What the live forecast was made of; from the same store where a version takes other features."""
        rows, inputs = live.rows, loaded.model.recipe.inputs
        if loaded.card.unit != live.loaded.card.unit:
            raise ConflictError(
                f"It was trained in {loaded.card.unit or 'no known unit'}, the version in production in "
                f"{live.loaded.card.unit or 'no known unit'}."
            )
        if (
            loaded.card.feature_service == live.loaded.card.feature_service
            and loaded.model.step == rows.step
            and loaded.model.leads <= rows.leads
            and {*inputs.scalars} <= {*rows.scalars}
            and {*inputs.arrays} <= {*rows.arrays}
        ):
            return rows.first(loaded.model.leads)
        return read_rows(live.store, loaded, live.run.assets, live.run.issued_at)

    def _write(self, run: Run, grid: Grid) -> Run:
        with connect(self.settings.require("timescale_dsn"), autocommit=True) as connection:
            log.write(connection, run, grid)
            return log.find_run(connection, run.tenant, run.run_id)

    def _issue_now(self, loaded: LoadedDayAhead, notes: list[str]) -> _Live:
        version = loaded.version
        with lineage_run(version.tenant, f"forecast/{version.model}") as lineage:
            run, grid, rows, store = self._make(loaded, loaded.issue_time(datetime.now(UTC)), notes, lineage)
            return _Live(loaded, self._write(run, grid), rows, store)

    def _catch_up(self, loaded: LoadedDayAhead, notes: list[str]) -> _Live | None:
        now, tenant = datetime.now(UTC), loaded.version.tenant
        due, step = loaded.due_issue(now), loaded.model.step
        with connect(self.settings.require("timescale_dsn"), autocommit=True) as connection:
            if self._is_issued(connection, loaded, due):
                return None
        if now > due + step:
            notes.append(
                f"{tenant}: {loaded.label}, issue of {due:%Y-%m-%d %H:%MZ} is late and left out; `ai-hub "
                f"forecast run --tenant {tenant} --model {loaded.version.model}` forecasts from now on."
            )
            return None
        with lineage_run(tenant, f"forecast/{loaded.version.model}", at_once=False) as lineage:
            run, grid, rows, store = self._make(loaded, due, notes, lineage)
            lineage.is_void = bool(np.isnan(grid.values).any()) and now < due + _PATIENCE * step
            if lineage.is_void:
                return None
            with connect(self.settings.require("timescale_dsn"), autocommit=True) as connection:
                with connection.transaction():
                    # another process may follow the same model
                    connection.execute(
                        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
                        [f"forecast {tenant} {run.model} {due.isoformat()}"],
                    )
                    lineage.is_void = self._is_issued(connection, loaded, due)
                    if lineage.is_void:
                        return None
                    log.write(connection, run, grid)
                return _Live(loaded, log.find_run(connection, tenant, run.run_id), rows, store)

    def _versions(self, tenant: str, errors: list[Exception]) -> list[ModelVersion]:
        """Those to forecast with; adds what is not there to `errors`."""
        try:
            versions = {version.model: version for version in production_versions(tenant)}
        except Exception as error:  # noqa: BLE001  # the other tenants are forecast all the same
            errors.append(error)
            return []
        absent = [f"model {name}" for name in self.models if name not in versions]
        if not self.models and not versions:
            absent = ["model"]
        errors += [
            NotFoundError(
                f"Tenant {tenant} has no {each} with a horizon in production.", hint=how_to_train(tenant)
            )
            for each in absent
        ]
        return [versions[name] for name in self.models or versions if name in versions]

    def _load(self, version: ModelVersion) -> LoadedDayAhead:
        key = version.tenant, version.model
        loaded = self._loaded.get(key)
        if loaded is None or loaded.version != version:
            loaded = self._loaded[key] = load(version)
        return loaded

    def _make(
        self, loaded: LoadedDayAhead, issued_at: datetime, notes: list[str], lineage: LineageRun
    ) -> tuple[Run, Grid, IssueRows, FeatureStore]:
        from ai_hub.features.store import get_service, open_store, stored_views  # noqa: PLC0415  # Feast takes seconds

        known_at, version = datetime.now(UTC), loaded.version
        lineage.inputs = [model_version(version.model, version.version, version.semantic_version)]
        store = open_store(self.settings, known_at=known_at)
        if is_on():
            views = stored_views(store, get_service(store, loaded.card.feature_service))
            lineage.inputs += [LineageDataset(view, known_at.isoformat()) for view in views]
        assets = self.assets or self._own_assets(loaded, notes)
        rows = read_rows(store, loaded, assets, issued_at, all_leads=self.shadow)
        details = {**self._mark(), "metadata": metadata(loaded)}
        run, grid = issue(loaded, rows.first(loaded.model.leads), known_at=known_at, details=details)
        lineage.outputs = [LineageDataset(f"forecasts/{run.model}", str(run.run_id))]
        lineage.start, lineage.end = run.issued_at, run.issued_at + run.horizon
        return run, grid, rows, store

    def _own_assets(self, loaded: LoadedDayAhead, notes: list[str]) -> Sequence[str]:
        """Assets that the model was trained on, without those that are gone or have another unit now."""
        card, tenant = loaded.card, loaded.version.tenant
        kept = assets_of(loaded)
        left = sorted(set(card.assets) - set(kept))
        if left and kept:
            notes.append(
                f"{tenant}: {loaded.label} does not forecast {', '.join(left[:_NAMED])}"
                f"{' and others' if len(left) > _NAMED else ''}: removed, or no longer in "
                f"{card.unit or 'no known unit'}."
            )
        # of none at all `read_rows` says why
        return kept or card.assets

    def _mark(self) -> dict[str, str]:
        """Of the details of runs: those of requests, and of other meters, are not what is due."""
        return log.ALL_METERS | ({"meters": json.dumps(sorted(set(self.assets)))} if self.assets else {})

    def _is_issued(self, connection: psycopg.Connection[Any], loaded: LoadedDayAhead, due: datetime) -> bool:
        version = loaded.version
        runs, _ = log.list_runs(
            connection, version.tenant, model=version.model, role=Role.LIVE, details=self._mark(), limit=1
        )
        return any(run.issued_at >= due for run in runs)
