"""Limits survive Feast's registry, and a check of rows in any parts tells what a loop over them tells."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureView, Field
from feast.types import Float64, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st
from support.declared_views import ENTITIES
from support.properties import examples

from ai_hub.errors import BadInputError
from ai_hub.features.validation import Checker, LimitedField, Violation, limited_fields
from ai_hub.ingest.options import FindingKind
from feast_plugins.errors import DeclarationError
from feast_plugins.windows import Lag, Limits, declared_view

HOUR = timedelta(hours=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
NOW = START + 12 * HOUR


def test_limits__survive_the_registry() -> None:
    limits = Limits(minimum=-0.1, maximum=1e12, null_share=0.25, max_age=1.5 * HOUR, on_violation="refuse")
    view = declared_view(
        name="demand",
        entities=ENTITIES,
        features={"lag": Lag("value", 2 * HOUR), "free": Lag("value", HOUR)},
        limits={"lag": limits},
    )
    back = FeatureView.from_proto(view.to_proto())
    (field,) = limited_fields(back.name, back.features)
    assert field == LimitedField("demand", "lag", limits, 2 * HOUR, is_number=True)


def test_limits__of_an_own_field__are_its_tags() -> None:
    fields = [
        Field(name="speed", dtype=Int64, tags=Limits(minimum=0).tags | {"lookback_hours": "24"}),
        Field(name="code", dtype=String, tags={"null_share": "0"}),
        Field(name="free", dtype=Float64, tags={"owner": "me"}),
    ]
    assert limited_fields("own", fields) == [
        LimitedField("own", "speed", Limits(minimum=0), 24 * HOUR, is_number=True),
        LimitedField("own", "code", Limits(null_share=0), timedelta(0), is_number=False),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"minimum": 2, "maximum": 1}, "minimum of Limits is at most their maximum, not 2 with 1."),
        ({"minimum": math.nan}, "minimum of Limits is a finite number, not nan."),
        ({"maximum": "3"}, "maximum of Limits is a finite number, not '3'."),
        ({"null_share": 5}, "null_share of Limits is from 0 to 1, not 5."),
        ({"max_age": timedelta(0)}, "max_age of Limits is a timedelta above 0"),
        ({"on_violation": "stop"}, "on_violation of Limits is warn or refuse, not 'stop'."),
    ],
)
def test_limits__that_cannot_be__are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Limits(**arguments)


def test_limits__of_no_feature__are_refused() -> None:
    with pytest.raises(DeclarationError, match=r"demand: there are limits of leg, and no such feature\."):
        declared_view(
            name="demand",
            entities=ENTITIES,
            features={"lag": Lag("value", HOUR)},
            limits={"leg": Limits(minimum=0)},
        )


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"minimum": "low"}, "v.x: Tag minimum is a number, not 'low'."),
        ({"max_age_hours": "nan"}, "v.x: Tag max_age_hours is a number of hours, not 'nan'."),
        ({"null_share": "7"}, "v.x: null_share of Limits is from 0 to 1, not 7."),
        ({"minimum": "0", "lookback_hours": "a day"}, "v.x: could not convert string to float: 'a day'"),
    ],
)
def test_tags__that_say_no_limits__are_named(tags: dict[str, str], message: str) -> None:
    with pytest.raises(BadInputError) as error:
        limited_fields("v", [Field(name="x", dtype=Float64, tags=tags)])
    assert error.value.message == message


NUMBERS = st.one_of(st.none(), st.sampled_from([-5.0, -1.0, 0.0, 0.5, 1.0, 7.0, math.inf, -math.inf]))
LIMITS = st.builds(
    Limits,
    minimum=st.sampled_from([None, -1, 0]),
    maximum=st.sampled_from([None, 0.5, 1]),
    null_share=st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]),
    max_age=st.sampled_from([None, HOUR, 3 * HOUR, 24 * HOUR]),
    on_violation=st.sampled_from(["warn", "refuse"]),
)
FIELDS = st.builds(
    lambda limits, lookbacks: [
        LimitedField("view", name, each, hours * HOUR, is_number=True)
        for name, each, hours in zip("ab", limits, lookbacks, strict=True)
    ],
    st.lists(LIMITS, min_size=2, max_size=2),
    st.lists(st.integers(0, 5), min_size=2, max_size=2),
)
# the same asset of two tenants, and names that would meet if they were put together
ENTITY = st.sampled_from([("t", "1"), ("u", "1"), ("t1", "1"), ("t", "11")])
ROWS = st.lists(
    st.tuples(ENTITY, st.integers(0, 12), NUMBERS, NUMBERS), unique_by=lambda row: row[:2], max_size=25
)
Told = dict[tuple[str, str, str, FindingKind], tuple[Any, ...]]


def oracle(fields: list[LimitedField], starts: dict[Any, datetime], rows: list[Any]) -> Told:
    """First and last time, rows, checked rows and the first value of each violation, by a loop."""
    told: Told = {}
    by_entity = defaultdict(list)
    for entity, hours, *values in rows:
        by_entity[entity].append((START + hours * HOUR, values))
    for entity, of_entity in by_entity.items():
        of_entity.sort()
        for at, field in enumerate(fields):
            limits = field.limits
            low = -math.inf if limits.minimum is None else limits.minimum
            high = math.inf if limits.maximum is None else limits.maximum
            values = [(time, each[at]) for time, each in of_entity]
            bad = [
                (time, value)
                for time, value in values
                if value is not None and not (math.isfinite(value) and low <= value <= high)
            ]
            if bad:
                told[*entity, field.name, FindingKind.FEATURE_RANGE] = (
                    *(bad[0][0], bad[-1][0], len(bad), len(values), bad[0][1]),
                )
            begin = starts[entity] + field.lookback if entity in starts else START
            counted = [(time, value) for time, value in values if time >= begin]
            nulls = [time for time, value in counted if value is None]
            if limits.null_share is not None and counted and len(nulls) > limits.null_share * len(counted):
                told[*entity, field.name, FindingKind.FEATURE_NULLS] = (
                    *(nulls[0], nulls[-1], len(nulls), len(counted), None),
                )
            newest = max((time for time, value in values if value is not None), default=START)
            if limits.max_age is not None and NOW - newest > limits.max_age:
                told[*entity, field.name, FindingKind.FEATURE_STALE] = (newest, newest, 1, 1, None)
    return told


def frame(rows: list[Any]) -> pd.DataFrame:
    keys = pd.DataFrame(
        {
            "tenant_id": [tenant for (tenant, _), *_ in rows],
            "asset_id": [asset for (_, asset), *_ in rows],
            "event_timestamp": pd.to_datetime([START + hours * HOUR for _, hours, *_ in rows], utc=True),
        }
    )
    return keys.assign(
        a=np.array([value for *_, value, _ in rows], dtype="float64"),
        b=np.array([value for *_, value in rows], dtype="float64"),
    )


def told_by(violations: list[Violation]) -> Told:
    return {
        (each.tenant, each.entity, each.field.name, each.kind): (
            *(each.first, each.last, each.rows, each.checked, each.example),
        )
        for each in violations
    }


@settings(max_examples=examples(25))
@given(fields=FIELDS, rows=ROWS, begins=st.dictionaries(ENTITY, st.integers(0, 6)), cut=st.integers(0, 25))
def test_checker__tells_what_a_loop_over_the_rows_tells(
    fields: list[LimitedField], rows: list[Any], begins: dict[Any, int], cut: int
) -> None:
    starts = {entity: START + hours * HOUR for entity, hours in begins.items()}
    checker = Checker(fields, starts)
    refused = [
        *(checker.add(frame(part)) for part in (rows[:cut], rows[cut:]) if part),
    ]
    stale, fresh = checker.ages(NOW, dict.fromkeys(checker.newest(), START))
    expected = oracle(fields, starts, rows)
    assert told_by([*checker.ranges(), *checker.nulls(), *stale]) == expected
    assert not {(*key[:2], key[2].removeprefix("view.")) for key in fresh} & {
        key[:3] for key in expected if key[3] is FindingKind.FEATURE_STALE
    }
    for part, mask in zip([part for part in (rows[:cut], rows[cut:]) if part], refused, strict=True):
        for (entity, hours, *values), is_refused in zip(part, mask, strict=True):
            alone = oracle(fields, {}, [(entity, hours, *values)])
            breaks = {
                field.name
                for field in fields
                if field.limits.on_violation == "refuse"
                and (*entity, field.name, FindingKind.FEATURE_RANGE) in alone
            }
            assert is_refused == bool(breaks)
