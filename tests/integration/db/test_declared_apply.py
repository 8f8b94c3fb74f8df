# ruff: noqa: E501, S608 - SQL as it is sent
"""Declared views are made, changed and dropped; what was known stays known."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from oracles.features import HOUR, Asset, Weather, floor_hour
from support.declared_views import applied, apply, declare, differences, fill, is_pending
from support.feature_tables import now, write, write_weather

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from feast_plugins.errors import DeclarationError, DeclarationLossError
from feast_plugins.windows import (
    Calendar,
    Lag,
)
from feast_plugins.windows import (
    Weather as WeatherOf,
)
from feast_plugins.windows import (
    database as declared,
)
from feast_plugins.windows.declarations import Declaration
from feast_plugins.windows.features import expression_of


def test_apply__changed_declaration__keeps_what_was_known(database: str, tenant: str) -> None:
    name = f"changed_{secrets.token_hex(4)}"
    before = declare(name, {"lag": Lag("value", HOUR), "old": Lag("value", 3 * HOUR)})
    after = declare(name, {"lag": Lag("value", 2 * HOUR), "new": Lag("value", 24 * HOUR)})
    start = floor_hour(datetime.now(UTC)) - timedelta(hours=60)
    asset = Asset("UTC", {start + step * HOUR: float(step) for step in range(60)})
    with connect(database, autocommit=True) as connection, applied(connection, before):
        write(connection, tenant, "meter", asset.readings)
        fill(connection, before)
        refresh(dsn=database)
        then = now(connection)
        changes = declared.changes(connection, "declared_tests", [after])
        with pytest.raises(DeclarationLossError, match=r"\.old with its values"):
            declared.apply(connection, "declared_tests", changes)
        assert list(differences(connection, before, tenant, "meter", asset)) == []
        (change,) = apply(connection, after)
        assert change.action == "alter"
        assert apply(connection, after) == []
        # computed when they are read, then stored; what the first meant is no longer known
        assert list(differences(connection, after, tenant, "meter", asset)) == []
        changed_at = now(connection)
        fill(connection, after)
        refresh(dsn=database)
        assert list(differences(connection, after, tenant, "meter", asset)) == []
        assert list(differences(connection, after, tenant, "meter", asset, known_at=now(connection))) == []
        lag_only = declare(name, {"lag": Lag("value", HOUR)})
        assert list(differences(connection, lag_only, tenant, "meter", asset, known_at=then)) == []
        query = f"SELECT count(*) FROM {name}_versions WHERE tenant_id = %(t)s AND created_timestamp <= %(at)s AND (superseded_at IS NULL OR superseded_at > %(at)s)"
        assert connection.execute(query.encode(), {"t": tenant, "at": changed_at}).fetchone() == (0,)


def test_apply__changed_twice_before_a_backfill__each_is_known_until_its_end(
    database: str, tenant: str
) -> None:
    name = f"twice_{secrets.token_hex(4)}"
    start = floor_hour(datetime.now(UTC)) - timedelta(hours=30)
    query = f"SELECT count(*), count(*) FILTER (WHERE lag = %(lag)s) FROM {name}_versions WHERE tenant_id = %(tenant)s AND event_timestamp = %(hour)s AND created_timestamp <= %(at)s AND (superseded_at IS NULL OR superseded_at > %(at)s)".encode()
    first, second, third = (declare(name, {"lag": Lag("value", hours * HOUR)}) for hours in (1, 2, 3))
    with connect(database, autocommit=True) as connection, applied(connection, first):
        write(connection, tenant, "meter", {start + step * HOUR: float(step) for step in range(30)})

        def known(at: datetime, lag: float) -> Any:
            values = {"tenant": tenant, "hour": start + 10 * HOUR, "at": at, "lag": lag}
            return connection.execute(query, values).fetchone()

        fill(connection, first)
        refresh(dsn=database)
        of_first = now(connection)
        apply(connection, second)
        of_second = now(connection)
        apply(connection, third)
        for is_filled in (False, True):
            if is_filled:
                fill(connection, third)
                refresh(dsn=database)
            assert known(of_first, 9.0) == (1, 1)
            assert known(of_second, 9.0) == (0, 0), "nothing of the second was ever stored"
        assert known(now(connection), 7.0) == (1, 1)


def test_apply__another_feature_beside_old_weather__keeps_its_values(database: str, tenant: str) -> None:
    name = f"old_{secrets.token_hex(4)}"
    features: dict[str, Any] = {"warm": WeatherOf("temperature"), "cold": Lag("temperature", HOUR)}
    start = floor_hour(datetime.now(UTC)) - timedelta(days=400)
    query = f"SELECT warm, cold FROM {name} WHERE tenant_id = %s AND event_timestamp = %s".encode()
    before, after = declare(name, features), declare(name, {**features, "lag": Lag("value", HOUR)})
    last = declare(name, {**features, "cold": Lag("temperature", 2 * HOUR)})
    with connect(database, autocommit=True) as connection, applied(connection, before):
        write(connection, tenant, "meter", {start + step * HOUR: float(step) for step in range(5)})
        write_weather(connection, tenant, "meter", [Weather(start, start, 21.5)])
        fill(connection, before)
        refresh(dsn=database)
        connection.execute("DELETE FROM weather_features WHERE tenant_id = %s", [tenant])
        found = []
        for declaration in (after, last):
            apply(connection, declaration)
            fill(connection, declaration)
            refresh(dsn=database)
            found.append(connection.execute(query, [tenant, start + 3 * HOUR]).fetchone())
    assert found == [(21.5, 21.5), (21.5, None)]


def test_apply__plan_of_yesterday__is_refused(database: str) -> None:
    name = f"stale_{secrets.token_hex(4)}"
    first, second = (declare(name, {"lag": Lag("value", hours * HOUR)}) for hours in (1, 2))
    with connect(database, autocommit=True) as connection:
        stale = declared.changes(connection, "declared_tests", [second])
        with applied(connection, first):
            with pytest.raises(DeclarationError, match="changed by somebody else just now"):
                declared.apply(connection, "declared_tests", stale)
            assert declared.changes(connection, "declared_tests", [first]) == []


def test_apply__clock_set_back__rows_can_still_be_ended(database: str, tenant: str) -> None:
    name = f"clock_{secrets.token_hex(4)}"
    before, after = (declare(name, {"lag": Lag("value", hours * HOUR)}) for hours in (1, 2))
    start = floor_hour(datetime.now(UTC)) - timedelta(hours=30)
    with connect(database, autocommit=True) as connection, applied(connection, before):
        write(connection, tenant, "meter", {start + step * HOUR: float(step) for step in range(30)})
        fill(connection, before)
        refresh(dsn=database)
        connection.execute(
            f"UPDATE {name}_stored SET created_timestamp = created_timestamp + INTERVAL '1 day'".encode()
        )
        write(connection, tenant, "meter", {start + 5 * HOUR: 50.0})
        connection.execute(
            'DELETE FROM timeseries_data WHERE tenant_id = %s AND "timestamp" < %s', [tenant, start + HOUR]
        )
        refresh(dsn=database)
        assert not is_pending(connection, before)
        query = f"SELECT count(*) FROM {name}_stored WHERE superseded_at IS NOT NULL".encode()
        assert connection.execute(query).fetchone() == (2,)
        apply(connection, after)
        fill(connection, after)
        refresh(dsn=database)
        assert not is_pending(connection, after)


def test_apply__served_versions__are_served_again_and_end_with_the_view(database: str) -> None:
    name = f"served_{secrets.token_hex(4)}"
    before, after = (declare(name, {"lag": Lag("value", hours * HOUR)}) for hours in (1, 2))
    with connect(database, autocommit=True) as connection:
        with applied(connection, before):
            for suffix in ("_versions", "_stored"):
                connection.execute("SELECT tenant_wall.serve(%s, false)", [name + suffix])
            apply(connection, after)
            for suffix in ("", "_versions", "_stored"):
                connection.execute(f"SELECT lag FROM tenant_wall.{name}{suffix}".encode())
        query = "SELECT count(*) FROM served_relations WHERE relation LIKE %s"
        assert connection.execute(query, [f"{name}%"]).fetchone() == (0,)


def test_apply__name_of_another_relation__is_refused(database: str) -> None:
    with connect(database, autocommit=True) as connection:
        with pytest.raises(DeclarationError, match="another relation assets"):
            declared.changes(connection, "p", [declare("assets", {"lag": Lag("value", HOUR)})])
        declaration = declare(f"of_one_{secrets.token_hex(4)}", {"lag": Lag("value", HOUR)})
        other = declare(declaration.name, {"lag": Lag("value", 2 * HOUR)})
        with applied(connection, declaration):
            assert declared.changes(connection, "p", [declaration]) == []  # alike
            with pytest.raises(DeclarationError, match="declared by the project declared_tests"):
                declared.changes(connection, "p", [other])


def test_apply__view_of_a_user_on_it__stays_or_is_named(database: str) -> None:
    declaration = declare(f"used_{secrets.token_hex(4)}", {"lag": Lag("value", HOUR)})
    more = declare(declaration.name, {"more": Lag("value", HOUR), "lag": Lag("value", 2 * HOUR)})
    other = declare(declaration.name, {"other": Lag("value", HOUR)})
    with connect(database, autocommit=True) as connection, applied(connection, declaration):
        user = f"{declaration.name}_of_user"
        connection.execute(f"CREATE VIEW {user} AS SELECT lag FROM {declaration.name}".encode())
        apply(connection, more)
        assert connection.execute("SELECT to_regclass(%s)", [user]).fetchone() == (user,)
        with pytest.raises(DeclarationError, match=user):
            apply(connection, other)
        assert declared.changes(connection, "declared_tests", [more]) == []
        connection.execute(f"DROP VIEW {user}".encode())
        apply(connection, other)
        assert declared.changes(connection, "declared_tests", [other]) == []


def test_apply__view_of_ours_that_a_project_has_changed__is_given_back_and_others_may_declare_less(
    database: str,
) -> None:
    placed = "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'ai_features'::regclass AND attnum > 4"
    with connect(database) as connection:
        ((columns, declaration),) = connection.execute(
            f"SELECT ({placed}), declaration FROM declared_views WHERE view_name = 'ai_features'".encode()
        ).fetchall()
        stock = Declaration("ai_features", {name: expression_of(each) for name, each in declaration.items()})
        assert declared.changes(connection, "one", [stock]) == [], "in whatever order"
        more = Declaration("ai_features", {"day_of_year": Calendar("day_of_year"), **stock.features})
        declared.apply(connection, "one", declared.changes(connection, "one", [more]))
        assert connection.execute(placed).fetchone() == ([*columns, "day_of_year"],)
        assert declared.changes(connection, "one", [more]) == []
        for project in ("one", "other"):
            assert declared.changes(connection, project, [stock]) == [], "all of it is there, and stays"
        lag = Declaration("ai_features", {**stock.features, "lag_1h": Lag("value", 2 * HOUR)})
        with pytest.raises(DeclarationError, match="by the project one, differently in lag_1h;"):
            declared.changes(connection, "other", [lag])
        # by `feast teardown` and `feast projects delete`
        gone = declared.changes(connection, "one", [], removed=["ai_features"])
        declared.announce(connection, "one", gone)
        declared.apply(connection, "one", gone)
        assert declared.changes(connection, "one", []) == []
        connection.execute("SELECT lag_1h, day_of_year FROM ai_features LIMIT 1")
        assert declared.changes(connection, "other", [stock]) == []
        (change,) = declared.changes(connection, "other", [lag])
        assert change.action == "alter"
        connection.rollback()  # for other tests


def test_apply__another_step__computes_anew_and_keeps_what_was_known(database: str, tenant: str) -> None:
    name = f"step_{secrets.token_hex(4)}"
    hours, halves = (declare(name, {"lag": Lag("value", HOUR)}, step) for step in (HOUR, HOUR / 2))
    start = floor_hour(datetime.now(UTC)) - timedelta(hours=30)
    meter = Asset("UTC", {start + at * HOUR / 2: float(at) for at in range(20)})
    query = "SELECT to_regclass('public.quarter_hour_features') IS NOT NULL"
    with connect(database, autocommit=True) as connection, applied(connection, hours):
        write(connection, tenant, "meter", meter.readings)
        fill(connection, hours)
        refresh(dsn=database)
        then = now(connection)
        (change,) = apply(connection, halves)
        assert "rows every 1h become rows every 30min" in str(change)
        assert connection.execute(query).fetchone() == (True,)
        fill(connection, halves)
        refresh(dsn=database)
        assert list(differences(connection, halves, tenant, "meter", meter)) == []
        assert list(differences(connection, hours, tenant, "meter", meter, known_at=then)) == []
        (progress,) = [each for each in declared.progress(connection) if each.view == name]
        assert progress.rows == progress.stored > 0
    with connect(database) as connection:
        assert connection.execute(query).fetchone() == (False,), "nobody else pays for it"
