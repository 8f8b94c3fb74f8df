"""The forecast log: what was forecast when, by which version of which model, with what was known.

A run is one issue of a model for some assets: `forecast_runs` has its origin, `forecasts` a row for each
asset and step. Both are only added to. Functions take a connection of the owner or inside the tenant scope.
"""

from __future__ import annotations

import math
import secrets
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby, islice, pairwise
from typing import TYPE_CHECKING, Any, Final, LiteralString, NamedTuple
from uuid import UUID

import numpy as np
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.json import Jsonb

from ai_hub.errors import ConflictError, NotFoundError
from ai_hub.times import from_millis

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: Quantiles that the log has columns for.
QUANTILES: Final = (0.1, 0.5, 0.9)
#: Of the details of runs of `ai-hub forecast run`: those of all meters of a model, which others may expect.
ALL_METERS: Final = {"by": "ai-hub forecast run", "meters": "all"}
#: Rows of one statement.
BATCH_ROWS: Final = 20_000


class Role(StrEnum):
    """What a run is for."""

    #: of the version in production
    LIVE = "live"
    #: of another version, beside it
    SHADOW = "shadow"
    #: of a past issue, computed later with what was known then
    REPLAY = "replay"
    BACKTEST = "backtest"


def new_run_id() -> UUID:
    """A UUID of version 7: it says when it was made, and later ones are greater."""
    millis = time.time_ns() // 1_000_000
    return UUID(int=millis << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62))


@dataclass(frozen=True)
class Run:
    """One issue of a model for some assets."""

    tenant: str
    model: str
    #: MLflow's number of the version; None: not registered, as in a backtest
    version: int | None
    semantic_version: str | None
    #: of the version's files; None as above
    manifest_sha256: str | None
    role: Role
    issued_at: datetime
    #: time whose knowledge the features are from
    known_at: datetime
    step: timedelta
    horizon: timedelta
    assets: tuple[str, ...]
    #: of the values; None: nobody said it
    unit: str | None = None
    #: what else was answered, as JSON
    details: Mapping[str, Any] = field(default_factory=dict)
    run_id: UUID = field(default_factory=new_run_id)
    #: complete, partial (some steps have no value) or failed (none has); None and no time: not written yet
    status: str | None = None
    recorded_at: datetime | None = None

    @property
    def leads(self) -> int:
        """Number of steps."""
        return self.horizon // self.step


@dataclass(frozen=True)
class Grid:
    """Values of a run: row i is of its i-th asset, column j of the step that starts at issue + j * step."""

    #: shape (assets, leads); NaN: no forecast
    values: Floats
    #: of the same shape, by quantile; those without a column in the log are not kept
    quantiles: Mapping[float, Floats] = field(default_factory=dict)
    #: by asset: whether features were missing or older than usual; None: of none
    degraded: Sequence[bool] | None = None
    #: what the model was given, where history may not tell it; see `replay.features_of`
    features: bytes | None = None


class Row(NamedTuple):
    """The forecast of one step of an asset."""

    asset_id: str
    #: start of the step
    target_time: datetime
    value: float | None
    q10: float | None
    q50: float | None
    q90: float | None
    #: ok, degraded or missing
    status: str


class ValidRow(NamedTuple):
    """The forecast of one step that was valid at a time, and where it comes from."""

    target_time: datetime
    value: float
    q10: float | None
    q50: float | None
    q90: float | None
    status: str
    run_id: UUID
    issued_at: datetime
    recorded_at: datetime
    step: timedelta
    model: str
    version: int
    semantic_version: str | None
    unit: str | None


def check_files(run: Run, manifest_sha256: str | None) -> None:
    """Refuse a version, by the SHA-256 of its manifest, whose files are not those that a run was made with.

    Raises:
        ConflictError: they are not.
    """
    if manifest_sha256 != run.manifest_sha256:
        raise ConflictError(
            f"The files of {run.model} version {run.version} are not those that run {run.run_id} was made "
            "with.",
            hint=f"Its manifest had the SHA-256 {run.manifest_sha256}.",
        )


def made_at(run_id: UUID) -> datetime | None:
    """When an id was made; None: not by `new_run_id`."""
    # 48 bits of milliseconds reach beyond Python's times
    if run_id.version != 7 or (millis := run_id.int >> 80) >= 1 << 47:  # noqa: PLR2004
        return None
    return from_millis(millis)


