"""Long ranges of declared rows are computed in columns: killed, beside other work, with odd values."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feast.aggregation import Aggregation
from oracles.features import HOUR, Asset, Weather, floor_hour
from support.declared_views import applied, apply, declare, differences, fill, is_pending
from support.feature_tables import now, write, write_weather

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from feast_plugins.windows import Difference, Lag, history
from feast_plugins.windows import Weather as WeatherOf

if TYPE_CHECKING:
    import psycopg

    from feast_plugins.windows.declarations import Declaration

FEATURES = {
    "lag": Lag("value", 2 * HOUR),
    "mean": Aggregation("value", "mean", 5 * HOUR, HOUR),
    "std": Aggregation("value", "std", 24 * HOUR, HOUR),
    "rise": Difference(Lag("value", HOUR), Lag("value", 24 * HOUR)),
    "temperature": WeatherOf("temperature"),
}
HOURS = 90


def meters(
    connection: psycopg.Connection, tenant: str, names: tuple[str, ...] = ("a", "b", "c")
) -> dict[str, Asset]:
    """Meters with readings of some days, with a gap, and weather of every third hour."""
    start = floor_hour(datetime.now(UTC)) - timedelta(days=20)
    found = {}
    for number, name in enumerate(names):
        readings = {
            start + step * HOUR: 100 * number + (step * 37 % 11) ** 1.5
            for step in range(HOURS)
            if not 40 <= step < 44
        }
        weather = [
            Weather(start + step * HOUR, start + (step - 1) * HOUR, float(step))
            for step in range(0, HOURS, 3)
        ]
        found[name] = Asset("UTC", readings, weather)
        write(connection, tenant, name, readings)
        write_weather(connection, tenant, name, weather)
    return found


def problems(
    connection: psycopg.Connection, declaration: Declaration, tenant: str, assets: dict[str, Asset]
) -> list[str]:
    return [
        problem
        for name, asset in assets.items()
        for problem in differences(connection, declaration, tenant, name, asset)
    ]


def counts(connection: psycopg.Connection, declaration: Declaration) -> tuple[int, int]:
    """Versions that are stored, and those of them that have ended."""
    query = f"SELECT count(*), count(superseded_at) FROM {declaration.name}_stored"  # noqa: S608  # a constant
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0], row[1]


def leave_out_others(connection: psycopg.Connection, view: str, tenant: str) -> None:
    """Rows of other tests' tenants count as stored, also after the declaration has changed."""
    connection.execute(
        "INSERT INTO declared_spans SELECT %s, tenant_id, asset_id, '{(,)}' FROM asset_spans"
        " WHERE tenant_id <> %s ON CONFLICT DO NOTHING",
        [view, tenant],
    )


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is of one asset."""
    monkeypatch.setattr(history, "POSITIONS", 10)


def test_backfill__killed_in_a_batch__goes_on(
    database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declaration = declare(f"killed_{secrets.token_hex(4)}", FEATURES)
    batches = []
    in_columns = history._in_columns

    def killed_in_the_second(*arguments: Any, **options: Any) -> tuple[int, int]:
        changed = in_columns(*arguments, **options)
        batches.append(changed)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return changed

    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        assets = meters(connection, tenant)
        expected = sum(len(asset.hours(floor_hour(datetime.now(UTC)))) for asset in assets.values())
        fill(connection, declaration)
        monkeypatch.setattr(history, "_in_columns", killed_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            refresh(dsn=database)
        monkeypatch.setattr(history, "_in_columns", in_columns)
        assert counts(connection, declaration)[0] < expected
        assert is_pending(connection, declaration)
        assert problems(connection, declaration, tenant, assets) == []
        refresh(dsn=database)
        assert not is_pending(connection, declaration)
        assert counts(connection, declaration) == (expected, 0)
        assert problems(connection, declaration, tenant, assets) == []


def test_backfill__readings_come_between_batches__another_refresh_stores_them_meanwhile(
    database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declaration = declare(f"beside_{secrets.token_hex(4)}", FEATURES)
    compute_batch = history.compute_batch
    done: list[datetime] = []

    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        assets = meters(connection, tenant)
        reading = max(assets["a"].readings) + HOUR

        def beside_others(of: psycopg.Connection, kind: str, *rest: Any, **options: Any) -> tuple[int, int]:
            found = compute_batch(of, kind, *rest, **options)
            if kind == history.HISTORY and not done:
                done.append(reading)
                # what the batch has stored, what it has not, and a row more
                for asset, hour in (("a", reading), ("a", reading - 50 * HOUR), ("b", reading - 20 * HOUR)):
                    assets[asset].readings[hour] = 77.0
                    write(connection, tenant, asset, {hour: 77.0})
                refresh(dsn=database)
                assert problems(connection, declaration, tenant, assets) == []
            return found

        fill(connection, declaration)
        monkeypatch.setattr(history, "compute_batch", beside_others)
        refresh(dsn=database)
        assert done
        assert not is_pending(connection, declaration)
        assert problems(connection, declaration, tenant, assets) == []
        stored, ended = counts(connection, declaration)
        rows = sum(len(asset.hours(floor_hour(datetime.now(UTC)))) for asset in assets.values())
        assert stored - ended == rows


def test_backfill__one_asset_fails_and_one_is_left_to_the_server__all_others_are_stored(
    database: str, tenant: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "POSITIONS", 100_000)  # all in one batch
    declaration = declare(f"huge_{secrets.token_hex(4)}", FEATURES)
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        connection.execute(f"ALTER TABLE {declaration.name}_stored ADD CHECK (asset_id <> 'c')".encode())
        assets = meters(connection, tenant)
        # so large that squares of other ones might be no doubles
        assets["b"].readings[min(assets["b"].readings) + 7 * HOUR] = -1e120
        write(connection, tenant, "b", assets["b"].readings)
        fill(connection, declaration)
        refresh(dsn=database)
        assert f"rows of {declaration.name} are not stored: tenant {tenant}, asset c" in caplog.text
        others = {name: asset for name, asset in assets.items() if name != "c"}
        expected = sum(len(asset.hours(floor_hour(datetime.now(UTC)))) for asset in others.values())
        assert counts(connection, declaration) == (expected, 0)
        assert problems(connection, declaration, tenant, assets) == []


def test_backfill__row_is_computed_by_the_server_later__gets_no_new_version(
    database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declaration = declare(f"same_{secrets.token_hex(4)}", FEATURES)
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        assets = meters(connection, tenant)
        fill(connection, declaration)
        refresh(dsn=database)
        before = counts(connection, declaration)
        monkeypatch.setattr(history, "knows", lambda _: False)
        # the same values come again, as a file that is ingested twice
        for name, asset in assets.items():
            write(connection, tenant, name, asset.readings)
        assert refresh(dsn=database).rows > before[0]
        assert counts(connection, declaration) == before


def test_backfill__another_feature__is_one_bulk_write_and_earlier_rows_stay_known(
    database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"more_{secrets.token_hex(4)}"
    before, after = declare(name, FEATURES), declare(name, {**FEATURES, "lag_48h": Lag("value", 48 * HOUR)})
    with connect(database, autocommit=True) as connection, applied(connection, before):
        assets = meters(connection, tenant)
        fill(connection, before)
        refresh(dsn=database)
        rows, _ = counts(connection, before)
        then = now(connection)
        apply(connection, after)
        leave_out_others(connection, name, tenant)
        fill(connection, after)
        monkeypatch.setattr(history, "_BY_SERVER", "SELECT not_left_to_the_server()")
        refresh(dsn=database)
        assert counts(connection, after) == (2 * rows, 0)
        # a correction meets rows of both generations
        corrected = min(assets["a"].readings) + 10 * HOUR
        known = {"a": Asset("UTC", dict(assets["a"].readings), assets["a"].weather)}
        assets["a"].readings[corrected] = -5.0
        write(connection, tenant, "a", {corrected: -5.0})
        refresh(dsn=database)
        assert problems(connection, after, tenant, assets) == []
        assert list(differences(connection, before, tenant, "a", known["a"], known_at=then)) == []


def test_backfill__weather_that_may_be_gone__is_not_counted(
    database: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"gone_{secrets.token_hex(4)}"
    features = {"count": Aggregation("temperature", "count", 3 * HOUR, HOUR), "lag": Lag("value", HOUR)}
    declarations = declare(name, features), declare(name, {**features, "lag_2h": Lag("value", 2 * HOUR)})
    start = floor_hour(datetime.now(UTC)) - timedelta(days=400)
    readings = {start + step * HOUR: float(step) for step in range(5)}
    weather = [Weather(start + step * HOUR, start, float(step)) for step in range(5)]
    monkeypatch.setattr(history, "_BY_SERVER", "SELECT not_left_to_the_server()")
    with connect(database, autocommit=True) as connection, applied(connection, declarations[0]):
        write(connection, tenant, "a", readings)
        write_weather(connection, tenant, "a", weather)
        for declaration in declarations:  # by COPY, and beside earlier rows
            apply(connection, declaration)
            leave_out_others(connection, name, tenant)
            fill(connection, declaration)
            refresh(dsn=database)
            assert problems(connection, declaration, tenant, {"a": Asset("UTC", readings, weather)}) == []
