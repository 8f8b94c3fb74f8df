"""How entity rows with certain columns become commands, and where in the replies each feature is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from operator import add
from typing import TYPE_CHECKING, NamedTuple

from feast import utils
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.value_type import ValueType

from feast_plugins.online import keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from feast_plugins.online.entities import EntityColumn
    from feast_plugins.online.plan import Plan, StoredView

(_DUMMY,) = keys.string_parts([DUMMY_ENTITY_VAL.encode()])


@dataclass(frozen=True)
class KeyGroup:
    """Views whose rows are in the same hashes: one HMGET an entity reads them all."""

    #: what precedes the values in each key
    prefix: bytes
    #: column of the values of each join key, in the order of the join keys; None: there is no entity
    columns: list[str | None]
    fields: list[bytes]

    def keys(self, columns: Mapping[str, EntityColumn], count: int, project: bytes) -> Keys:
        """Key of each row."""
        prefix, rows = self.prefix, [b""] * count
        is_first = True
        for name in self.columns:
            parts = [_DUMMY] if name is None else columns[name].parts
            if len(parts) < count and is_first:  # the same in all rows
                prefix += parts[0]
            elif is_first:
                rows, is_first = list(parts), False
            elif len(parts) < count:
                rows = [row + parts[0] for row in rows]
            else:
                rows = list(map(add, rows, parts))
        return Keys(prefix, rows, project)

    @cached_property
    def _around_key(self) -> tuple[bytes, bytes]:
        return (
            b"*%d\r\n$5\r\nHMGET\r\n$" % (2 + len(self.fields)),
            b"\r\n" + b"".join([b"$%d\r\n%b\r\n" % (len(name), name) for name in self.fields]),
        )

    def commands(self, keys: Keys) -> bytes:
        """HMGET of each hash, in the protocol of Redis."""
        head, tail = self._around_key
        tail = keys.suffix + tail
        beside = len(keys.prefix) + len(keys.suffix)
        lengths = set(map(len, keys.rows))
        if len(lengths) == 1:
            head = b"%b%d\r\n%b" % (head, beside + lengths.pop(), keys.prefix)
            return b"%b%b%b" % (head, (tail + head).join(keys.rows), tail)
        middle = b"\r\n" + keys.prefix
        return b"".join([b"%b%d%b%b%b" % (head, beside + len(row), middle, row, tail) for row in keys.rows])


class Keys(NamedTuple):
    """Keys that differ in the middle."""

    prefix: bytes
    rows: list[bytes]
    suffix: bytes


@dataclass(frozen=True, slots=True)
class ViewPlace:
    """Where the replies hold a view: the group of keys, and places in the replies of its hashes."""

    group: int
    features: list[int]
    stamp: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How entity rows with certain columns are read."""

    #: column, join key and type of what is part of keys
    join_keys: list[tuple[str, str, ValueType]]
    #: column and type of inputs of on-demand views
    inputs: list[tuple[str, ValueType]]
    groups: list[KeyGroup]
    views: list[ViewPlace]


def lay_out(plan: Plan, columns: tuple[str, ...]) -> Layout:
    """Sort out what the columns are; others than join keys and inputs are left alone, as Feast does.

    Raises:
        RequestDataNotFoundInEntityRowsException: an on-demand view lacks an input.
        KeyError: a view has none of its join keys.
    """
    inputs = [name for name in columns if name in plan.inputs]
    utils.ensure_request_data_values_exist(plan.inputs, {name: [] for name in inputs})
    known = set(plan.join_keys.values())
    join_keys: dict[str, str] = {}
    for name in columns:
        if name in plan.inputs:
            continue
        if name in known:
            join_keys[name] = name
        elif name in plan.join_keys:
            warnings.warn("Using entity name is deprecated. Use join_key instead.", stacklevel=5)
            join_keys[plan.join_keys[name]] = name
    groups: dict[tuple[tuple[str, str | None], ...], tuple[int, dict[bytes, int]]] = {}
    places = []
    for stored in plan.views:
        used = _key_columns(plan, stored, join_keys)
        number, fields = groups.setdefault(used, (len(groups), {}))
        places.append(
            ViewPlace(
                number,
                [fields.setdefault(name, len(fields)) for name in stored.fields],
                fields.setdefault(stored.stamp_field, len(fields)),
            )
        )
    return Layout(
        [(column, key, plan.kind_of(key)) for key, column in join_keys.items()],
        [(name, plan.kind_of(name)) for name in inputs],
        [
            KeyGroup(keys.prefix([key for key, _ in used]), [column for _, column in used], list(fields))
            for used, (_, fields) in groups.items()
        ],
        places,
    )


def _key_columns(
    plan: Plan, stored: StoredView, join_keys: dict[str, str]
) -> tuple[tuple[str, str | None], ...]:
    """Join key as the view was written with, and the column with its values, sorted by the former."""
    view = stored.view
    alias = view.projection.join_key_map
    found: list[tuple[str, str | None]] = []
    for key in {plan.join_keys[name] for name in view.entities}:
        # the name it goes by in this request, or its own
        column = join_keys.get(alias.get(key, key)) or join_keys.get(key)
        if column is not None or key == DUMMY_ENTITY_ID:
            found.append((key, column))
    if not found:
        # raises what Feast raises
        utils._get_unique_entities(view, {name: [] for name in join_keys}, plan.join_keys)  # noqa: SLF001
    return tuple(sorted(found))
