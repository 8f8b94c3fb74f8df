"""Refreshes: what they cost the rows they need not touch, killed, side by side, scheduled, past retention."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from oracles.features import HOUR, Asset, Weather, floor_hour
from support.feature_tables import assert_views_equal, now, write, write_weather
from support.registry_servers import FORKS, PRELOADED

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from feast_plugins.windows import history

if TYPE_CHECKING:
    import psycopg

DAY = timedelta(days=1)
FEATURES = (
    "historical_avg_24h, historical_std_24h, historical_min_24h, historical_max_24h,"
    " lag_1h, lag_24h, lag_168h, temperature"
)


def this_hour() -> datetime:
    return floor_hour(datetime.now(UTC))


def refresh_killed_after_a_small_batch(dsn: str) -> None:
    history.POSITIONS = 300
    refresh(dsn=dsn, progress=lambda done, _: os.kill(os.getpid(), signal.SIGKILL) if done else None)


def midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def series(start: datetime, hours: int, *, step: timedelta = HOUR, seed: int = 1) -> dict[datetime, float]:
    values = random.Random(seed)  # noqa: S311  # test data
    count = int(hours * HOUR / step)
    return {start + number * step: values.uniform(-5, 500) for number in range(count)}


def rows(connection: psycopg.Connection, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]


def stored(connection: psycopg.Connection, tenant: str) -> list[tuple[Any, ...]]:
    return rows(
        connection,
        f"SELECT asset_id, event_timestamp, {FEATURES} FROM ai_features WHERE tenant_id = %s ORDER BY 1, 2",  # noqa: S608  # constant names
        tenant,
    )


def computed(connection: psycopg.Connection, tenant: str) -> list[tuple[Any, ...]]:
    """The same rows from the aggregates, one by one."""
    with connection.transaction(force_rollback=True):
        for table in ("declared_spans", "ai_features_stored"):
            connection.execute(f"DELETE FROM {table} WHERE tenant_id = %s", [tenant])  # type: ignore[arg-type]  # noqa: S608  # constant names
        return stored(connection, tenant)


def assert_settled(connection: psycopg.Connection) -> None:
    assert rows(connection, "SELECT FROM declared_refresh_ranges WHERE view_name = 'ai_features'") == []
    assert rows(connection, "SELECT FROM feature_changes") == []


def test_refresh__rows_of_months_ago__are_computed_with_the_same_bits(database: str, tenant: str) -> None:
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", series(this_hour() - 100 * DAY, 15 * 24, step=HOUR / 2))
        refresh(dsn=database)
        before = stored(connection, tenant)
        assert len(before) == 15 * 24 - 1 + 24
        assert before == computed(connection, tenant)


def test_refresh__job_of_the_scheduler__does_the_same(database: str, tenant: str) -> None:
    asset = Asset(readings=series(this_hour() - 4 * DAY, 60))
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        ((job,),) = rows(
            connection,
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'refresh_features_job'",
        )
        before = now(connection)
        connection.execute(f"CALL run_job({job})")  # type: ignore[arg-type]  # the embedded server wants a literal
        assert_views_equal(connection, tenant, "meter", asset)
        assert_settled(connection)
        ((computed_rows,),) = rows(
            connection, "SELECT rows_changed FROM feature_refreshes WHERE started_at >= %s", before
        )
        assert computed_rows >= 60 + 23


def test_refresh__two_at_once_beside_a_writer__miss_nothing(database: str, tenant: str) -> None:
    start = this_hour() - 40 * DAY
    asset = Asset(readings=series(start, 24 * 10))
    failures: list[BaseException] = []
    stop = threading.Event()

    def refresh_again_and_again() -> None:
        try:
            while not stop.is_set():
                refresh(dsn=database)
        except BaseException as error:  # noqa: BLE001  # shown below
            failures.append(error)

    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        others = [threading.Thread(target=refresh_again_and_again) for _ in range(2)]
        for other in others:
            other.start()
        try:
            for step in range(6):
                late = series(start + step * 40 * HOUR, 3, step=HOUR / 3, seed=step)
                asset.readings |= late
                write(connection, tenant, "meter", late)
                time.sleep(0.1)
        finally:
            stop.set()
            for other in others:
                other.join()
        assert not failures
        refresh(dsn=database)
        assert_views_equal(connection, tenant, "meter", asset)
        assert_settled(connection)


# A batch is of some three meters.
@pytest.mark.parametrize(("meters", "kills"), [(4, 1), pytest.param(30, 2, marks=pytest.mark.long)])
def test_refresh__killed_again_and_again__ends_the_same(
    database: str, tenant: str, meters: int, kills: int
) -> None:
    FORKS.set_forkserver_preload(PRELOADED)
    asset = Asset(readings=series(this_hour() - 200 * DAY, 24 * 18, step=2 * HOUR))
    versions = "SELECT count(*) FROM ai_features_stored WHERE tenant_id = %s"
    with connect(database, autocommit=True) as connection:
        for number in range(meters):
            write(connection, tenant, f"meter-{number}", asset.readings)
        done = [0]
        for _ in range(kills):
            child = FORKS.Process(target=refresh_killed_after_a_small_batch, args=(database,))
            child.start()
            child.join(200)
            assert child.exitcode == -signal.SIGKILL
            done.append(rows(connection, versions, tenant)[0][0])
            assert done[-1] > done[-2]
        assert done[-1] < meters * len(asset.hours(this_hour()))
        refresh(dsn=database)
        assert_views_equal(connection, tenant, "meter-3", asset)
        assert stored(connection, tenant) == computed(connection, tenant)
        assert_settled(connection)
        twice = rows(
            connection,
            "SELECT hour FROM ai_features_stored WHERE tenant_id = %s AND superseded_at IS NULL"
            " GROUP BY tenant_id, asset_id, hour HAVING count(*) > 1",
            tenant,
        )
        assert twice == []


def test_refresh__correction_in_the_columnstore__changes_its_hours_and_keeps_the_past(
    database: str, tenant: str
) -> None:
    start = this_hour() - 130 * DAY
    asset = Asset(readings=series(start, 72))
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        write(connection, tenant, "other", asset.readings)
        refresh(dsn=database)
        then, known = now(connection), deepcopy(asset)
        compressed = rows(
            connection,
            "SELECT compress_chunk(chunk, if_not_compressed => true) FROM ("
            " SELECT show_chunks('ai_features_stored', now() - INTERVAL '90 days') AS chunk"
            " UNION ALL SELECT show_chunks('timeseries_data', now() - INTERVAL '90 days')) AS old",
        )
        assert len(compressed) >= 2
        correction = {start + 30 * HOUR: 1234.5}
        asset.readings |= correction
        write(connection, tenant, "meter", correction)
        assert refresh(dsn=database).changed == 24  # no row one week later: the series ends before
        assert_views_equal(connection, tenant, "meter", asset)
        assert_views_equal(connection, tenant, "meter", known, known_at=then)
        assert_views_equal(connection, tenant, "other", known)


def test_refresh__row_that_cannot_be_ended__is_not_present_twice(
    database: str, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    start = this_hour() - 3 * DAY
    asset = Asset(readings=series(start, 60))
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        refresh(dsn=database)
        before = deepcopy(asset)
        asset.readings |= (correction := {start + 30 * HOUR: 1234.5})
        write(connection, tenant, "meter", correction)
        connection.execute(
            "CREATE FUNCTION not_one() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$"
        )
        connection.execute(
            "CREATE TRIGGER not_one BEFORE UPDATE ON ai_features_stored"
            f" FOR EACH ROW WHEN (OLD.tenant_id = '{tenant}') EXECUTE FUNCTION not_one()"
        )
        try:
            assert refresh(dsn=database).changed == 0
            assert "rows could not be ended" in caplog.text
            assert_views_equal(connection, tenant, "meter", before)
        finally:
            connection.execute("DROP FUNCTION not_one CASCADE")
        assert refresh(dsn=database).changed == 24
        assert_views_equal(connection, tenant, "meter", asset)


def test_refresh__weather_past_its_retention__stays_in_the_rows(database: str, tenant: str) -> None:
    start = this_hour() - 400 * DAY
    asset = Asset(readings=series(start, 48), weather=[Weather(start + 5 * HOUR, start + 5 * HOUR, 21.5)])
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        write_weather(connection, tenant, "meter", asset.weather)
        refresh(dsn=database)
        rows(connection, "SELECT drop_chunks('weather_features', now() - INTERVAL '380 days')")
        correction = {start + 3 * HOUR: 77.0}
        asset.readings |= correction
        write(connection, tenant, "meter", correction)
        refresh(dsn=database)
        assert_views_equal(connection, tenant, "meter", asset)


def test_refresh__since__recomputes_what_it_finds_wrong(database: str, tenant: str) -> None:
    start = this_hour() - 5 * DAY
    asset = Asset(readings=series(start, 90))
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        refresh(dsn=database)
        connection.execute("UPDATE ai_features_stored SET lag_1h = -1 WHERE tenant_id = %s", [tenant])
        assert refresh(dsn=database).changed == 0
        assert refresh(since=start, dsn=database).changed >= 89
        assert_views_equal(connection, tenant, "meter", asset)
        with pytest.raises(AssertionError):
            assert_views_equal(connection, tenant, "meter", Asset(readings={start: 1.0}))


def test_refresh__clock_that_was_put_back__keeps_versions_in_order(database: str, tenant: str) -> None:
    asset = Asset(readings=series(this_hour() - 4 * DAY, 60))
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        refresh(dsn=database)
        # what the clock said before it was put back by an hour
        connection.execute(
            "UPDATE ai_features_stored SET created_timestamp = now() + INTERVAL '1 hour'"
            " WHERE tenant_id = %s",
            [tenant],
        )
        connection.execute(
            "UPDATE feature_refreshes SET finished_at = now() + INTERVAL '1 hour'"
            " WHERE refresh_id = (SELECT max(refresh_id) FROM feature_refreshes)"
        )
        correction = {this_hour() - 3 * DAY: 1.0}
        asset.readings |= correction
        write(connection, tenant, "meter", correction)
        try:
            assert refresh(dsn=database).changed == 24
            assert_views_equal(connection, tenant, "meter", asset)
        finally:
            connection.execute("DELETE FROM feature_refreshes WHERE finished_at > clock_timestamp()")


def test_refresh__readings_far_from_the_rest__cost_their_own_rows(database: str, tenant: str) -> None:
    start = this_hour() - 3 * DAY
    gap = start - 730 * DAY
    asset = Asset(readings=series(start, 72) | series(gap, 30))
    outliers = [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2090, 5, 1, tzinfo=UTC),
        datetime(9999, 12, 31, tzinfo=UTC),
    ]
    hours = "SELECT count(*) FROM feature_hours"
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        refresh(dsn=database)
        assert_views_equal(connection, tenant, "meter", asset)
        ((axis,),) = rows(connection, hours)
        for at in outliers:
            asset.readings[at] = 5.0
            write(connection, tenant, "meter", {at: 5.0})
            done = refresh(dsn=database)
            assert done.rows <= 25 + 5  # and the hours that others wait for
        ((longer,),) = rows(connection, hours)
        assert longer - axis <= 100
        assert_views_equal(connection, tenant, "meter", asset)
        assert len(stored(connection, tenant)) == 24 + (30 + 23) + 72
        then, known = now(connection), deepcopy(asset)
        del asset.readings[outliers[0]]
        connection.execute(
            'DELETE FROM timeseries_data WHERE tenant_id = %s AND "timestamp" = %s', [tenant, outliers[0]]
        )
        refresh(dsn=database)
        assert_views_equal(connection, tenant, "meter", asset)
        assert_views_equal(connection, tenant, "meter", known, known_at=then)
        assert_settled(connection)


def test_refresh__rows_of_an_older_release_between_periods__end(database: str, tenant: str) -> None:
    start = this_hour() - 40 * DAY
    asset = Asset(readings={start: 1.0, this_hour() - DAY: 2.0})
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        # as the migration finds them: one period, and a row for each of its hours
        connection.execute(
            "UPDATE asset_spans SET periods ="
            " tstzmultirange(tstzrange(first_hour, last_hour + INTERVAL '168 hours', '[]'))"
            " WHERE tenant_id = %s",
            [tenant],
        )
        refresh(dsn=database)
        assert len(stored(connection, tenant)) == 40 * 24
        connection.execute(
            "INSERT INTO feature_changes (source, tenant_id, asset_id, first_hour, last_hour)"
            " SELECT 'periods', tenant_id, asset_id, first_hour, last_hour FROM asset_spans"
            " WHERE tenant_id = %s",
            [tenant],
        )
        refresh(dsn=database)
        assert_views_equal(connection, tenant, "meter", asset)
        assert len(stored(connection, tenant)) == 24 + 24
        assert_settled(connection)


def test_refresh__reading_written_while_its_period_goes__has_its_rows(database: str, tenant: str) -> None:
    start = this_hour() - 20 * DAY
    asset = Asset(readings={start + 2 * HOUR: 3.0, this_hour() - DAY: 2.0})
    forget = (
        "UPDATE asset_spans SET periods = periods - tstzmultirange(tstzrange(NULL, %s)),"
        " first_hour = last_hour WHERE tenant_id = %s"
    )
    with connect(database, autocommit=True) as connection:
        write(connection, tenant, "meter", asset.readings)
        refresh(dsn=database)
        # what a refresh leaves that measured the periods before the writer's transaction had ended
        connection.execute(forget, [this_hour() - 10 * DAY, tenant])
        write(connection, tenant, "meter", {start + 2 * HOUR: 4.0})
        connection.execute(forget, [this_hour() - 10 * DAY, tenant])
        asset.readings[start + 2 * HOUR] = 4.0
        refresh(dsn=database)
        assert_views_equal(connection, tenant, "meter", asset)
        assert_settled(connection)


@pytest.mark.parametrize("days", [-7, -1, 0, 1])
def test_aggregates__of_a_week_that_has_just_begun__are_none(database: str, days: int) -> None:
    """A bulk load makes windows of weeks; the last may begin today, or tomorrow with the next hour."""
    start = midnight() + days * DAY
    with connect(database, autocommit=True) as connection:
        connection.execute("CALL refresh_feature_aggregates(%s, %s, true)", [start, start + 7 * DAY])
