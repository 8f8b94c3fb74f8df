"""Logged runs made again: with the same version of the model, and the features that it was given."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ai_hub.errors import BadInputError, ConflictError, ServiceDownError
from ai_hub.forecasting import log
from ai_hub.forecasting.issues import IssueRows, instants
from ai_hub.forecasting.log import Grid, Role, Run
from ai_hub.forecasting.production import LoadedDayAhead, issue, load, read_rows
from ai_hub.registry.versions import get_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ai_hub.forecasting.log import Row
    from ai_hub.settings import Settings


@dataclass(frozen=True)
class Replay:
    """A logged run made again."""

    #: of the role `replay`
    run: Run
    grid: Grid
    #: rows in the log
    rows: int
    #: those whose values or quantiles have other bits now
    differing: int
    #: whether the features had the same bits; None: the log does not say
    same_features: bool | None


def replay(settings: Settings, logged: Run, rows: Sequence[Row], features: bytes | None) -> Replay:
    """Make a logged run again with the same version of the model and what it was given.

    Args:
        settings: of the database and the registry.
        logged: the run.
        rows: its rows.
        features: what the log has of its features, see `log.read_features`.

    Raises:
        BadInputError: the run is of no registered version.
        ConflictError: the version's files are not those of the run, or features are no longer there.
        NotFoundError: the version is gone.
    """
    if logged.version is None:
        raise BadInputError(
            f"Run {logged.run_id} is of no registered version.", hint="Backtest the model again."
        )
    version = get_version(logged.tenant, logged.model, str(logged.version))
    log.check_files(logged, version.manifest_sha256)
    loaded = load(version)
    given = features_of(settings, loaded, logged, logged.assets, features)
    run, grid = issue(
        loaded,
        given,
        known_at=logged.known_at,
        role=Role.REPLAY,
        leads=logged.leads,
        with_features=features is not None,
        details={"replay_of": str(logged.run_id)},
    )
    expected = logged.details.get("features_sha256")
    return Replay(
        run,
        grid,
        rows=len(rows),
        differing=differing(run, grid, rows),
        same_features=None if expected is None else run.details["features_sha256"] == expected,
    )


def features_of(
    settings: Settings,
    loaded: LoadedDayAhead,
    logged: Run,
    assets: Sequence[str],
    features: bytes | None,
    *,
    limit_s: float | None = None,
) -> IssueRows:
    """What the model was given for some assets of a run: as the log has it, else as it was known then.

    History is read with the service's login inside the tenant scope; statements that take longer than
    `limit_s` fail.

    Raises:
        ConflictError: what the log has is damaged, or features are no longer there.
        ServiceDownError: the database does not answer in time.
    """
    if features is None:
        # Feast takes seconds
        from ai_hub.features.store import open_tenant_store  # noqa: PLC0415
        from feast_plugins.errors import QueryTimeoutError  # noqa: PLC0415

        store = open_tenant_store(settings, logged.tenant, known_at=logged.known_at, limit_s=limit_s)
        try:
            return read_rows(store, loaded, assets, logged.issued_at, settings=settings)
        except QueryTimeoutError as error:
            raise ServiceDownError("TimescaleDB", "the features", str(error)) from error
    try:
        packed = zlib.decompress(features)
    except zlib.error:
        packed = b""
    if hashlib.sha256(packed).hexdigest() != logged.details.get("features_sha256"):
        raise ConflictError(
            f"The features that the log has of run {logged.run_id} are not those that it was made of.",
            hint="Restore the table forecast_runs from a backup.",
        )
    inputs, leads, n = loaded.model.recipe.inputs, loaded.model.leads, len(logged.assets)
    numbers = np.frombuffer(packed, "<f8").astype(np.float64)
    scalars = numbers[: len(inputs.scalars) * n].reshape(-1, n)
    arrays = numbers[len(inputs.scalars) * n :].reshape(-1, n, leads)
    rows = IssueRows(
        logged.tenant,
        np.array(logged.assets),
        instants([logged.issued_at] * n),
        loaded.model.step,
        dict(zip(inputs.scalars, scalars, strict=True)),
        dict(zip(inputs.arrays, arrays, strict=True)),
    )
    return rows.take(np.array([logged.assets.index(asset) for asset in assets]))


def differing(run: Run, grid: Grid, rows: Sequence[Row]) -> int:
    """How many rows of the log have other bits than those of a run that was made again."""
    made = {(row.asset_id, row.target_time): _bits(row) for row in log.rows_of(run, grid)}
    return sum(_bits(row) != made[row.asset_id, row.target_time] for row in rows)


def _bits(row: Row) -> list[str | None]:
    return [None if each is None else each.hex() for each in (row.value, row.q10, row.q50, row.q90)]
