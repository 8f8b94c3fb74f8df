"""Deleting rows of one project, and of no other whose name ends alike."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import _versioned_fv_name

from feast_plugins.online import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from feast import FeatureView, RepoConfig

    from feast_plugins.online.connection import Client

_BATCH = 1000


def delete_entities(client: Client, project: str, join_keys: Iterable[Sequence[str]]) -> int:
    """Delete whatever is stored of entities with these sets of join keys; returns of how many."""
    count = 0
    for names in {tuple(sorted(each)) for each in join_keys}:
        for batch in _batches(client, project, names):
            with client.pipeline(transaction=False) as pipe:
                for key in batch:
                    pipe.unlink(key)
                count += sum(pipe.execute())
    return count


def keys_of_value(
    client: Client, project: str, join_keys: Iterable[Sequence[str]], name: str, value: str
) -> Iterator[bytes]:
    """Keys of the project's entities whose join key `name` has this text; one may come twice."""
    text = value.encode()
    for names in {tuple(sorted(each)) for each in join_keys if name in each}:
        for batch in _batches(client, project, names):
            yield from (key for key in batch if keys.take_apart(key)[0][name] == text)


def delete_of_value(
    client: Client, project: str, join_keys: Iterable[Sequence[str]], name: str, value: str
) -> int:
    """Delete whatever is stored of such entities (see `keys_of_value`); returns of how many."""
    count = 0
    found = keys_of_value(client, project, join_keys, name, value)
    while batch := list(islice(found, _BATCH)):
        with client.pipeline(transaction=False) as pipe:
            for key in batch:
                pipe.unlink(key)
            count += sum(pipe.execute())
    return count


def delete_view(client: Client, config: RepoConfig, view: FeatureView) -> int:
    """Delete the view's rows and leave what others have stored of the same entities; returns how many.

    The last view of an entity takes with it what views left behind that lost a feature: nobody reads it.
    """
    name = _versioned_fv_name(view, config)
    stamp = f"_ts:{name}".encode()
    ours = {stamp} | {_mmh3(f"{name}:{feature.name}") for feature in view.features}
    count = 0
    for batch in _batches(client, config.project, view.join_keys):
        with client.pipeline(transaction=False) as pipe:
            for key in batch:
                pipe.hkeys(key)  # type: ignore[arg-type]  # keys are bytes
            stored = dict(zip(batch, pipe.execute(), strict=True))
        with client.pipeline(transaction=False) as pipe:
            for key, fields in stored.items():
                if stamp in fields:
                    others = any(field.startswith(b"_ts:") and field != stamp for field in fields)
                    # by name, never the whole key: another view may be being written
                    pipe.hdel(key, *(ours if others else fields))  # type: ignore[arg-type]  # the same
                    count += 1
            pipe.execute()
    return count


def _batches(client: Client, project: str, join_keys: Iterable[str]) -> Iterator[list[bytes]]:
    """The project's keys with exactly these join keys; one may come twice."""
    wanted = tuple(sorted(join_keys)), project
    found = client.scan_iter(match=keys.pattern(join_keys, project), count=_BATCH)
    while batch := list(islice(found, _BATCH)):
        if ours := [key for key in batch if _parsed(key) == wanted]:
            yield ours


def _parsed(key: bytes) -> tuple[tuple[str, ...], str] | None:
    try:
        return keys.parse(key)
    except keys.NotOurKeyError:
        return None
