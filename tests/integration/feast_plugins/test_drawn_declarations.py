"""Any declaration, by every way in which people read: history, as known at, Feast's SDK, REST and exports."""

from __future__ import annotations

import secrets
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd
from feast import FeatureService
from feast.aggregation import Aggregation
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oracles.declared import DAY, Oracle
from oracles.features import HOUR, Asset, Issue
from support.declared_views import ENTITIES, fill, same
from support.export_lab import ExportLab
from support.feature_reading import Clock, ask, run
from support.feature_tables import now, write, write_series
from support.properties import examples

from ai_hub.db import connect
from ai_hub.db.refresh import refresh
from ai_hub.features.materialize import materialize
from ai_hub.features.newest import Scope
from ai_hub.features.store import open_store
from ai_hub.settings import Settings
from feast_plugins.windows import (
    AssetAttribute,
    Calendar,
    Difference,
    Holiday,
    Lag,
    Ratio,
    SameHour,
    Series,
    declared_view,
)
from feast_plugins.windows.database import allow_losses
from feast_plugins.windows.declarations import declaration_of
from feast_plugins.windows.features import FUNCTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from support.energy import Energy

    from ai_hub.features.online.reader import FeatureReader

KEYS = {"tenant_id", "asset_id", "event_timestamp", "created_timestamp"}
ATTRIBUTES = {"capacity": 12.5}


def features_of(step: timedelta) -> st.SearchStrategy[Any]:
    """Features of readings and prices, and of the register."""
    steps = st.sampled_from([1, 2, 5] if step == DAY else [1, 4, 24, 60]).map(step.__mul__)
    columns, functions = st.sampled_from(["value", "price@price_zone"]), st.sampled_from(FUNCTIONS)
    leaves = st.one_of(
        st.builds(Lag, columns, steps),
        st.builds(Aggregation, columns, functions, steps, st.just(step)),
        st.builds(SameHour, columns, functions, st.integers(1, 4)),
        st.just(Series("price", by="price_zone")),
    )
    stored = leaves | st.builds(Difference, leaves, leaves) | st.builds(Ratio, leaves, leaves)
    registered = st.sampled_from([Calendar("hour_of_day"), AssetAttribute("capacity"), Holiday("DE")])
    return st.tuples(st.lists(stored, min_size=2, max_size=5), st.lists(registered, max_size=2)).map(
        lambda parts: {f"f{at}": each for at, each in enumerate([*parts[0], *parts[1]])}
    )


DECLARATIONS = st.sampled_from([HOUR / 4, HOUR / 2, HOUR, DAY]).flatmap(
    lambda step: st.tuples(st.just(step), features_of(step))
)
#: Before the present hour, in five minutes.
AGES = st.integers(1, 12 * 120).map(lambda number: number * timedelta(minutes=5))
READINGS = st.dictionaries(AGES, st.floats(-1e3, 1e3, allow_subnormal=False), min_size=5, max_size=60)
ISSUES = st.dictionaries(
    st.tuples(AGES, st.integers(-30, 5)), st.floats(-1e3, 1e3, allow_subnormal=False), max_size=20
)


class Doors:
    """What is read of an asset must be what the oracle says."""

    def __init__(self, service: str, view: Any, tenant: str, asset: Asset, store_settings: Settings) -> None:
        declaration = declaration_of(view)
        assert declaration is not None
        self.service, self.view, self.tenant, self.asset = service, view, tenant, asset
        self.settings, self.declaration = store_settings, declaration

    def rows(self) -> list[datetime]:
        return self.oracle().rows(datetime.now(UTC))

    def oracle(self, asset: Asset | None = None) -> Oracle:
        known = asset or self.asset
        return Oracle(known, datetime.now(UTC), ATTRIBUTES, self.declaration.step)

    def expected(self, time: datetime, asset: Asset | None = None) -> tuple[datetime | None, dict[str, Any]]:
        """The newest row at a time, if it is within the view's time to live."""
        oracle, features = self.oracle(asset), self.declaration.as_json()
        newest = max((row for row in oracle.rows(datetime.now(UTC)) if row <= time), default=None)
        if newest is None or time - newest > self.view.ttl:
            return None, dict.fromkeys(features)
        return newest, oracle.row(newest, features)

    def check(self, row: dict[str, Any], time: datetime, asset: Asset | None = None) -> None:
        _, expected = self.expected(time, asset)
        values = {name: None if pd.isna(row[name]) else row[name] for name in expected}
        wrong = {
            name: (value, expected[name])
            for name, value in values.items()
            if not same(value, expected[name], 1e3)
        }
        assert not wrong, time

    def history(self, times: list[datetime], asset: Asset | None = None, **options: Any) -> None:
        store = open_store(self.settings, **options)
        entities = pd.DataFrame(
            {
                "tenant_id": self.tenant,
                "asset_id": "meter",
                "event_timestamp": pd.to_datetime(times, utc=True),
            }
        )
        rows = store.get_historical_features(entities, store.get_feature_service(self.service)).to_df()
        for row in rows.to_dict("records"):
            self.check(row, row["event_timestamp"].to_pydatetime(), asset)

    def sdk(self) -> None:
        store, asked = open_store(self.settings), datetime.now(UTC)
        answer = store.get_online_features(
            store.get_feature_service(self.service), [{"tenant_id": self.tenant, "asset_id": "meter"}]
        ).to_dict()
        self.check({name: values[0] for name, values in answer.items()}, asked)

    async def rest(self, reader: FeatureReader, time: datetime | None, present: datetime) -> None:
        (result,) = await ask(reader, self.tenant, "meter", feature_set=self.service, timestamp=time)
        row, _ = self.expected(time or present)
        self.check(result["features"], time or present)
        if row is not None:
            assert result["event_timestamp"] == row

    def export(self, energy: Energy, folder: Path) -> None:
        lab = ExportLab(energy, self.settings, folder)
        hours = 200
        table = lab.table(lab.export(lab.request(hours=hours, tenant=self.tenant, feature_set=self.service)))
        lab.forget()
        first = energy.now - hours * HOUR
        assert table.column("event_timestamp").to_pylist() == [
            row for row in self.rows() if first <= row < energy.now
        ]
        for row in table.to_pylist():
            self.check(row, row["event_timestamp"])