_RUN_COLUMNS: Final[LiteralString] = (
    "tenant_id, model, version, semantic_version, manifest_sha256, role, issued_at, known_at, step, horizon,"
    " assets, unit, details, run_id, status"
)
_ADD_RUN: Final[LiteralString] = f"""
INSERT INTO forecast_runs ({_RUN_COLUMNS}, features)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (run_id) DO NOTHING RETURNING run_id
"""  # noqa: S608  # constants
# The arrays of values have `leads` elements a line; those of quantiles that there are none of are NULL.
_ADD_ROWS: Final = """
INSERT INTO forecasts (target_time, tenant_id, asset_id, run_id, issued_at, value, q10, q50, q90, status)
SELECT
    issued_at + lead * %(step)s::interval, %(tenant)s, asset, run_id, issued_at,
    nullif(value, 'NaN'), nullif(q10, 'NaN'), nullif(q50, 'NaN'), nullif(q90, 'NaN'),
    CASE WHEN value = 'NaN' THEN 'missing' WHEN degraded THEN 'degraded' ELSE 'ok' END
FROM unnest(%(runs)s::uuid[], %(issues)s::timestamptz[], %(assets)s::text[], %(degraded)s::boolean[])
        WITH ORDINALITY AS line (run_id, issued_at, asset, degraded, number),
    generate_series(0, %(leads)s - 1) AS lead,
    LATERAL (SELECT ((number - 1) * %(leads)s + lead + 1)::integer) AS here (place),
    LATERAL (
        SELECT
            (%(values)s::float8[])[place], (%(q10)s::float8[])[place], (%(q50)s::float8[])[place],
            (%(q90)s::float8[])[place]
    ) AS given (value, q10, q50, q90)
"""


def write(connection: psycopg.Connection[Any], run: Run, grid: Grid) -> bool:
    """Write a run with its rows, both or neither; False: it is in the log already, and nothing changed.

    So a call may be repeated that may or may not have been done.

    Raises:
        ConflictError: the model's output is no forecast: infinite values, or quantiles that cross.
        ValueError: `grid` does not have the run's shape, or an asset is there twice.
    """
    return write_all(connection, [(run, grid)]) == 1


def write_all(connection: psycopg.Connection[Any], runs: Sequence[tuple[Run, Grid]]) -> int:
    """Write several runs of a tenant, in order; returns how many were not in the log already.

    All in one transaction, which takes little longer than that of one run; where some are there already, each
    in its own. See `write` for the errors, with which none is written.
    """
    for run, grid in runs:
        _check(run, grid)
    with connection.transaction() as transaction:
        for values in _batches(runs):
            connection.execute(_ADD_ROWS.encode(), values)
        # last, as the time of recording is that from which a run can be read
        added = [
            connection.execute(_ADD_RUN, [*_run_values(run), _status(grid), grid.features]).fetchone()
            for run, grid in runs
        ]
        if None in added:
            raise psycopg.Rollback(transaction)
    if None not in added:
        return len(runs)
    return 0 if len(runs) == 1 else sum(write_all(connection, [each]) for each in runs)


def _check(run: Run, grid: Grid) -> None:
    shape = (len(run.assets), run.leads)
    arrays = [grid.values, *grid.quantiles.values()]
    if any(array.shape != shape for array in arrays):
        raise ValueError(f"a run of {shape} has values of {[array.shape for array in arrays]}")
    if len(set(run.assets)) < len(run.assets):
        raise ValueError("an asset is there twice")
    if any(np.isinf(array).any() for array in arrays):
        raise ConflictError(f"{run.model} forecasts infinite values.", hint="Train it anew.")
    bands = [grid.quantiles[level] for level in QUANTILES if level in grid.quantiles]
    if any((lower > upper).any() for lower, upper in pairwise(bands)):
        raise ConflictError(f"The quantiles of {run.model} cross.", hint="Train it anew.")


def _run_values(run: Run) -> list[Any]:
    return [
        *(run.tenant, run.model, run.version, run.semantic_version, run.manifest_sha256, run.role.value),
        *(run.issued_at, run.known_at, run.step, run.horizon, list(run.assets), run.unit),
        *(Jsonb(dict(run.details)), run.run_id),
    ]


def _status(grid: Grid) -> str:
    missing = np.isnan(grid.values)
    return "failed" if missing.all() else "partial" if missing.any() else "complete"


class _Line(NamedTuple):
    """An asset of a run."""

    run: Run
    grid: Grid
    number: int


