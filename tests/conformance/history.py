"""Requests for history, as data, and what they should give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from conformance.rows import HOUR, LOADS, MARKET, MICROSECOND, PRICES, T0

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pyarrow as pa
    from feast import FeatureStore

FEATURES: dict[str, list[str] | str] = {
    "one": ["load:load"],
    "reversed": ["load:quality", "load:readings", "load:load"],
    "several views": ["load:load", "price:season", "market:index", "load:readings"],
    "without ttl": ["load_ever:load", "load_zero:readings"],
    "query": ["load_good:load"],
    "pushed": ["load_pushed:load"],
    "naive times": ["price_naive:price"],
    "no entity": ["market:index"],
    "unmarked": ["unmarked:load"],
    "pandas": ["scaled:scaled"],
    "python": ["load:quality", "cost:cost", "cost:known"],
    "both on demand": ["scaled:scaled", "cost:known", "price:price"],
    "everything": "everything",
    "projected": "projected",
    "aliased": "aliased",
    "same source twice": ["load:load", "load_ever:readings"],
    "range of types": ["typed:f_integer", "typed:f_texts", "typed:f_timestamptz"],
    "range of views": ["unmarked:load", "load_best:readings", "load_hour:quality"],
    "range on demand": ["unmarked:quality", "doubled:twice"],
    "saved": ["load:quality", "price:price", "market:index"],
    "loop": [
        "load:quality",
        "load:load",
        "load_ever:readings",
        "price:season",
        "price:price",
        "market:index",
    ],
}

_KEYS = [("t1", "1"), ("t1", "2"), ("t2", "1"), ("", ""), ("t1", "nobody"), ("nobody", "1")]
#: Around every row's time, and around its end by each time to live.
_AROUND = [T0 - 5 * HOUR, T0 - 3 * HOUR, T0 - 2 * HOUR, T0 - HOUR, T0, T0 + HOUR, T0 + 2 * HOUR]
TIMES = [at + step for at in _AROUND for step in (-MICROSECOND, 0 * HOUR, MICROSECOND)]


def entities(keys: Sequence[tuple[str, str]], times: Sequence[datetime]) -> pd.DataFrame:
    """Every key at every time, with what on-demand views and aliases ask for, too."""
    asked = [(tenant, asset, at) for at in times for tenant, asset in keys]
    frame = pd.DataFrame(asked, columns=["tenant_id", "asset_id", "event_timestamp"])
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)
    frame["other_tenant"] = ["t2" if tenant == "t1" else "t1" for tenant, *_ in asked]
    frame["factor"] = [float(number % 3) for number in range(len(asked))]
    return frame


def _frames() -> dict[str, pd.DataFrame]:
    full = entities(_KEYS, TIMES)
    few = entities(_KEYS[:3], [T0 - HOUR, T0 + HOUR])
    naive = few.assign(event_timestamp=few["event_timestamp"].dt.tz_localize(None))
    berlin = few.assign(event_timestamp=few["event_timestamp"].dt.tz_convert("Europe/Berlin"))
    extra = few.assign(
        label=[1.5, 2, 3, 4, 5, None], note=["a", None, "c", "d", "e", "f"], flag=[True, False] * 3
    )
    doubled = pd.concat([few, few]).sample(frac=1, random_state=3)
    return {
        "full": full,
        "shuffled": full.sample(frac=1, random_state=1),
        "doubled": doubled,
        "naive": naive,
        "berlin": berlin,
        "extra": extra,
        "seconds": few.assign(event_timestamp=few["event_timestamp"].dt.as_unit("s")),
        "one": few.head(1),
        "columns turned": few[few.columns[::-1]],
        "strangers": entities(_KEYS[4:], [T0]),
        "missing keys": few.assign(tenant_id=["t1", None, "t2", "t1", "t1", "t2"]),
        "missing time": few.assign(event_timestamp=few["event_timestamp"].where(few.index != 2)),
        "times as objects": few.assign(
            event_timestamp=few["event_timestamp"].map(lambda time: time.to_pydatetime()).astype(object)
        ),
        "nanoseconds": few.assign(event_timestamp=few["event_timestamp"] - pd.Timedelta(1, "ns")),
        "another name": few.rename(columns={"event_timestamp": "asked_at"}),
        "other types": few.assign(
            tenant_id=few["tenant_id"].astype("string"),
            label=pd.array([1, None, 2, 3, 4, 5], dtype="Int64"),
            **{"a list %s": [[1, 2]] * 6},
        ),
        "index": few.set_index(pd.Index(list("abcdef"), name="letter")),
    }


#: Frames that lack something.
BROKEN = {
    "without request data": entities(_KEYS[:1], [T0]).drop(columns="factor"),
}
DEVICES = pd.DataFrame({"device_id": [1, 2, 3, 4, 5], "event_timestamp": pd.Timestamp(T0)})


FRAMES = _frames()
#: The same rows as the database gives them.
QUERIES = {
    "query": "SELECT * FROM asked",
    "query with conditions": "SELECT * FROM asked WHERE tenant_id <> 't2' ORDER BY event_timestamp DESC",
}


@dataclass(frozen=True)
class Request:
    """Arguments of `get_historical_features`."""

    features: str
    entities: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, store: FeatureStore) -> pa.Table:
        """The answer."""
        named = FEATURES[self.features]
        features = store.get_feature_service(named) if isinstance(named, str) else named
        frame = None if self.entities is None else (FRAMES | BROKEN | QUERIES)[self.entities]
        return store.get_historical_features(frame, features, **self.options).to_arrow()

    def __str__(self) -> str:
        given = [f"{name}={value}" for name, value in self.options.items()]
        return ", ".join([self.features, self.entities or "range", *given])


def newest(
    table: Sequence[tuple[Any, ...]],
    key: tuple[Any, ...],
    at: datetime,
    ttl: Any,
    *,
    created: bool = False,
    known: bool = False,
) -> tuple[Any, ...] | None:
    """Values of the row that answers: the newest at or before a time, of ties the one created last.

    A row of `table` is its key, its time, the time of creation if `created`, and its values.
    """
    n = len(key)
    found = [
        row
        for row in table
        if row[:n] == key
        and row[n] <= at
        and (not ttl or row[n] >= at - ttl)
        and (not known or row[n + 1] <= at)
    ]
    if not found:
        return None
    return max(found, key=lambda row: row[n : n + 1 + created])[n + 1 + created :]


def expected(feature: str, row: dict[str, Any], *, known: bool = False) -> Any:
    """What a feature of the views `load`, `load_ever`, `price` and `market` is at an entity row, slowly."""
    view, name = feature.split(":")
    at = row["event_timestamp"]
    if view == "price":
        values = newest(PRICES, (row["tenant_id"],), at, 24 * HOUR)
        return values and values[("price", "season").index(name)]
    if view == "market":
        values = newest(MARKET, (), at, 3 * HOUR)
        return values and values[0]
    ttl = 2 * HOUR if view == "load" else None
    key = (row["tenant_id"], row["asset_id"])
    values = newest(LOADS, key, at, ttl, created=True, known=known)
    return values and values[("load", "readings", "quality").index(name)]