@settings(
    max_examples=examples(1),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    declaration=DECLARATIONS,
    zone=st.sampled_from(["Europe/Berlin", "Asia/Kolkata", "Atlantic/Azores"]),
    first=READINGS,
    late=READINGS,
    other=READINGS,
    prices=ISSUES,
    deleted=st.sets(st.integers(0, 60), max_size=5),
)
def test_any_declaration__history_online_rest_and_export__equal_the_oracle(
    energy: Energy,
    tmp_path: Path,
    declaration: tuple[timedelta, dict[str, Any]],
    zone: str,
    first: dict[timedelta, float],
    late: dict[timedelta, float],
    other: dict[timedelta, float],
    prices: dict[Any, float],
    deleted: set[int],
) -> None:
    unique, present = secrets.token_hex(4), energy.now
    step, features = declaration
    folder = tmp_path / unique
    own = Settings(feast_registry_uri=f"sqlite:///{tmp_path}/{unique}.db", export_storage_path=str(folder))
    view = declared_view(name=f"drawn_{unique}", entities=ENTITIES, features=features, step=step)
    service, store = FeatureService(name=f"s_{unique}", features=[view]), open_store(own)
    mine, theirs = Asset(zone), Asset("UTC")
    tenants = {f"t-{unique}": mine, f"t-{unique}-x": theirs}
    mine.readings = {present - age: value for age, value in first.items()}
    theirs.readings = {present - age: value + 1e5 for age, value in other.items()}
    mine.series["price@price_zone"] = [
        Issue(present - age, present - age + lead * HOUR, value) for (age, lead), value in prices.items()
    ]
    doors = [Doors(service.name, view, tenant, asset, own) for tenant, asset in tenants.items()]
    store.apply([*ENTITIES, view, service])
    with connect(autocommit=True) as connection:
        connection.execute(
            "INSERT INTO declared_spans SELECT %s, tenant_id, asset_id, '{(,)}' FROM asset_spans", [view.name]
        )
        for tenant, asset in tenants.items():
            connection.execute(
                "INSERT INTO assets (tenant_id, asset_id, timezone, capacity, price_zone)"
                " VALUES (%s, 'meter', %s, 12.5, 'NL')",
                [tenant, asset.zone],
            )
            write(connection, tenant, "meter", asset.readings)
        write_series(connection, f"t-{unique}", "price", "NL", mine.series["price@price_zone"])
        fill(connection, doors[0].declaration)
        refresh()
        then, known = now(connection), deepcopy(mine)
        gone = [time for at, time in enumerate(sorted(mine.readings)) if at in deleted]
        mine.readings |= {present - age: value for age, value in late.items()}
        write(connection, f"t-{unique}", "meter", mine.readings)
        mine.readings = {time: value for time, value in mine.readings.items() if time not in gone}
        connection.execute(
            'DELETE FROM timeseries_data WHERE tenant_id = %s AND "timestamp" = ANY (%s)',
            [f"t-{unique}", gone],
        )
        refresh()
    materialize(store, Scope(tenants=list(tenants)))
    times = [present - hours * HOUR - timedelta(minutes=7) for hours in range(0, 150, 5)]
    try:
        for each in doors:
            each.history([*each.rows()[-150:], *times])
            each.sdk()
            each.export(energy, folder)
        doors[0].history(times, known, known_at=then)

        async def read(reader: FeatureReader) -> None:
            for each in doors:
                await each.rest(reader, None, clock.time)
                for time in times[::6]:
                    await each.rest(reader, time, clock.time)

        clock = Clock(datetime.now(UTC))
        run(read, clock, feast_registry_uri=own.feast_registry_uri)
    finally:
        with allow_losses():
            store.apply([], objects_to_delete=[service, view], partial=False)