def _batches(runs: Sequence[tuple[Run, Grid]]) -> Iterator[dict[str, Any]]:
    """Parameters of the statements: some assets each, of runs with the same steps."""
    lines = [_Line(run, grid, number) for run, grid in runs for number in range(len(run.assets))]
    for (leads, step), alike in groupby(lines, lambda line: (line.run.leads, line.run.step)):
        while part := list(islice(alike, max(1, BATCH_ROWS // leads))):
            quantiles = {f"q{level * 100:.0f}": _numbers(part, level) for level in QUANTILES}
            yield {
                "tenant": part[0].run.tenant,
                "step": step,
                "leads": leads,
                "runs": [line.run.run_id for line in part],
                "issues": [line.run.issued_at for line in part],
                "assets": [line.run.assets[line.number] for line in part],
                "degraded": [bool(line.grid.degraded and line.grid.degraded[line.number]) for line in part],
                "values": FloatArray(np.concatenate([line.grid.values[line.number] for line in part])),
                **quantiles,
            }


def _numbers(lines: Sequence[_Line], level: float) -> FloatArray | None:
    """A quantile of some lines; None: none has it."""
    if not any(level in line.grid.quantiles for line in lines):
        return None
    absent = np.full(lines[0].run.leads, np.nan)
    found = [line.grid.quantiles.get(level) for line in lines]
    return FloatArray(
        np.concatenate(
            [absent if each is None else each[line.number] for each, line in zip(found, lines, strict=True)]
        )
    )


class FloatArray(NamedTuple):
    """Numbers as PostgreSQL's float8[]."""

    values: Floats


class _FloatArrayDumper(Dumper):
    """In PostgreSQL's binary format: with all bits, and 50 times as fast as a list."""

    format = Format.BINARY
    oid = psycopg.adapters.types["float8"].array_oid
    _HEADER = struct.Struct("!iiIii")
    _ELEMENT: Final = np.dtype([("length", ">i4"), ("value", ">f8")])

    def dump(self, obj: FloatArray) -> bytes:
        """One dimension from 1 on, each element with its length."""
        elements = np.empty(obj.values.size, self._ELEMENT)
        elements["length"], elements["value"] = 8, obj.values
        element_oid = psycopg.adapters.types["float8"].oid
        return self._HEADER.pack(1, 0, element_oid, obj.values.size, 1) + elements.tobytes()


psycopg.adapters.register_dumper(FloatArray, _FloatArrayDumper)


def rows_of(run: Run, grid: Grid) -> list[Row]:
    """The rows as `read_rows` reads them once they are written."""
    degraded = grid.degraded if grid.degraded is not None else [False] * len(run.assets)
    columns = [grid.values, *(grid.quantiles.get(level) for level in QUANTILES)]
    absent = np.full(grid.values.shape, np.nan)
    lists = [(absent if column is None else column).tolist() for column in columns]
    rows = []
    for number, asset in enumerate(run.assets):
        status = "degraded" if degraded[number] else "ok"
        for lead, numbers in enumerate(zip(*(column[number] for column in lists), strict=True)):
            value, q10, q50, q90 = (None if math.isnan(each) else each for each in numbers)
            target = run.issued_at + lead * run.step
            rows.append(Row(asset, target, value, q10, q50, q90, "missing" if value is None else status))
    return rows


_RUNS: Final[LiteralString] = f"SELECT {_RUN_COLUMNS}, recorded_at FROM forecast_runs"  # noqa: S608  # constants
_MATCHING: Final[LiteralString] = (
    " WHERE tenant_id = %(tenant)s AND (%(asset)s::text IS NULL OR assets @> ARRAY[%(asset)s::text])"
    " AND (%(model)s::text IS NULL OR model = %(model)s) AND (%(role)s::text IS NULL OR role = %(role)s)"
    # a run that does not say what it forecasts is answered as one of load
    " AND (%(details)s::jsonb IS NULL"
    """ OR ('{"forecast_type": "load"}'::jsonb || details) @> %(details)s)"""
)
_COUNT: Final[LiteralString] = f"SELECT count(*) FROM forecast_runs{_MATCHING}"  # noqa: S608  # constants
_ROWS: Final[LiteralString] = (
    "SELECT asset_id, target_time, value, q10, q50, q90, status FROM forecasts"
    " WHERE tenant_id = %(tenant)s AND asset_id = ANY (%(assets)s) AND issued_at = %(issued_at)s"
    " AND target_time >= %(issued_at)s AND target_time < %(end)s AND run_id = %(run_id)s"
    " ORDER BY array_position(%(assets)s::text[], asset_id), target_time"
)


def find_run(connection: psycopg.Connection[Any], tenant: str, run_id: UUID) -> Run:
    """A run of the tenant.

    Raises:
        NotFoundError: the tenant has no such run.
    """
    row = connection.execute(f"{_RUNS} WHERE tenant_id = %s AND run_id = %s", [tenant, run_id]).fetchone()
    if row is None:
        raise NotFoundError(
            f"Tenant {tenant} has no forecast run {run_id}.",
            hint=f"`ai-hub forecast runs --tenant {tenant}` lists those it has.",
        )
    return _run(row)


def list_runs(
    connection: psycopg.Connection[Any],
    tenant: str,
    *,
    asset: str | None = None,
    model: str | None = None,
    role: Role | None = None,
    details: Mapping[str, Any] | None = None,
    limit: int = 100,
    offset: int = 0,
) -> tuple[list[Run], int]:
    """Runs of the tenant, newest first, and how many there are in all; `details`: those that have these."""
    values = {
        "tenant": tenant,
        "asset": asset,
        "model": model,
        "role": role,
        "details": None if details is None else Jsonb(dict(details)),
        "limit": limit,
        "offset": offset,
    }
    page = " ORDER BY recorded_at DESC, run_id DESC LIMIT %(limit)s OFFSET %(offset)s"
    rows = connection.execute(f"{_RUNS}{_MATCHING}{page}", values).fetchall()
    count = connection.execute(_COUNT, values).fetchone()
    return [_run(row) for row in rows], count[0] if count else 0


def read_rows(
    connection: psycopg.Connection[Any], run: Run, assets: Sequence[str] | None = None
) -> list[Row]:
    """The rows of a run (of some of its assets), by asset in the run's order, then by time.

    Retention may have removed the first ones.
    """
    values = {
        "tenant": run.tenant,
        "assets": list(run.assets if assets is None else assets),
        "issued_at": run.issued_at,
        "end": run.issued_at + run.horizon,
        "run_id": run.run_id,
    }
    return [Row(*row) for row in connection.execute(_ROWS, values).fetchall()]


def read_features(connection: psycopg.Connection[Any], run: Run) -> bytes | None:
    """What the model of a run was given, as the log has it; None: history has it, as known then."""
    row = connection.execute(
        "SELECT features FROM forecast_runs WHERE tenant_id = %s AND run_id = %s", [run.tenant, run.run_id]
    ).fetchone()
    return row[0] if row else None


# A run that has no value for a step leaves the one before it valid.
_VALID: Final[LiteralString] = """
WITH candidates AS (
    SELECT
        target_time, value, q10, q50, q90, forecasts.status, run_id, forecasts.issued_at, recorded_at, step,
        model, version, semantic_version, unit
    FROM forecasts JOIN forecast_runs AS runs USING (tenant_id, run_id)
    WHERE tenant_id = %(tenant)s AND asset_id = %(asset)s AND value IS NOT NULL
        AND target_time >= %(start)s AND (%(end)s::timestamptz IS NULL OR target_time < %(end)s)
        AND role = 'live' AND recorded_at <= %(at)s
        AND (NOT %(in_own_unit)s OR unit IS NOT DISTINCT FROM (
            SELECT feature_unit FROM assets WHERE tenant_id = %(tenant)s AND asset_id = %(asset)s
        ))
        AND (%(model)s::text IS NULL OR model = %(model)s)
)
SELECT DISTINCT ON (target_time) * FROM candidates
WHERE step = coalesce(
    %(step)s::interval,
    (SELECT step FROM candidates ORDER BY issued_at DESC, recorded_at DESC, run_id DESC LIMIT 1)
)
ORDER BY target_time, issued_at DESC, recorded_at DESC, run_id DESC
"""


def valid_at(
    connection: psycopg.Connection[Any],
    tenant: str,
    asset: str,
    at: datetime,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    model: str | None = None,
    step: timedelta | None = None,
    in_own_unit: bool = False,
) -> list[ValidRow]:
    """The forecast of an asset that was valid at a time: of each step the newest live issue recorded by then.

    An issue without a value for a step leaves the one before it valid.

    Args:
        connection: see above.
        tenant: whose.
        asset: of which asset.
        at: what was recorded later is not looked at.
        start: first step that is read; default: `at`.
        end: steps from here on are not read.
        model: only of this model.
        step: only of runs with this step; default: that of the newest issue. Others are not mixed in.
        in_own_unit: only of runs in the unit that the asset has now.
    """
    values = {
        "tenant": tenant,
        "asset": asset,
        "at": at,
        "start": at if start is None else start,
        "end": end,
        "model": model,
        "step": step,
        "in_own_unit": in_own_unit,
    }
    return [ValidRow(*row) for row in connection.execute(_VALID, values).fetchall()]


def _run(row: Sequence[Any]) -> Run:
    names = [name.strip() for name in _RUN_COLUMNS.split(",")]
    fields = dict(zip([*names, "recorded_at"], row, strict=True))
    return Run(
        tenant=fields.pop("tenant_id"),
        role=Role(fields.pop("role")),
        assets=tuple(fields.pop("assets")),
        **fields,
    )
