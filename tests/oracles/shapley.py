"""Shapley values of trees as their definition says: over all sets of features that may be known."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Node = dict[str, Any]


def shapley_values(model: Node, row: Sequence[float]) -> tuple[float, list[float]]:
    """What is expected when nothing is known, and what each feature adds on average over all orders.

    Args:
        model: of `Booster.dump_model`; numerical splits.
        row: a value a feature.
    """
    trees = [tree["tree_structure"] for tree in model["tree_info"]]
    features = range(len(row))

    def expected(known: tuple[int, ...]) -> float:
        return sum(_expected(tree, row, known) for tree in trees)

    every = {known: expected(known) for size in range(len(row) + 1) for known in combinations(features, size)}
    values = []
    for feature in features:
        others = [each for each in features if each != feature]
        value = 0.0
        for size in range(len(others) + 1):
            share = math.factorial(size) * math.factorial(len(others) - size) / math.factorial(len(row))
            for known in combinations(others, size):
                value += share * (every[tuple(sorted((*known, feature)))] - every[known])
        values.append(value)
    return every[()], values


def _expected(node: Node, row: Sequence[float], known: tuple[int, ...]) -> float:
    """Where a feature is not known both branches count, by how many rows of training took them."""
    if "leaf_value" in node:
        return float(node["leaf_value"])
    left, right = node["left_child"], node["right_child"]
    if node["split_feature"] in known:
        value = row[node["split_feature"]]
        if math.isnan(value) and node["missing_type"] == "None":
            value = 0.0  # training had no missing value
        is_left = node["default_left"] if math.isnan(value) else value <= node["threshold"]
        return _expected(left if is_left else right, row, known)
    sizes = [each.get("internal_count", each.get("leaf_count")) for each in (left, right)]
    means = [_expected(each, row, known) for each in (left, right)]
    return sum(size * mean for size, mean in zip(sizes, means, strict=True)) / sum(sizes)
