"""Which features answer a request."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, NamedTuple

from ai_hub.errors import BadInputError, NotFoundError
from ai_hub.features.store import feature_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from feast import FeatureService


#: Tag of a view: features of one name in views with the same value of it are the same feature.
MEANING_TAG: Final = "meaning"


class Meaning(NamedTuple):
    """What a name stands for in a feature service."""

    #: the tag of the view, else the view, with its version if the service names one
    origin: str
    #: how the service renames join keys of the view
    join_keys: tuple[tuple[str, str], ...]


#: By name of a feature and by meaning, the services in which it has it, each with the view it comes from.
Meanings = dict[str, dict[Meaning, dict[str, str]]]


def meanings(services: Mapping[str, FeatureService], tags: Mapping[str, str]) -> Meanings:
    """What each name of a feature means in each service; `tags` has the tags `meaning` of views."""
    found: Meanings = {}
    for name, service in services.items():
        for projection in service.feature_view_projections:
            version = getattr(projection, "version_tag", None)
            view = projection.name if version is None else f"{projection.name}@v{version}"
            join_keys = tuple(sorted((projection.join_key_map or {}).items()))
            meaning = Meaning(tags.get(projection.name, view) if version is None else view, join_keys)
            for feature in projection.features:
                found.setdefault(feature.name, {}).setdefault(meaning, {})[name] = view
    return found


def features(
    services: Mapping[str, FeatureService],
    known: Meanings,
    feature_set: str | None,
    names: Sequence[str] | None,
    *,
    default: str,
) -> FeatureService | list[str]:
    """The service that has the features, or for names alone references of them.

    Raises:
        NotFoundError: there is no such set, or it has no such features.
        BadInputError: a name alone means different things in different sets.
    """
    if feature_set is not None or names is None:
        name = feature_set or default
        if (found := services.get(name)) is None:
            raise NotFoundError(f"There is no feature set {name}.", hint=_known("Feature sets", services))
        if unknown := _missing(names or (), feature_names(found)):
            raise _unknown(unknown, feature_names(found), f"Feature set {name} does not have")
        return found
    if unknown := _missing(names, known):
        raise _unknown(unknown, known, "No feature set has")
    wanted = list(dict.fromkeys(names))
    if ambiguous := [name for name in wanted if len(known[name]) > 1]:
        raise _ambiguous(ambiguous, wanted, known)
    views = {name: _views(name, known) for name in wanted}
    # from the set that has most of them, so that few views are read; of equal ones the smallest
    ranked = sorted(
        {each for sets in views.values() for each in sets},
        key=lambda each: (
            -sum(each in sets for sets in views.values()),
            len(feature_names(services[each])),
            each,
        ),
    )
    return [f"{next(sets[each] for each in ranked if each in sets)}:{name}" for name, sets in views.items()]


def _views(name: str, known: Meanings) -> dict[str, str]:
    """The view of a feature that means the same in all services, by service."""
    ((meaning, views),) = known[name].items()
    if meaning.join_keys:
        named = min(views)
        raise BadInputError(
            f"{name} is of other keys in feature set {named}.", hint=f"Name the feature_set: {named}."
        )
    return views


def _ambiguous(ambiguous: Sequence[str], wanted: Sequence[str], known: Meanings) -> BadInputError:
    having = {name: sorted({each for sets in known[name].values() for each in sets}) for name in wanted}
    complete = set.intersection(*map(set, having.values()))
    listed = "; ".join(f"{name} in {', '.join(having[name])}" for name in ambiguous)
    one = "It is" if len(ambiguous) == 1 else "They are"
    hint = (
        f"Name one as feature_set: {', '.join(sorted(complete))}."
        if complete
        else "Name the feature_set, and ask for the features of each set by themselves."
    )
    return BadInputError(f"{one} from different views in different feature sets: {listed}.", hint=hint)


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
