"""What is written: Feast's bytes, the newest row of an entity, and keys that live long enough."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from feast import Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import String
from support.online_repo import RECENT, Pair, view

if TYPE_CHECKING:
    from datetime import datetime


HOUR = timedelta(hours=1)
DAY_S = 86_400


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, connection: str) -> tuple[Pair, Pair]:
    """Two projects with the same views, so that one can be written by Feast's store and one by ours."""
    made = []
    for _ in range(2):
        pair = Pair.open(tmp_path_factory.mktemp("writing"), connection, key_ttl_seconds=DAY_S)
        pair.apply(view("a"), view("b", [Field(name="b", dtype=String)]), view("slow", ttl=timedelta(days=7)))
        made.append(pair)
    return made[0], made[1]


@pytest.fixture
def pair(pairs: tuple[Pair, Pair]) -> Pair:
    return pairs[0]


def row(asset: str, **values: Any) -> dict[str, Any]:
    return {"tenant_id": "t", "asset_id": asset, **values}


def stored(pair: Pair) -> dict[bytes, dict[bytes, bytes]]:
    """Hashes of the pair's project by their key without it."""
    store = pair.ours.provider.online_store
    client = store._get_client(pair.ours.config.online_store)
    project = pair.ours.project.encode()
    return {key.removesuffix(project): client.hgetall(key) for key in client.scan_iter(b"*" + project)}


def life_s(pair: Pair, asset: str) -> int:
    client = pair.ours.provider.online_store._get_client(pair.ours.config.online_store)
    (key,) = [item for item in client.scan_iter(b"*" + pair.ours.project.encode()) if asset.encode() in item]
    return int(client.ttl(key))


def value(pair: Pair, asset: str, feature: str = "a:a") -> Any:
    return pair.ours.get_online_features([feature], [row(asset)]).to_dict()[feature[0]][0]


def test_bytes__are_feasts(pairs: tuple[Pair, Pair]) -> None:
    ours, stock = pairs
    rows = {
        "a": [row("1", a=0.5), row("2", a=None), row("ä\x00", a=-1.0, at=RECENT - HOUR)],
        "b": [row("1", b="x"), row("", b="")],
    }
    for name, given in rows.items():
        ours.write(ours.ours, name, given)
        stock.write(stock.stock, name, given)
    actual, expected = stored(ours), stored(stock)
    assert actual == expected
    assert [list(item) for item in actual.values()] == [list(expected[key]) for key in actual]


@pytest.mark.parametrize("is_async", [False, True])
def test_rows__the_newest_stays_and_the_last_of_the_same_time(pair: Pair, is_async: bool) -> None:
    asset = f"newest-{is_async}"
    progress: list[int] = []

    def write(*rows: tuple[float, datetime]) -> None:
        store = pair.ours.provider.online_store
        key = EntityKey(
            join_keys=["tenant_id", "asset_id"],
            entity_values=[Value(string_val="t"), Value(string_val=asset)],
        )
        data = [(key, {"a": Value(double_val=number)}, at, None) for number, at in rows]
        config, table = pair.ours.config, pair.ours.get_feature_view("a")
        if is_async:

            async def run() -> None:
                await store.online_write_batch_async(config, table, data, progress.append)
                await store.close()

            asyncio.run(run())
        else:
            store.online_write_batch(config, table, data, progress.append)

    write((1.0, RECENT), (2.0, RECENT), (3.0, RECENT - HOUR))
    assert value(pair, asset) == 2.0
    write((4.0, RECENT - HOUR))
    assert value(pair, asset) == 2.0
    write((5.0, RECENT))  # a correction
    assert value(pair, asset) == 5.0
    write((6.0, (RECENT + HOUR).replace(tzinfo=None)), (7.0, RECENT))  # no zone: UTC
    assert value(pair, asset) == 6.0
    assert sum(progress) == 7


def test_rows__without_looking_at_what_is_stored(tmp_path_factory: Any, connection: str) -> None:
    pair = Pair.open(tmp_path_factory.mktemp("blind"), connection, skip_dedup=True)
    pair.apply(view("a"))
    pair.write(pair.ours, "a", [row("1", a=1.0)])
    pair.write(pair.ours, "a", [row("1", a=2.0, at=RECENT - HOUR)])
    assert value(pair, "1") == 2.0


def test_keys__live_as_long_as_the_view_that_lives_longest(pair: Pair) -> None:
    pair.write(pair.ours, "a", [row("lives", a=1.0)])
    assert DAY_S - 60 < life_s(pair, "lives") <= DAY_S
    pair.write(pair.ours, "slow", [row("lives", slow=1.0)])
    assert 7 * DAY_S - 60 < life_s(pair, "lives") <= 7 * DAY_S
    pair.write(pair.ours, "a", [row("lives", a=2.0, at=RECENT + HOUR)])
    assert life_s(pair, "lives") > 6 * DAY_S, "Feast's own store would cut it to a day"
    # an older row that is not stored does not extend its life
    client = pair.ours.provider.online_store._get_client(pair.ours.config.online_store)
    (key,) = [item for item in client.scan_iter() if b"lives" in item and pair.ours.project.encode() in item]
    client.expire(key, 5)
    pair.write(pair.ours, "a", [row("lives", a=3.0, at=RECENT - HOUR)])
    assert client.ttl(key) <= 5


def test_rows__many__go_in_batches(pair: Pair) -> None:
    pair.write(pair.ours, "a", [row(f"many-{number}", a=float(number)) for number in range(2100)])
    actual = pair.ours.get_online_features(["a:a"], [row(f"many-{number}") for number in range(2100)])
    assert actual.to_dict()["a"] == [float(number) for number in range(2100)]
