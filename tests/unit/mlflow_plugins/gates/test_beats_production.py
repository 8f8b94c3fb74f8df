"""The gate that asks for a comparison with the version in Production."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.comparisons import AT, record, shadow, stand_in
from support.gate_candidates import candidate as candidate_with
from support.gate_candidates import info

from mlflow_plugins.gates.builtin import BeatsProductionGate
from mlflow_plugins.gates.comparison import Record, read_plan, read_record, record_tag, records

if TYPE_CHECKING:
    from mlflow_plugins.gates.gate import Verdict


def verdict(found: Record | str | None, production: int | None = 1, **settings: Any) -> Verdict:
    text = found.model_dump_json() if isinstance(found, Record) else found
    theirs = None if production is None else info(production)
    return BeatsProductionGate(**settings).check(
        candidate_with(comparison=text, find_production=lambda: theirs)
    )


def test_a_challenger_that_errs_less_passes_with_the_comparison_as_evidence() -> None:
    found = verdict(record())
    assert found.passed
    assert found.text == (
        "Over 26 weeks its MAE is 5 % less than that of version 1 "
        "(98% interval of the gain 2.5 to 7.5 %, p = 2e-05)."
    )
    evidence = json.loads(json.dumps(found.evidence, allow_nan=False))
    assert evidence["production_version"] == 1
    assert evidence["comparison"]["interval_percent"] == [2.5, 7.5]
    assert Record.model_validate(evidence["comparison"]) == record()


def test_with_nothing_in_production_there_is_nothing_to_beat() -> None:
    found = verdict(None, production=None)
    assert found.passed
    assert found.evidence == {"production_version": None}


@pytest.mark.parametrize(
    ("changed", "settings", "says"),
    [
        ({"weeks": 25}, {}, "It takes 26 weeks."),
        ({"p": 0.01}, {}, "p is not below 0.01"),
        ({"gain_percent": 1.99}, {}, "It takes a gain of 2 %."),
        ({"gain_percent": -1.0}, {}, "its MAE is 1 % more than that of version 1"),
        ({"groups": {"a": 9.0, "meter b": -5.1}}, {}, "5.1 % more for meter b, and 5 % is allowed."),
        ({}, {"max_group_worse_percent": 3}, "4 % more for meter b"),
        ({}, {"shadow_days": 14}, "compared without days in shadow"),
        ({"shadow": shadow()}, {"shadow_days": 15}, "after 14 days in shadow, and 15"),
        ({"shadow": shadow(shadowed=12)}, {"shadow_days": 14}, "Of 14 live issues it has forecast 12 in"),
        ({"shadow": shadow(issues=0, shadowed=0)}, {"shadow_days": 14}, "Of 0 live issues"),
        ({"shadow": shadow(differing=1)}, {"shadow_days": 14}, "1 of 13 of its forecasts in shadow"),
        ({"shadow": shadow(changed=2)}, {"shadow_days": 14}, "features of 2 are known otherwise"),
        ({"shadow": shadow(replayed=12)}, {"shadow_days": 14}, "of 12 days in shadow were made again"),
    ],
)  # fmt: skip
def test_what_falls_short_is_refused(changed: dict[str, Any], settings: dict[str, Any], says: str) -> None:
    found = verdict(record(**changed), **settings)
    assert not found.passed
    assert says in found.text
    assert "train a better one" in found.text


def test_settings_may_ask_for_less_and_for_days_in_shadow() -> None:
    found = record(weeks=8, p=0.04, gain_percent=0.5, groups={"a": -8.0}, shadow=shadow())
    assert verdict(
        found, weeks=8, max_p=0.05, min_gain_percent=0.5, max_group_worse_percent=8, shadow_days=14
    ).passed


def test_without_a_comparison_the_command_is_named() -> None:
    found = verdict(None, shadow_days=14)
    assert not found.passed
    assert found.text == (
        "It was not compared with version 1 (v1.0.0) in Production. Run `ai-hub compare demand --tenant "
        "city-works --version 2 --weeks 26 --shadow-days 14`."
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *((text, "It cannot be read.") for text in ("", "{}", "no JSON")),
        (record().model_dump_json().replace('"p":0.00002', '"p":null'), "It cannot be read."),
        (record(challenger=stand_in(3)).model_dump_json(), "It is of versions 3 and 1 of demand"),
        (record(production=stand_in(4)).model_dump_json(), "It is of versions 2 and 4 of demand"),
        (record(tenant="other").model_dump_json(), "versions 2 and 1 of demand (tenant other)"),
        (record(model="supply").model_dump_json(), "versions 2 and 1 of supply (tenant city-works)"),
        (record().model_dump_json(exclude={"model"}), "It does not say of which model it is"),
        (record().model_dump_json(exclude={"tenant"}), "It does not say of which model it is"),
    ],
)
def test_what_is_no_comparison_of_these_versions_is_refused(text: str, says: str) -> None:
    found = verdict(text)
    assert not found.passed
    assert says in found.text
    assert "Register the model anew" in found.text
    assert read_plan(text) is None


def test_a_versions_tags_may_have_several_comparisons() -> None:
    later = record(looked_at=AT.replace(year=2027), production=stand_in(3))
    tags = {record_tag(each.production.version): each.model_dump_json() for each in (record(), later)}
    others = {record_tag(9): "x", record_tag(4): record(model="supply").model_dump_json(), "other": "y"}
    assert records({**tags, **others, f"{record_tag(1)}x": "z"}, *later.pair[:3]) == [later, record()]
    assert read_record(tags[record_tag(3)], later.pair) == later
    assert later.facts()["Gain"].startswith("5 % (98% interval of the paired difference 2.5 to 7.5 %)")
