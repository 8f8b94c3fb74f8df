"""Where in a YAML file something is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator


def line_of(root: yaml.Node | None, path: tuple[str | int, ...]) -> int | None:
    """The line (from 1) of the deepest part of `path` that the file has; None when it has none of it."""
    line = None
    for part in path:
        found = [pair for pair in _pairs(root) if pair[0].value == str(part)]
        if not found:
            break
        key, root = found[-1]
        line = key.start_mark.line + 1
    return line


def repeated_keys(root: yaml.Node | None) -> Iterator[tuple[str, ...]]:
    """Keys that a mapping has more than once, of which YAML would silently take the last."""
    waiting: list[tuple[tuple[str, ...], yaml.Node | None]] = [((), root)]
    # an alias leads to the same node again, even to one it is inside of
    visited: set[int] = set()
    while waiting:
        above, node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        seen = set()
        for key, value in _pairs(node):
            path = (*above, str(key.value))
            if path in seen:
                yield path
            seen.add(path)
            waiting.append((path, value))


def _pairs(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []
