"""Scores of anomalies as their definitions say, one value at a time."""

from __future__ import annotations

import math
import random
from statistics import NormalDist, fmean, quantiles, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def z_scores(reference: Sequence[float], values: Sequence[float]) -> list[float]:
    """Distances from the mean, in standard deviations."""
    mean, std = fmean(reference), stdev(reference)
    return [abs(value - mean) / std for value in values]


def quartile_scores(reference: Sequence[float], values: Sequence[float]) -> list[float]:
    """Standard deviations at which a normal distribution with these quartiles has a value; 0 between them."""
    lower, _, upper = quantiles(reference, n=4, method="inclusive")
    std = (upper - lower) / (2 * NormalDist().inv_cdf(0.75))
    scores = []
    for value in values:
        if lower <= value <= upper:
            scores.append(0.0)
        else:
            near = upper if value > upper else lower
            scores.append(NormalDist().inv_cdf(0.75) + abs(value - near) / std)
    return scores


def above_mean(usual: Sequence[float], measured: Sequence[float]) -> list[float]:
    """How many standard deviations of the usual each is above their mean; 0 below."""
    mean, std = fmean(usual), stdev(usual)
    return [max(0.0, (each - mean) / std) for each in measured]


def local_outlier_factors(
    reference: Sequence[float], values: Sequence[float], neighbours: int
) -> list[float]:
    """Local outlier factor of each value (Breunig et al. 2000), which is not its own neighbour."""

    def nearest(value: float, *, own: bool) -> list[tuple[float, int]]:
        distances = sorted((abs(other - value), index) for index, other in enumerate(reference))
        return distances[1 if own else 0 :][:neighbours]

    reach = [nearest(value, own=True)[-1][0] for value in reference]

    def density(found: list[tuple[float, int]]) -> float:
        return 1 / fmean(max(distance, reach[index]) for distance, index in found)

    densities = [density(nearest(value, own=True)) for value in reference]
    factors = []
    for value in values:
        found = nearest(value, own=value in reference)
        factors.append(fmean(densities[index] for _, index in found) / density(found))
    return factors


def isolations(reference: Sequence[float], values: Sequence[float], *, trees: int, seed: int) -> list[float]:
    """Anomaly score of each value by trees of random cuts (Liu et al. 2008), between 0 and 1."""
    draws = random.Random(seed)  # noqa: S311
    size = min(256, len(reference))
    limit = math.ceil(math.log2(size))
    depths = [0.0] * len(values)

    def unsuccessful(count: int) -> float:
        if count <= 1:
            return 0.0
        return 1.0 if count == 2 else 2 * (math.log(count - 1) + 0.5772156649) - 2 * (count - 1) / count

    def descend(sample: list[float], wanted: list[int], depth: int) -> None:
        if depth >= limit or len(sample) <= 1 or min(sample) == max(sample):
            for index in wanted:
                depths[index] += (depth + unsuccessful(len(sample))) / trees
            return
        cut = draws.uniform(min(sample), max(sample))
        for side in (True, False):
            inside = [index for index in wanted if (values[index] <= cut) == side]
            if inside:
                descend([each for each in sample if (each <= cut) == side], inside, depth + 1)

    for _ in range(trees):
        descend(draws.sample(list(reference), size), list(range(len(values))), 0)
    return [2 ** (-depth / unsuccessful(size)) for depth in depths]
