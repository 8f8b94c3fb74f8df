"""The forecast log against a slow reading of all that was written."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import properties

from ai_hub.db import connect
from ai_hub.db.chunks import set_forecast_retention
from ai_hub.db.tenant_scope import as_tenant
from ai_hub.errors import ConflictError, NotFoundError
from ai_hub.forecasting import log
from ai_hub.forecasting.log import Grid, Role, Run

if TYPE_CHECKING:
    from psycopg import Connection

HOUR = timedelta(hours=1)
#: a Monday, months before any retention and compression of tests
ISSUE = datetime(2026, 3, 2, 10, tzinfo=UTC)


def a_run(tenant: str, **fields: Any) -> Run:
    run = Run(
        tenant,
        "day-ahead-electricity",
        3,
        "v1.0.2",
        "ab" * 32,
        Role.LIVE,
        issued_at=ISSUE,
        known_at=ISSUE,
        step=HOUR,
        horizon=4 * HOUR,
        assets=("a", "b"),
        unit="kW",
    )
    return replace(run, run_id=log.new_run_id(), **fields)


def a_grid(run: Run, seed: int = 0) -> Grid:
    """Values with all bits in use, and a gap where there is room for one."""
    drawn = np.random.default_rng(seed)
    values = drawn.normal(0, 100, (len(run.assets), run.leads))
    widths = np.abs(drawn.normal(0, 10, (2, *values.shape)))
    values[0, -1] = np.nan if values.size > 1 else values[0, -1]
    return Grid(values, {0.1: values - widths[0], 0.5: values.copy(), 0.9: values + widths[1]})


def stored(connection: Connection[Any], tenant: str) -> tuple[int, int]:
    """Rows of runs, and of forecasts."""
    counts = [
        connection.execute(f"SELECT count(*) FROM {table} WHERE tenant_id = %s", [tenant]).fetchone()  # noqa: S608
        for table in ("forecast_runs", "forecasts")
    ]
    return tuple(row[0] for row in counts if row)  # type: ignore[return-value]


def test_write__then_read__has_the_same_bits(connection: Connection[Any], tenant: str) -> None:
    run = a_run(tenant, details={"forecast_type": "load"})
    grid = replace(a_grid(run), degraded=[False, True])
    grid.values[1, 0] = -0.0
    grid.values[1, 1] = 5e-324
    grid.quantiles[0.1][1] = grid.quantiles[0.5][1] = grid.quantiles[0.9][1] = grid.values[1]
    assert log.write(connection, run, grid)

    found = log.find_run(connection, tenant, run.run_id)
    assert found == replace(run, status="partial", recorded_at=found.recorded_at)
    assert found.recorded_at is not None
    rows = log.read_rows(connection, found)
    assert [(row.asset_id, row.target_time) for row in rows] == [
        (asset, ISSUE + lead * HOUR) for asset in "ab" for lead in range(4)
    ]
    for name, expected in (
        ("value", grid.values),
        *zip(("q10", "q50", "q90"), grid.quantiles.values(), strict=True),
    ):
        read = np.array([getattr(row, name) for row in rows], dtype=float).reshape(2, 4)
        assert read.tobytes() == expected.tobytes()
    assert [row.status for row in rows] == ["ok"] * 3 + ["missing"] + ["degraded"] * 4
    assert log.read_rows(connection, found, ["b"]) == rows[4:]


def test_write__again__changes_nothing(connection: Connection[Any], tenant: str) -> None:
    run = a_run(tenant)
    assert log.write(connection, run, a_grid(run, seed=1))
    before = log.read_rows(connection, run)
    assert not log.write(connection, run, a_grid(run, seed=2))
    assert log.read_rows(connection, run) == before
    assert stored(connection, tenant) == (1, 8)


def test_write_all__of_several_shapes__has_the_same_bits(
    connection: Connection[Any], tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BATCH_ROWS", 5)
    shapes: list[dict[str, Any]] = [
        {},
        {"assets": ("c",)},
        {"assets": ("a", "c"), "issued_at": ISSUE + HOUR},
        {"step": HOUR / 4, "horizon": HOUR},
        {"assets": tuple("abcdefg"), "horizon": HOUR},
    ]
    runs = [a_run(tenant, **fields) for fields in shapes]
    grids = [a_grid(run, seed) for seed, run in enumerate(runs)]
    grids[1] = Grid(grids[1].values)
    grids[2] = replace(grids[2], quantiles={0.5: grids[2].quantiles[0.5]}, degraded=[True, False])
    grids[3] = replace(grids[3], features=b"given")
    assert log.write_all(connection, list(zip(runs, grids, strict=True))) == len(runs)
    for run, grid in zip(runs, grids, strict=True):
        assert [tuple(row) for row in log.read_rows(connection, run)] == [
            tuple(row) for row in log.rows_of(run, grid)
        ]
        assert log.read_features(connection, run) == grid.features
    kept, _ = log.list_runs(connection, tenant)
    assert {run.run_id for run in kept} == {run.run_id for run in runs}
    # the embedded server's clock counts milliseconds, so some are of one time
    assert kept == sorted(kept, key=lambda run: (run.recorded_at, run.run_id), reverse=True)


def test_write_all__of_what_is_there_in_part__adds_the_rest(connection: Connection[Any], tenant: str) -> None:
    there, new = a_run(tenant), a_run(tenant, assets=("c",))
    assert log.write(connection, there, a_grid(there, seed=1))
    before = log.read_rows(connection, there)
    both = [(there, a_grid(there, seed=2)), (new, a_grid(new))]
    assert (log.write_all(connection, both), log.write_all(connection, both)) == (1, 0)
    assert log.read_rows(connection, there) == before
    assert stored(connection, tenant) == (2, 12)
    # of one that is no forecast none is written
    third, fourth = a_run(tenant), a_run(tenant)
    crossing = a_grid(fourth)
    crossing.quantiles[0.1][1, 2] = crossing.quantiles[0.9][1, 2] + 1
    with pytest.raises(ConflictError, match="cross"):
        log.write_all(connection, [(third, a_grid(third)), (fourth, crossing)])
    assert stored(connection, tenant) == (2, 12)


def test_write__what_is_no_forecast__is_refused(connection: Connection[Any], tenant: str) -> None:
    run = a_run(tenant)
    infinite, crossing = a_grid(run), a_grid(run)
    infinite.values[0, 0] = np.inf
    crossing.quantiles[0.1][1, 2] = crossing.quantiles[0.9][1, 2] + 1
    for grid in (infinite, crossing):
        with pytest.raises(ConflictError, match="day-ahead-electricity"):
            log.write(connection, run, grid)
    with pytest.raises(ValueError, match="values of"):
        log.write(connection, replace(run, horizon=5 * HOUR), a_grid(run))
    with pytest.raises(ValueError, match="twice"):
        log.write(connection, replace(run, assets=("a", "a")), a_grid(run))
    assert stored(connection, tenant) == (0, 0)


def test_write__that_fails_in_the_middle__leaves_nothing(
    connection: Connection[Any], tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BATCH_ROWS", 4)
    # no text of PostgreSQL has this character
    run = a_run(tenant, assets=("a", "b", "c\0"))
    with pytest.raises(psycopg.DataError):
        log.write(connection, run, a_grid(run))
    assert stored(connection, tenant) == (0, 0)
    run = replace(run, assets=("a", "b", "c"))
    assert log.write(connection, run, a_grid(run))
    assert stored(connection, tenant) == (1, 12)


def test_log__is_append_only__also_in_the_columnstore(connection: Connection[Any], tenant: str) -> None:
    run = a_run(tenant)
    log.write(connection, run, a_grid(run))
    rows = log.read_rows(connection, run)
    _compress(connection)
    assert log.read_rows(connection, run) == rows
    for table, change in (("forecasts", "value = 1, status = 'ok'"), ("forecast_runs", "model = 'x'")):
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="append-only"):
            connection.execute(f"UPDATE {table} SET {change} WHERE tenant_id = %s", [tenant])  # type: ignore[arg-type]  # noqa: S608
    later = a_run(tenant)
    assert log.write(connection, later, a_grid(later, seed=1))
    assert log.read_rows(connection, run) == rows


def _compress(connection: Connection[Any]) -> None:
    connection.execute(
        "SELECT compress_chunk(chunk) FROM show_chunks('forecasts', older_than => now()) AS chunk"
    ).fetchall()


def test_other_tenants__see_and_write_nothing(connection: Connection[Any], tenant: str) -> None:
    theirs, run = f"{tenant}-x", a_run(tenant)
    log.write(connection, run, a_grid(run))
    with pytest.raises(NotFoundError, match="no forecast run"):
        log.find_run(connection, theirs, run.run_id)
    assert log.list_runs(connection, theirs) == ([], 0)
    assert log.read_rows(connection, replace(run, tenant=theirs)) == []
    far = datetime.now(UTC) + HOUR
    assert log.valid_at(connection, theirs, "a", far, start=ISSUE) == []
    # in the tenant scope whatever a query says
    with as_tenant(connection, theirs) as scoped:
        with pytest.raises(NotFoundError):
            log.find_run(scoped, tenant, run.run_id)
        assert log.list_runs(scoped, tenant) == ([], 0)
        assert log.read_rows(scoped, run) == []
        assert log.valid_at(scoped, tenant, "a", far, start=ISSUE) == []
    before = stored(connection, tenant)
    foreign = a_run(tenant)
    row = [ISSUE, tenant, "a", run.run_id, ISSUE, 1.0, None, None, None, "ok"]
    statements: list[tuple[LiteralString, list[Any]]] = [
        ("INSERT INTO forecasts VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", row),
        (log._ADD_RUN, [*log._run_values(foreign), "complete", None]),
    ]
    for statement, values in statements:
        with (
            pytest.raises(psycopg.errors.WithCheckOptionViolation),
            as_tenant(connection, theirs) as scoped,
        ):
            scoped.execute(statement, values)
    for verb in ("DELETE FROM forecasts", "DELETE FROM forecast_runs", "UPDATE forecasts SET status = 'ok'"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), as_tenant(connection, tenant) as scoped:
            scoped.execute(verb)  # type: ignore[call-overload]
    assert stored(connection, tenant) == before
    # its own it writes like the owner
    own = a_run(theirs)
    with as_tenant(connection, theirs) as scoped:
        assert log.write(scoped, own, a_grid(own))
        assert len(log.read_rows(scoped, own)) == 8
    assert stored(connection, theirs) == (1, 8)


def test_list_runs__filters_and_pages__newest_first(connection: Connection[Any], tenant: str) -> None:
    kinds = [
        {"assets": ("a",), "details": {"forecast_type": "load"}},
        {"assets": ("a", "b"), "model": "other"},
        {"assets": ("b",), "role": Role.SHADOW},
        {"assets": ("a",), "details": {"forecast_type": "price"}},
    ]
    written = []
    for kind in kinds:
        run = a_run(tenant, **kind)
        log.write(connection, run, a_grid(run))
        written.append(run.run_id)
    written.reverse()

    def ids(**filters: Any) -> tuple[list[UUID], int]:
        found, total = log.list_runs(connection, tenant, **filters)
        return [run.run_id for run in found], total

    assert ids() == (written, 4)
    assert ids(limit=2, offset=1) == (written[1:3], 4)
    assert ids(asset="a") == ([written[0], written[2], written[3]], 3)
    assert ids(asset="b", role=Role.SHADOW) == ([written[1]], 1)
    assert ids(model="other") == ([written[2]], 1)
    # a run that says no type is answered as one of load
    assert ids(details={"forecast_type": "load"}) == (written[1:], 3)
    assert ids(asset="nobody's") == ([], 0)


# ---- the forecast that was valid at a time, against a reading of everything


@dataclass(frozen=True)
class Drawn:
    """An issue of one asset: hours and minutes are small, so that issues share targets and times."""

    issue_h: int
    step_h: int
    leads: int
    role: Role
    model: str
    gaps: frozenset[int]


ISSUES = st.builds(
    Drawn,
    issue_h=st.integers(0, 4),
    step_h=st.sampled_from([1, 1, 1, 2]),
    leads=st.integers(1, 6),
    role=st.sampled_from([Role.LIVE, Role.LIVE, Role.LIVE, Role.SHADOW, Role.BACKTEST]),
    model=st.sampled_from(["m", "n"]),
    gaps=st.frozensets(st.integers(0, 5), max_size=3),
)


def valid_by_reading_all(
    runs: list[tuple[Run, Grid]], at: datetime, start: datetime, end: datetime | None, model: str | None
) -> dict[datetime, tuple[float, UUID]]:
    """Value and run by step: each run in the order of issue and recording overwrites the ones before."""
    usable = []
    for run, grid in runs:
        assert run.recorded_at is not None
        if run.role == Role.LIVE and run.recorded_at <= at and model in {None, run.model}:
            for lead in range(run.leads):
                target, value = run.issued_at + lead * run.step, grid.values[0, lead]
                if not np.isnan(value) and target >= start and (end is None or target < end):
                    usable.append(((run.issued_at, run.recorded_at), target, run, float(value)))
    usable.sort(key=lambda each: each[0])
    if not usable:
        return {}
    step = usable[-1][2].step
    return {target: (value, run.run_id) for _, target, run, value in usable if run.step == step}


@given(
    drawn=st.lists(ISSUES, min_size=1, max_size=6),
    window=st.tuples(st.integers(0, 8), st.none() | st.integers(0, 10)),
    model=st.sampled_from([None, None, "m"]),
)
@settings(max_examples=properties.examples(12))
def test_valid_at__is_what_reading_everything_finds(
    database: str, drawn: list[Drawn], window: tuple[int, int | None], model: str | None
) -> None:
    tenant = f"valid-{secrets.token_hex(6)}"
    runs: list[tuple[Run, Grid]] = []
    with connect(database, autocommit=True) as connection:
        for number, issue in enumerate(drawn):
            run = a_run(
                tenant,
                assets=("a",),
                issued_at=ISSUE + issue.issue_h * HOUR,
                step=issue.step_h * HOUR,
                horizon=issue.leads * issue.step_h * HOUR,
                role=issue.role,
                model=issue.model,
            )
            values = np.array([[number + lead / 100 for lead in range(issue.leads)]])
            values[0, sorted(each for each in issue.gaps if each < issue.leads)] = np.nan
            log.write(connection, run, Grid(values))
            runs.append((log.find_run(connection, tenant, run.run_id), Grid(values)))
        if len(drawn) % 2:
            _compress(connection)
        start = ISSUE + window[0] * HOUR
        end = None if window[1] is None else ISSUE + window[1] * HOUR
        recorded = [run.recorded_at for run, _ in runs if run.recorded_at]
        for at in (recorded[0] - timedelta(microseconds=1), *recorded, recorded[-1] + HOUR):
            found = log.valid_at(connection, tenant, "a", at, start=start, end=end, model=model)
            expected = valid_by_reading_all(runs, at, start, end, model)
            assert {row.target_time: (row.value, row.run_id) for row in found} == expected
            assert [row.target_time for row in found] == sorted(expected)
        assert log.valid_at(connection, tenant, "b", recorded[-1], start=start) == []


def test_valid_at__of_another_step__is_read_when_it_is_asked_for(
    connection: Connection[Any], tenant: str
) -> None:
    fine = a_run(tenant, assets=("a",), step=HOUR / 4, horizon=HOUR)
    log.write(connection, fine, Grid(np.arange(4.0)[None]))
    hourly = a_run(tenant, assets=("a",), horizon=2 * HOUR)
    log.write(connection, hourly, Grid(np.array([[10.0, 11.0]])))
    at = datetime.now(UTC) + HOUR

    def values(step: timedelta | None) -> list[float]:
        return [row.value for row in log.valid_at(connection, tenant, "a", at, start=ISSUE, step=step)]

    assert values(None) == [10, 11]
    assert values(HOUR / 4) == [0, 1, 2, 3]
    assert values(3 * HOUR) == []


# ---- retention


def test_retention__removes_old_targets_and_runs_without_any(database: str, tenant: str) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with connect(database, autocommit=True) as connection:
        old = a_run(tenant, issued_at=now - timedelta(days=60))
        young = a_run(tenant, issued_at=now - timedelta(days=3))
        for run in (old, young):
            log.write(connection, run, a_grid(run))
        assert not set_forecast_retention(None, database)
        assert stored(connection, tenant) == (2, 16)
        try:
            assert set_forecast_retention(30, database)
            assert stored(connection, tenant) == (1, 8)
            assert log.find_run(connection, tenant, young.run_id)
            assert not set_forecast_retention(30, database)
            config = (
                "SELECT config FROM timescaledb_information.jobs WHERE proc_name = 'remove_old_forecasts'"
            )
            assert connection.execute(config).fetchone() == ({"days": 30},)
        finally:
            assert set_forecast_retention(None, database)


# ---- ids


def test_run_ids__say_when_they_were_made__and_later_ones_are_greater() -> None:
    before = datetime.now(UTC)
    first, second = log.new_run_id(), log.new_run_id()
    made = log.made_at(first)
    assert made is not None
    assert timedelta(milliseconds=-2) < made - before < timedelta(minutes=1)
    assert first.version == 7
    assert first != second
    assert first.int >> 80 <= second.int >> 80
    assert log.made_at(uuid4()) is None
    assert log.made_at(UUID(int=(1 << 48) - 1 << 80 | 7 << 76 | 2 << 62)) is None


# ---- kills


@pytest.mark.long
def test_write__killed_anywhere__leaves_all_or_nothing(database: str, tenant: str) -> None:
    program = (
        "import sys\n"
        "from datetime import timedelta\n"
        "import numpy as np\n"
        "from ai_hub.db import connect\n"
        "from ai_hub.forecasting import log\n"
        "from datetime import datetime, UTC\n"
        "log.BATCH_ROWS = 500\n"
        "at = datetime(2026, 3, 2, tzinfo=UTC)\n"
        "run = log.Run(sys.argv[2], 'm', 1, None, 'ab' * 32, log.Role.LIVE, at, at,\n"
        "    timedelta(minutes=15), timedelta(hours=48),\n"
        "    tuple(f'asset-{n}' for n in range(100)))\n"
        "with connect(sys.argv[1], autocommit=True) as connection:\n"
        "    print(run.run_id, flush=True)\n"
        "    log.write(connection, run, log.Grid(np.ones((100, 192))))\n"
        "    print('written', flush=True)\n"
    )
    draw = random.Random(properties.seed())  # noqa: S311
    outcomes = set()
    with connect(database, autocommit=True) as connection:
        for _ in range(20):
            process = subprocess.Popen(
                [sys.executable, "-c", program, database, tenant],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "TIMESCALE_DSN": database},
            )
            assert process.stdout is not None
            run_id = UUID(process.stdout.readline().strip())
            time.sleep(draw.uniform(0, 1.2))
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            _wait_for_the_end(connection)
            rows = connection.execute("SELECT count(*) FROM forecasts WHERE run_id = %s", [run_id]).fetchone()
            runs = connection.execute(
                "SELECT count(*) FROM forecast_runs WHERE run_id = %s", [run_id]
            ).fetchone()
            assert (runs, rows) in {((0,), (0,)), ((1,), (19_200,))}
            outcomes.add(runs)
    assert (0,) in outcomes


def _wait_for_the_end(connection: Connection[Any]) -> None:
    """Until the killed process's session has ended; the embedded server answers only then."""
    deadline = time.monotonic() + 60
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ai-hub'"
        " AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    while connection.execute(query).fetchone() != (0,):
        assert time.monotonic() < deadline
        time.sleep(0.05)
