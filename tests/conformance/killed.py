"""Program of `test_killed.py`: starts jobs, each in a process of its own, and prints the ids of these."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance.history import FRAMES
from conformance.rows import HOUR, T0
from conformance.stores import STOCK, Hosts, shipped

if TYPE_CHECKING:
    from feast import FeatureStore


def history(store: FeatureStore) -> None:
    """A join that waits for the database."""
    store.get_historical_features(FRAMES["one"], ["slow:load"]).to_arrow()


def materialize(store: FeatureStore) -> None:
    """A materialization that does."""
    store.materialize(T0 - 9 * HOUR, T0 + 9 * HOUR, feature_views=["slow"])


def main(postgres: dict[str, Any], redis_url: str, registry: str, db: int) -> None:
    hosts = Hosts(postgres, redis_url, Path(registry))
    jobs = {
        "stock history": (STOCK, history, {}),
        "probe": (shipped(), history, {"join_strategy": "probe"}),
        "range": (shipped(), history, {"join_strategy": "range"}),
        "materialize": (shipped(), materialize, {}),
    }
    started = {}
    for name, (classes, work, offline) in jobs.items():
        started[name] = os.fork()
        if not started[name]:
            work(hosts.open(classes, db=db, offline=offline))
            return
    print(json.dumps(started), flush=True)  # noqa: T201  # for the test
    for _ in started:
        os.wait()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
