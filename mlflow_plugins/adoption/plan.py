"""What a model that plain MLflow made becomes: its stages, aliases and semantic versions. No database here.

- In Production stays the version that the alias `production` names; without one, the newest in Production.
- In Staging stays the version that the alias `staging` names; without one, the newest in Staging.
- What else is in Production or Staging is archived, and so is a version without a stage that the alias
  `archived` names. Other versions without a stage stay so: `Staging` is one move away.
- A version keeps the semantic version of its tag; of several with the same, the oldest does, and the others
  get the next free patch. What has none gets the one after those of older versions, as a registration would.
- Versions that this registry knows already stay as they are, and take precedence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mlflow_plugins.lifecycle import rules
from mlflow_plugins.lifecycle.semver import Interface, SemanticVersion, parsed, suggest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: Of a version whose files cannot be read.
_UNKNOWN: Final = Interface(None, None)
_HELD: Final = (rules.PRODUCTION, rules.STAGING)


@dataclass(frozen=True)
class VersionPlan:
    """What becomes of a version; `problem` says why it gets no manifest, and what to do about it."""

    version: int
    from_stage: str
    to_stage: str
    #: the tag before; None when there was none
    from_number: str | None
    number: str
    source: str
    files: int
    size_bytes: int
    problem: str | None
    #: whether it is adopted already, and it lacks only its manifest
    is_known: bool = False


@dataclass(frozen=True)
class ModelPlan:
    """What becomes of a model: its versions by number, and by alias the version before and after."""

    tenant: str
    model: str
    versions: list[VersionPlan]
    aliases: dict[str, tuple[int | None, int | None]]

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return any(not each.is_known or each.problem is None for each in self.versions)


def stages_after(
    stages: Mapping[int, str], aliases: Mapping[str, int], known: Collection[int]
) -> dict[int, str]:
    """The stage of every version.

    Args:
        stages: of all versions, by number.
        aliases: the versions that have one, by alias as it is spelled.
        known: versions that stay as they are.
    """
    kept: dict[str, int | None] = {}
    for stage in _HELD:
        if any(stages[version] == stage for version in known):
            kept[stage] = None
            continue
        named = _named(aliases, stage)
        free = stages.keys() - known - set(kept.values())
        inside = [version for version in free if stages[version] == stage]
        kept[stage] = named if named in free else max(inside, default=None)
    holders = {version: stage for stage, version in kept.items()}
    archived = _named(aliases, rules.ARCHIVED)

    def following(version: int, stage: str) -> str:
        if version in known:
            return stage
        if version in holders:
            return holders[version]
        if stage in _HELD or (stage == rules.NONE and version == archived):
            return rules.ARCHIVED
        return stage

    return {version: following(version, stage) for version, stage in stages.items()}


def aliases_after(
    before: Mapping[str, int], stages: Mapping[int, str], known: Collection[int]
) -> dict[str, int | None]:
    """The version of each alias that stands for a stage, however it is spelled; None where it goes.

    Args:
        before: the versions that have one, by alias.
        stages: of all versions, afterwards.
        known: versions that stay as they are; the others enter their stages after them.
    """
    after: dict[str, int | None] = {}
    for alias in {*rules.ALIAS_STAGES, *before}:
        if (stage := rules.ALIAS_STAGES.get(alias.lower())) is None:
            continue
        inside = [version for version in stages if stages[version] == stage]
        entering = [version for version in inside if version not in known]
        named = _named(before, stage)
        if entering:
            after[alias] = named if named in entering else max(entering)
        else:
            after[alias] = named if named in inside else max(inside, default=None)
    return {alias: version for alias, version in after.items() if alias in before or version is not None}


def entry_order(stages: Mapping[int, str], aliases: Mapping[str, int]) -> list[int]:
    """In which order the versions enter their stages, for the trail: what is in production comes last."""
    archived = _named(aliases, rules.ARCHIVED)
    return sorted(
        stages, key=lambda version: (stages[version] == rules.PRODUCTION, version == archived, version)
    )


def numbers(
    tags: Mapping[int, str | None],
    interfaces: Mapping[int, Interface],
    taken: Mapping[SemanticVersion, tuple[int | None, Interface | None]],
) -> dict[int, SemanticVersion]:
    """A semantic version for each version.

    Args:
        tags: what each has in its tag, by version.
        interfaces: what callers depend on, of versions whose files can be read.
        taken: numbers that are in use in the model: of which version, and what its callers depend on.
    """
    used = dict(taken)
    found: dict[int, SemanticVersion] = {}
    for version in sorted(tags):
        number = parsed(tags[version] or "")
        if number is not None and number not in used:
            found[version] = number
            used[number] = (version, interfaces.get(version))
    for version in sorted(tags.keys() - found.keys()):
        number = parsed(tags[version] or "")
        if number is None:
            older = [each for each, (holder, _) in used.items() if holder is None or holder < version]
            highest = max(older, default=None)
            previous = used[highest][1] if highest else None
            number = suggest(highest, previous, interfaces.get(version) or previous or _UNKNOWN)
        while number in used:
            number = replace(number, patch=number.patch + 1)
        found[version] = number
        used[number] = (version, interfaces.get(version))
    return found


def _named(aliases: Mapping[str, int], stage: str) -> int | None:
    exact = aliases.get(stage.lower())
    others = [version for alias, version in aliases.items() if alias.lower() == stage.lower()]
    return exact if exact is not None else max(others, default=None)
