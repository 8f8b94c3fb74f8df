"""Amounts follow from the readings of registers, whoever writes them, in any order."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracles.registers import Register
from support.feature_tables import now, write
from support.properties import examples

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.ingest import removal
from ai_hub.ingest.removal import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

    Reading = tuple[float, str]

HOUR = timedelta(hours=1)
START = datetime(2026, 10, 1, tzinfo=UTC)
PROPERTY = settings(
    max_examples=examples(12), phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
)
# most readings ten minutes from each other, some days away; values near each other, equal, at both ends
# of two digits
PLAIN = Register()
TIMES = st.builds(
    lambda step, day: timedelta(minutes=10 * step, days=day),
    st.integers(0, 20),
    st.sampled_from([0] * 9 + [1, 3, -400]),
)
VALUES = st.sampled_from([0.0, 0.5, 3.0, 50.0, 50.0, 51.0, 53.0, 90.0, 97.0, 99.5, 120.0])
QUALITIES = st.sampled_from(["good"] * 6 + ["estimated", "suspect"])
BATCHES = st.lists(
    st.dictionaries(TIMES, st.none() | st.tuples(VALUES, QUALITIES), min_size=1, max_size=8),
    min_size=1,
    max_size=6,
)
REGISTERS = st.builds(
    Register,
    digits=st.sampled_from([None, 2]),
    capacity=st.sampled_from([None, 4.0]),
    interval_s=st.sampled_from([None, 600, 86_400]),
)


def add(connection: psycopg.Connection, tenant: str, asset: str, register: Register = PLAIN) -> None:
    connection.execute(
        "INSERT INTO assets (tenant_id, asset_id, unit, reading, register_digits, capacity, interval_seconds)"
        " VALUES (%s, %s, 'kWh', 'register', %s, %s, %s)",
        [tenant, asset, register.digits, register.capacity, register.interval_s],
    )


def put(
    connection: psycopg.Connection, tenant: str, asset: str, readings: Mapping[datetime, Reading | float]
) -> None:
    pairs = [each if isinstance(each, tuple) else (each, "good") for each in readings.values()]
    connection.execute(
        'INSERT INTO register_readings ("timestamp", tenant_id, asset_id, value, quality)'
        " SELECT time, %s, %s, value, quality"
        " FROM unnest(%s::timestamptz[], %s::float8[], %s::text[]) AS r (time, value, quality)"
        ' ON CONFLICT (tenant_id, asset_id, "timestamp")'
        " DO UPDATE SET value = excluded.value, quality = excluded.quality, ingested_at = now()",
        [tenant, asset, list(readings), [value for value, _ in pairs], [quality for _, quality in pairs]],
    )


def amounts(
    connection: psycopg.Connection, tenant: str, asset: str
) -> dict[datetime, tuple[float, str, int]]:
    rows = connection.execute(
        'SELECT "timestamp", value, quality, interval_seconds FROM timeseries_data'
        " WHERE tenant_id = %s AND asset_id = %s",
        [tenant, asset],
    ).fetchall()
    return {time: (value, quality, seconds) for time, value, quality, seconds in rows}


def faults(connection: psycopg.Connection, tenant: str, asset: str) -> dict[datetime, str]:
    """Reasons by time, of open findings."""
    rows = connection.execute(
        "SELECT first_timestamp, coalesce(detail ->> 'reason', 'gap') FROM data_findings"
        " WHERE tenant_id = %s AND asset_id = %s AND kind IN ('register_fault', 'register_gap')"
        " AND resolved_at IS NULL",
        [tenant, asset],
    ).fetchall()
    assert len({time for time, _ in rows}) == len(rows)
    return dict(rows)


def lags(connection: psycopg.Connection, tenant: str, asset: str) -> dict[datetime, float | None]:
    rows = connection.execute(
        "SELECT event_timestamp - INTERVAL '1 hour', lag_1h FROM ai_features"
        " WHERE tenant_id = %s AND asset_id = %s AND lag_1h IS NOT NULL",
        [tenant, asset],
    ).fetchall()
    return dict(rows)


@PROPERTY
@given(register=REGISTERS, batches=BATCHES)
def test_amounts__of_any_order_of_writes__are_those_of_the_readings(
    database: str, register: Register, batches: list[dict[timedelta, Reading | None]]
) -> None:
    """New, late, corrected and deleted (None) readings, batch by batch."""
    check(database, register, batches)


@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(PROPERTY, max_examples=500)
@given(
    register=REGISTERS,
    batches=st.lists(
        st.dictionaries(TIMES, st.none() | st.tuples(VALUES, QUALITIES), min_size=1, max_size=40),
        min_size=1,
        max_size=12,
    ),
)
def test_amounts__of_any_order_of_writes__are_those_of_the_readings__long(
    database: str, register: Register, batches: list[dict[timedelta, Reading | None]]
) -> None:
    check(database, register, batches)


def check(database: str, register: Register, batches: list[dict[timedelta, Reading | None]]) -> None:
    tenant = f"t-{secrets.token_hex(6)}"
    stored: dict[datetime, Reading] = {}
    with connect(database, autocommit=True) as connection:
        add(connection, tenant, "m", register)
        add(connection, tenant, "other")
        put(connection, tenant, "other", {START: 1.0, START + HOUR: 2.0})
        for batch in batches:
            written = {START + at: reading for at, reading in batch.items() if reading is not None}
            deleted = [START + at for at, reading in batch.items() if reading is None]
            if written:
                put(connection, tenant, "m", written)
            connection.execute(
                "DELETE FROM register_readings WHERE tenant_id = %s AND asset_id = 'm'"
                ' AND "timestamp" = ANY (%s)',
                [tenant, deleted],
            )
            stored |= written
            stored = {time: reading for time, reading in stored.items() if time not in deleted}
            want, wrong = register.expected(stored)
            assert amounts(connection, tenant, "m") == want
            assert faults(connection, tenant, "m") == wrong
        assert amounts(connection, tenant, "other") == {START: (1.0, "good", 3600)}


def test_amounts__begin_at_the_first_reading_and_reach_to_the_next(database: str, tenant: str) -> None:
    """A late reading splits its interval; a correction changes both neighbours, and their hours."""
    quarter = timedelta(minutes=15)
    with connect(database, autocommit=True) as connection:
        add(connection, tenant, "m")
        put(connection, tenant, "m", {START: 100.0, START + HOUR: 104.0, START + 2 * HOUR: 110.0})
        assert amounts(connection, tenant, "m") == {
            START: (4.0, "good", 3600),
            START + HOUR: (6.0, "good", 3600),
        }
        refresh(dsn=database)
        assert lags(connection, tenant, "m") == {START: 4.0, START + HOUR: 6.0}
        put(connection, tenant, "m", {START + HOUR + quarter: 107.0})
        assert amounts(connection, tenant, "m")[START + HOUR] == (3.0, "good", 900)
        assert amounts(connection, tenant, "m")[START + HOUR + quarter] == (3.0, "good", 2700)
        put(connection, tenant, "m", {START + HOUR: (103.0, "estimated")})
        before = now(connection)
        refresh(dsn=database)
        assert lags(connection, tenant, "m") == {START: 3.0, START + HOUR: 7.0}
        known = connection.execute(
            "SELECT lag_1h FROM ai_features_stored WHERE tenant_id = %s AND hour = %s"
            " AND created_timestamp <= %s ORDER BY created_timestamp",
            [tenant, START + HOUR, before],
        ).fetchall()
        assert known == [(4.0,)]
        connection.execute(
            'DELETE FROM register_readings WHERE tenant_id = %s AND "timestamp" = %s', [tenant, START + HOUR]
        )
        # an hour and a quarter between two readings: not spread, but said
        assert amounts(connection, tenant, "m") == {START + HOUR + quarter: (3.0, "good", 2700)}
        assert faults(connection, tenant, "m") == {START: "gap"}
        refresh(dsn=database)
        assert lags(connection, tenant, "m") == {START + HOUR: 4.0}
        # a time that was wrong: both where the reading was and where it is now
        connection.execute(
            'UPDATE register_readings SET "timestamp" = %s WHERE tenant_id = %s AND "timestamp" = %s',
            [START + HOUR, tenant, START + HOUR + quarter],
        )
        assert amounts(connection, tenant, "m") == {
            START: (7.0, "good", 3600),
            START + HOUR: (3.0, "good", 3600),
        }
        assert faults(connection, tenant, "m") == {}


@pytest.mark.parametrize(
    ("digits", "values", "want", "wrong"),
    [
        (5, [99_990, 99_998, 5, 12], {0: 8, 1: 7, 2: 7}, {}),
        (None, [99_990, 99_998, 5, 12], {0: 8, 2: 7}, {1: "fell"}),
        # the meter was changed: what the old one still counted is not known, what the new one counts is
        (5, [45_000, 45_003, 0, 3], {0: 3, 2: 3}, {1: "fell"}),
        # one wrong reading, or several equal ones: neither a fall nor a rise as large
        (5, [45_000, 0, 45_006, 45_009], {2: 3}, {0: "fell", 1: "back"}),
        (None, [45_000, 0, 0, 45_006, 45_009], {1: 0, 3: 3}, {0: "fell", 2: "back"}),
        (None, [45_000, 450_030, 45_006, 45_009], {2: 3}, {0: "falls", 1: "fell"}),
        (5, [45_000, 450_030, 45_006, 45_009], {2: 3}, {0: "digits", 1: "digits"}),
    ],
)
def test_amounts__of_a_register_that_falls__are_never_negative_or_huge(
    database: str,
    tenant: str,
    digits: int | None,
    values: list[int],
    want: dict[int, int],
    wrong: dict[int, str],
) -> None:
    with connect(database, autocommit=True) as connection:
        add(connection, tenant, "m", Register(digits=digits))
        put(connection, tenant, "m", {START + at * HOUR: float(value) for at, value in enumerate(values)})
        found = {time: value for time, (value, _, _) in amounts(connection, tenant, "m").items()}
        assert found == {START + at * HOUR: value for at, value in want.items()}
        assert faults(connection, tenant, "m") == {START + at * HOUR: fault for at, fault in wrong.items()}


def test_amounts__of_writers_side_by_side__are_those_of_all_readings(database: str, tenant: str) -> None:
    """Each writes every fourth reading, so that neighbours are written by others at the same time."""
    readings = {START + at * HOUR: (float(at * at), "good") for at in range(80)}
    with connect(database, autocommit=True) as connection:
        add(connection, tenant, "m")

    def put_every_fourth(first: int) -> None:
        with connect(database, autocommit=True) as own:
            for time in list(readings)[first::4]:
                put(own, tenant, "m", {time: readings[time]})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(put_every_fourth, range(4)))
    with connect(database, autocommit=True) as connection:
        assert amounts(connection, tenant, "m") == PLAIN.expected(readings)[0]
        assert faults(connection, tenant, "m") == {}


def test_asset__that_turns_out_to_be_a_register_and_back__keeps_its_readings(
    database: str, tenant: str
) -> None:
    readings = {START + at * HOUR: 45_000.0 + 3 * at for at in range(24)}
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "m", readings)
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, unit, interval_seconds) VALUES (%s, 'm', 'kWh', 3600)",
            [tenant],
        )
        refresh(dsn=database)
        assert set(lags(connection, tenant, "m").values()) == set(readings.values())
        connection.execute("UPDATE assets SET reading = 'register' WHERE tenant_id = %s", [tenant])
        assert amounts(connection, tenant, "m") == dict.fromkeys(list(readings)[:-1], (3.0, "good", 3600))
        refresh(dsn=database)
        assert lags(connection, tenant, "m") == dict.fromkeys(list(readings)[:-1], 3.0)
        connection.execute("UPDATE assets SET register_digits = 4 WHERE tenant_id = %s", [tenant])
        assert set(faults(connection, tenant, "m").values()) == {"digits"}
        assert amounts(connection, tenant, "m") == {}
        connection.execute("UPDATE assets SET reading = 'energy' WHERE tenant_id = %s", [tenant])
        assert faults(connection, tenant, "m") == {}
        assert amounts(connection, tenant, "m") == {
            time: (value, "good", None) for time, value in readings.items()
        }
        assert connection.execute(
            "SELECT count(*) FROM register_readings WHERE tenant_id = %s", [tenant]
        ).fetchone() == (0,)


def test_writes__into_the_wrong_table__are_refused(database: str, tenant: str) -> None:
    with connect(database, autocommit=True) as connection:
        add(connection, tenant, "register")
        connection.execute(
            "INSERT INTO assets (tenant_id, asset_id, unit) VALUES (%s, 'meter', 'kWh')", [tenant]
        )
        put(connection, tenant, "register", {START: 1.0, START + HOUR: 3.0})
        with pytest.raises(psycopg.errors.CheckViolation, match=r"asset meter .* is no register"):
            put(connection, tenant, "meter", {START: 1.0})
        with pytest.raises(psycopg.errors.CheckViolation, match=r"asset register .* is a register"):
            write(connection, tenant, "register", {START + HOUR: 45_000.0})
        # also over what was derived
        with pytest.raises(psycopg.errors.CheckViolation, match="register_readings"):
            write(connection, tenant, "register", {START: 45_000.0})
        for value in (-1.0, float("nan"), float("inf")):
            with pytest.raises(psycopg.errors.CheckViolation, match="register_readings_value_check"):
                put(connection, tenant, "register", {START: value})
        # a policy of quality may change what counts
        connection.execute("UPDATE timeseries_data SET in_features = false WHERE tenant_id = %s", [tenant])
        assert amounts(connection, tenant, "register") == {START: (2.0, "good", 3600)}


def test_amounts__in_the_columnstore__are_corrected(database: str, tenant: str) -> None:
    with connect(database, autocommit=True) as connection:
        add(connection, tenant, "m")
        readings = {START + at * HOUR: 10.0 * at for at in range(200)}
        put(connection, tenant, "m", readings)
        connection.execute(
            "SELECT compress_chunk(chunk, if_not_compressed => true)"
            " FROM show_chunks('timeseries_data') AS chunk"
        ).fetchall()
        del readings[START + 100 * HOUR]
        readings[START + 50 * HOUR] = 502.0
        connection.execute(
            'DELETE FROM register_readings WHERE tenant_id = %s AND "timestamp" = %s',
            [tenant, START + 100 * HOUR],
        )
        put(connection, tenant, "m", {START + 50 * HOUR: 502.0})
        want, wrong = Register().expected({time: (value, "good") for time, value in readings.items()})
        assert amounts(connection, tenant, "m") == want
        assert faults(connection, tenant, "m") == wrong == {START + 99 * HOUR: "gap"}


def test_delete_readings__of_a_register__joins_its_intervals(
    database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "BATCH_ROWS", 2)
    quarter = timedelta(minutes=15)
    with connect(database, autocommit=True) as connection:
        add(connection, tenant, "m")
        put(connection, tenant, "m", {START + at * quarter: float(at * at) for at in range(12)})
        refresh(dsn=database)
        selection = Selection(tenant, ["m"], START + quarter, START + 4 * quarter)
        preview = removal.preview_readings(connection, selection)
        assert (preview.counts["readings"], preview.counts["hours"]) == (3, 1)
        removal.delete_readings(connection, selection, "a test")
        assert amounts(connection, tenant, "m")[START] == (16.0, "good", 3600)
        assert lags(connection, tenant, "m") == {START: 16.0, START + HOUR: 48.0, START + 2 * HOUR: 57 / 0.75}
        removal.remove_asset(connection, tenant, "m", "sold")
        assert amounts(connection, tenant, "m") == {}
        for table in ("register_readings", "data_findings", "ai_features", "assets"):
            query = f"SELECT count(*) FROM {table} WHERE tenant_id = %s"  # noqa: S608  # constants
            assert connection.execute(query.encode(), [tenant]).fetchone() == (0,)


def test_unknown_interval__of_rows_past_ingest__is_found_once_until_it_is_said(
    database: str, tenant: str
) -> None:
    def found() -> list[tuple[datetime, datetime, bool]]:
        return connection.execute(
            "SELECT first_timestamp, last_timestamp, resolved_at IS NULL FROM data_findings"
            " WHERE tenant_id = %s AND kind = 'unknown_interval' ORDER BY 1",
            [tenant],
        ).fetchall()

    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "m", {START: 1.0, START + HOUR: 2.0})
        assert found() == []
        connection.execute("INSERT INTO assets (tenant_id, asset_id, unit) VALUES (%s, 'm', 'kWh')", [tenant])
        assert found() == [(START, START + HOUR, True)]
        write(connection, tenant, "m", {START + 2 * HOUR: 1.0})
        write(connection, tenant, "power", {START + 2 * HOUR: 1.0})
        assert found() == [(START, START + 2 * HOUR, True)]
        connection.execute("UPDATE assets SET interval_seconds = 3600 WHERE tenant_id = %s", [tenant])
        assert [is_open for *_, is_open in found()] == [False]
        write(connection, tenant, "m", {START + 3 * HOUR: 1.0})
        assert [is_open for *_, is_open in found()] == [False]
