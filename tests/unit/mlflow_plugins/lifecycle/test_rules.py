"""The whole transition table, cell by cell."""

from __future__ import annotations

from itertools import product

import pytest

from mlflow_plugins.lifecycle import rules
from mlflow_plugins.lifecycle.rules import ARCHIVED, NONE, PRODUCTION, STAGING

STAGES = (NONE, STAGING, PRODUCTION, ARCHIVED)
PAIRS = list(product(STAGES, STAGES))
#: Written out again on purpose, so that a change of the rules has to be made twice.
ALLOWED = {
    (NONE, STAGING),
    (NONE, ARCHIVED),
    (STAGING, PRODUCTION),
    (STAGING, ARCHIVED),
    (PRODUCTION, ARCHIVED),
    (ARCHIVED, STAGING),
}


@pytest.mark.parametrize(("current", "target"), PAIRS)
def test_refusal__of_a_version_never_in_production(current: str, target: str) -> None:
    refusal = rules.refusal(current, target, was_in_production=False)
    assert (refusal is None) == ((current, target) in ALLOWED)


@pytest.mark.parametrize(("current", "target"), PAIRS)
def test_refusal__of_a_former_production_version__also_allows_rollback(current: str, target: str) -> None:
    refusal = rules.refusal(current, target, was_in_production=True)
    assert (refusal is None) == ((current, target) in ALLOWED | {(ARCHIVED, PRODUCTION)})


@pytest.mark.parametrize(("current", "target"), PAIRS)
def test_refusal__names_a_stage_that_is_allowed(current: str, target: str) -> None:
    refusal = rules.refusal(current, target, was_in_production=False)
    if refusal is not None:
        ways_out = {after for before, after in ALLOWED if before == current}
        assert any(stage in refusal.split(". ", 1)[-1] for stage in ways_out)


def test_refusal__of_an_unknown_stage__is_a_refusal() -> None:
    assert rules.refusal("Retired", PRODUCTION, was_in_production=True)
    assert rules.refusal(STAGING, "Retired", was_in_production=True)


@pytest.mark.parametrize("stage", STAGES)
def test_refusal_to_delete__lets_only_archived_ones_go(stage: str) -> None:
    assert (rules.refusal_to_delete(stage) is None) == (stage == ARCHIVED)


def test_alias_stages__cover_the_life() -> None:
    assert set(rules.ALIAS_STAGES.values()) == {STAGING, PRODUCTION, ARCHIVED}
    assert all(alias == stage.lower() for alias, stage in rules.ALIAS_STAGES.items())
