"""The same repository opened with Feast's stock classes and with those that this project ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from feast import FeatureStore, RepoConfig

from ai_hub.settings import feast_redis_connection

JOINS = ("auto", "probe", "range")
_SHIPPED = Path(__file__).resolve().parents[2] / "feature_repo" / "feature_store.yaml"
STOCK: dict[str, Any] = {
    "offline_store": {"type": "postgres"},
    "online_store": {"type": "redis"},
    "batch_engine": {"type": "local"},
}


def shipped() -> dict[str, Any]:
    """Classes that `feature_store.yaml` names; what it leaves out is Feast's own."""
    named = yaml.safe_load(_SHIPPED.read_text())
    return {part: {"type": named.get(part, stock)["type"]} for part, stock in STOCK.items()}


@dataclass(frozen=True)
class Hosts:
    """Where the stores of a test find their servers, as options of Feast."""

    postgres: dict[str, Any]
    redis_url: str
    registry: Path

    def redis_at(self, db: int) -> str:
        """URL of one of Redis's databases; 0 is that of the other tests."""
        return urlsplit(self.redis_url)._replace(path=f"/{db}").geturl()

    def open(
        self,
        classes: dict[str, Any],
        *,
        project: str = "conformance",
        db: int = 1,
        offline: dict[str, Any] | None = None,
        **options: Any,
    ) -> FeatureStore:
        """The project with these classes; its online rows are in Redis's database `db`."""
        config: dict[str, Any] = {
            "project": project,
            "provider": "local",
            "registry": str(self.registry),
            "entity_key_serialization_version": 3,
            "offline_store": classes["offline_store"] | self.postgres | (offline or {}),
            "online_store": classes["online_store"]
            | {"connection_string": feast_redis_connection(self.redis_at(db))},
            "batch_engine": classes["batch_engine"],
        }
        return FeatureStore(config=RepoConfig(**(config | options)))


@dataclass(frozen=True)
class Pair:
    """One repository, twice."""

    stock: FeatureStore
    ours: FeatureStore
    #: ours with each way to join history
    joins: dict[str, FeatureStore]

    @classmethod
    def open(cls, hosts: Hosts, dbs: tuple[int, int], **options: Any) -> Pair:
        """Stock and ours, each with its own of Redis's databases."""
        ours = shipped()
        joins = {
            join: hosts.open(ours, db=dbs[1], offline={"join_strategy": join}, **options) for join in JOINS
        }
        return cls(hosts.open(STOCK, db=dbs[0], **options), joins["auto"], joins)
