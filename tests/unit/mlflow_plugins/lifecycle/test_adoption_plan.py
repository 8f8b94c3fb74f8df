"""What an adoption makes of stages, aliases and semantic versions, whatever they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_plugins.adoption import plan
from mlflow_plugins.lifecycle.semver import Interface, SemanticVersion

STAGES = ("None", "Staging", "Production", "Archived")
ALIASES = ("production", "Production", "staging", "STAGING", "archived", "champion")
VERSIONS = range(1, 7)
ONE, TWO = Interface("one", None), Interface("two", None)


@pytest.mark.parametrize(
    ("stages", "aliases", "after"),
    [
        ("PPSS", {}, "APAS"),  # the newest
        ("PPSS", {"production": 1, "staging": 3}, "PASA"),  # the one an alias names
        ("NPNA", {"production": 1}, "PANA"),  # wherever it is
        ("PSNN", {"production": 2, "staging": 2}, "APNN"),  # in one stage, and that is Production
        ("NNNN", {"archived": 2, "champion": 3}, "NANN"),  # other aliases are people's
        ("PPNN", {"Production": 1}, "PANN"),  # however it is spelled
        ("PPNN", {"Production": 1, "production": 2}, "APNN"),  # but this is the stage's own name
        ("NNNN", {}, "NNNN"),
    ],
)
def test_stages_after__by_the_documented_rule(stages: str, aliases: dict[str, int], after: str) -> None:
    assert plan.stages_after(_stages(stages), aliases, set()) == _stages(after)


def test_stages_after__what_is_known__stays_and_comes_first() -> None:
    assert plan.stages_after(_stages("PSSPS"), {"production": 4}, {1, 2, 3}) == _stages("PSSAA")


@given(
    stages=st.lists(st.sampled_from(STAGES), min_size=6, max_size=6),
    aliases=st.dictionaries(st.sampled_from(ALIASES), st.sampled_from(VERSIONS)),
    known=st.sets(st.sampled_from(VERSIONS)),
)
def test_stages_and_aliases_after__are_one_state__and_stay_so(
    stages: list[str], aliases: dict[str, int], known: set[int]
) -> None:
    before = dict(zip(VERSIONS, stages, strict=True))
    # what this registry knows has one version in production at most
    in_production = [version for version in known if before[version] == "Production"]
    known -= set(in_production[1:])
    after = plan.stages_after(before, aliases, known)
    holders = plan.aliases_after(aliases, after, known)
    assert list(after.values()).count("Production") <= 1
    staged = [version for version in VERSIONS if after[version] == "Staging"]
    assert len(staged) <= 1 or set(staged) <= known
    assert {version: after[version] for version in known} == {version: before[version] for version in known}
    for stage in STAGES[1:]:
        holder = holders.get(stage.lower())
        assert (holder is not None) == (stage in after.values())
        assert holder is None or after[holder] == stage
    for alias, holder in holders.items():
        assert holder == holders.get(alias.lower())
    assert "champion" not in holders
    again = {alias: version for alias, version in (aliases | holders).items() if version is not None}
    assert plan.stages_after(after, again, set(VERSIONS)) == after
    assert sorted(plan.entry_order(after, aliases)) == list(VERSIONS)


@pytest.mark.parametrize(
    ("tags", "numbers"),
    [
        ((None, None), "1.0.0 1.0.1"),
        (("1.0.0", "v1.0.0", "1.0.0"), "1.0.0 1.0.1 1.0.2"),
        (("1.0.0", "1.0.0", "1.0.1"), "1.0.0 1.0.2 1.0.1"),
        (("2024-05", "2.0.0", ""), "1.0.0 2.0.0 2.0.1"),
        ((None, "1.0.0"), "1.0.1 1.0.0"),
    ],
)
def test_numbers__keep_tags_and_are_unique(tags: tuple[str | None, ...], numbers: str) -> None:
    found = plan.numbers(dict(enumerate(tags, 1)), dict.fromkeys(VERSIONS, ONE), {})
    assert list(map(str, dict(sorted(found.items())).values())) == [f"v{each}" for each in numbers.split()]


def test_numbers__follow_the_interface_where_it_is_known() -> None:
    found = plan.numbers(dict.fromkeys((1, 2, 3, 4)), {1: ONE, 2: TWO, 4: TWO}, {})
    assert [str(found[version]) for version in (1, 2, 3)] == ["v1.0.0", "v2.0.0", "v2.0.1"]


@given(
    tags=st.lists(st.sampled_from((None, "1.0.0", "v1.0.1", "2.0.0", "x")), min_size=6, max_size=6),
    done=st.integers(0, 6),
)
def test_numbers__are_the_same_after_a_kill(tags: list[str | None], done: int) -> None:
    wanted = dict(zip(VERSIONS, tags, strict=True))
    whole = plan.numbers(wanted, {}, {})
    assert len(set(whole.values())) == len(VERSIONS)
    taken: dict[SemanticVersion, tuple[int | None, Interface | None]] = {
        whole[version]: (version, None) for version in VERSIONS if version <= done
    }
    rest = plan.numbers({version: tag for version, tag in wanted.items() if version > done}, {}, taken)
    assert rest == {version: number for version, number in whole.items() if version > done}


def _stages(letters: str) -> dict[int, str]:
    names = {stage[0]: stage for stage in STAGES}
    return {number: names[letter] for number, letter in enumerate(letters, 1)}
