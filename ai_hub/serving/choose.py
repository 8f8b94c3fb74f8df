"""Which feature services answer a request."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import combinations
from typing import TYPE_CHECKING

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.features.store import feature_names, feature_references

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from feast import FeatureService

#: More services than this for one request are no request of a model.
_MOST_TOGETHER = 3


def features(
    services: Mapping[str, FeatureService],
    feature_set: str | None,
    names: Sequence[str] | None,
    *,
    default: str,
) -> FeatureService | list[str]:
    """The service that has the features, or references of them where no single one does.

    Names alone are looked for in as few services as possible, and of those in the smallest.

    Raises:
        NotFoundError: there is no such set, or it has no such features.
    """
    if feature_set is not None or names is None:
        name = feature_set or default
        if (found := services.get(name)) is None:
            raise NotFoundError(f"There is no feature set {name}.", hint=_known("Feature sets", services))
        if unknown := _missing(names or (), feature_names(found)):
            raise _unknown(unknown, feature_names(found), f"Feature set {name} does not have")
        return found
    every = {name: set(feature_names(service)) for name, service in services.items()}
    if unknown := _missing(names, set().union(*every.values())):
        raise _unknown(unknown, set().union(*every.values()), "No feature set has")
    chosen = _fewest(every, set(names))
    if len(chosen) == 1:
        return services[chosen[0]]
    places: dict[str, str] = {}
    for service in chosen:
        for reference in feature_references(services[service]):
            places.setdefault(reference.partition(":")[2], reference)
    return [places[name] for name in dict.fromkeys(names)]


def _fewest(every: Mapping[str, set[str]], wanted: set[str]) -> tuple[str, ...]:
    ordered = sorted(every, key=lambda name: (len(every[name]), name))
    for count in range(1, _MOST_TOGETHER + 1):
        for chosen in combinations(ordered, count):
            if wanted <= set().union(*(every[name] for name in chosen)):
                return chosen
    raise BadInputError(
        f"These features lie in more than {_MOST_TOGETHER} feature sets.", hint="Ask for fewer at once."
    )


def _missing(names: Iterable[str], known: Iterable[str]) -> list[str]:
    there = set(known)
    return [name for name in dict.fromkeys(names) if name not in there]


def _unknown(names: Sequence[str], known: Iterable[str], who: str) -> NotFoundError:
    near = {match for name in names for match in get_close_matches(name, list(known), n=2)}
    hint = f"Did you mean {', '.join(sorted(near))}?" if near else _known("There are", known)
    return NotFoundError(f"{who} {', '.join(names)}.", hint=hint)


def _known(title: str, names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names))
    return f"{title}: {listed}." if listed else "None is registered yet: run `feast apply`."
